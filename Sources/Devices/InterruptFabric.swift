// SPDX-License-Identifier: Apache-2.0
// The wires and messages between PIC, IOAPIC and local APICs. Spec: Intel SDM volume 3, sections 11.6 and 11.11.

public import Bus
public import GuestMemory
public import Hypervisor

/// One interrupt on its way to local APICs.
public struct InterruptMessage: Equatable, Sendable {
    /// What the receiver does with it.
    public enum Delivery: UInt8, Sendable {
        case fixed = 0
        case lowestPriority = 1
        case systemManagement = 2  // SMI
        case reserved = 3
        case nonMaskable = 4  // NMI
        case initialize = 5  // INIT
        case startup = 6  // SIPI
        case external = 7  // ExtINT

        /// From a three-bit field.
        init(bits: UInt8) {
            self = Delivery(rawValue: bits & 7) ?? .reserved
        }
    }

    public var vector: UInt8
    public var delivery: Delivery
    /// A local APIC's id, or a logical destination; 0xff is everyone.
    public var destination: UInt8
    public var isLogical: Bool
    public var isLevelTriggered: Bool
    /// For INIT: not the de-assertion that only old processors heed.
    public var isAsserted = true

    public init(
        vector: UInt8, delivery: Delivery, destination: UInt8, isLogical: Bool = false, isLevelTriggered: Bool = false,
        isAsserted: Bool = true
    ) {
        self.vector = vector
        self.delivery = delivery
        self.destination = destination
        self.isLogical = isLogical
        self.isLevelTriggered = isLevelTriggered
        self.isAsserted = isAsserted
    }

    /// The message as a device would write it to memory.
    var words: InterruptMessageWords {
        InterruptMessageWords(
            address: 0xfee0_0000 | UInt64(destination) << 12 | (isLogical ? 4 : 0),
            data: UInt32(vector) | UInt32(delivery.rawValue) << 8 | (isAsserted ? 1 << 14 : 0)
                | (isLevelTriggered ? 1 << 15 : 0))
    }

    /// A message-signalled interrupt: what a device writes, and where; nil when it goes elsewhere.
    public init?(address: GuestPhysicalAddress, data: UInt32) {
        guard address.rawValue >> 20 == 0xfee else { return nil }
        self.init(
            vector: UInt8(truncatingIfNeeded: data), delivery: .init(bits: UInt8(data >> 8 & 7)),
            destination: UInt8(address.rawValue >> 12 & 0xff), isLogical: address.rawValue & 4 != 0,
            isLevelTriggered: data & 1 << 15 != 0, isAsserted: data & 1 << 15 == 0 || data & 1 << 14 != 0)
    }
}

/// Connects the interrupt controllers. Interrupt lines of devices end here.
public final class InterruptFabric: InterruptController, BackendInterruptsPlatform {
    /// The receivers beside the sender, as bits 19 and 18 of the interrupt command register have it.
    enum Shorthand: UInt8 {
        case none = 0
        case me = 1
        case all = 2
        case others = 3
    }

    /// The timer's ISA interrupt arrives at this line of the IOAPIC: input 2 of the PICs is the cascade.
    public static let timerLine = 2

    /// Where the local APICs are, when they are not `localAPICs`.
    let backend: (any BackendInterrupts)?
    private(set) var localAPICs: [LocalAPIC] = []
    private(set) var ioapic: IOAPIC?
    private(set) var pic: InterruptController8259?

    init(backend: (any BackendInterrupts)? = nil) {
        self.backend = backend
        backend?.platform = self
    }

    func connect(localAPICs: [LocalAPIC], ioapic: IOAPIC, pic: InterruptController8259) {
        self.localAPICs = localAPICs
        self.ioapic = ioapic
        self.pic = pic
    }

    /// Sets global system interrupt `line`: it goes to the IOAPIC, and to the PICs when it is one of ISA's.
    public func setLine(_ line: Int, asserted: Bool) {
        ioapic?.setLine(line == 0 ? Self.timerLine : line, asserted: asserted)
        if line < 16 { pic?.setLine(line, asserted: asserted) }
    }

    /// Delivers a message of a device or the IOAPIC. Returns whether anybody took it.
    @discardableResult public func deliver(_ message: InterruptMessage) -> Bool {
        if let backend {
            let words = message.words
            return backend.deliver(address: words.address, data: words.data)
        }
        return send(message, shorthand: .none, from: nil)
    }

    @discardableResult func send(_ message: InterruptMessage, shorthand: Shorthand, from sender: LocalAPIC?) -> Bool {
        if message.delivery == .lowestPriority { return sendToLowest(message, shorthand: shorthand, from: sender) }
        var taken = false
        for apic in localAPICs where isReceiver(apic, of: message, shorthand: shorthand, from: sender) {
            if apic.receive(message) { taken = true }
        }
        return taken
    }

    private func sendToLowest(_ message: InterruptMessage, shorthand: Shorthand, from sender: LocalAPIC?) -> Bool {
        var lowest: LocalAPIC?
        for apic in localAPICs
        where apic.isSoftwareEnabled && isReceiver(apic, of: message, shorthand: shorthand, from: sender) {
            if let current = lowest, current.processorPriority <= apic.processorPriority { continue }
            lowest = apic
        }
        return lowest?.receive(message) ?? false
    }

    private func isReceiver(
        _ apic: LocalAPIC, of message: InterruptMessage, shorthand: Shorthand, from sender: LocalAPIC?
    ) -> Bool {
        switch shorthand {
        case .none: apic.isAddressed(by: message)
        case .me: apic === sender
        case .all: true
        case .others: apic !== sender
        }
    }

    /// A local APIC finished a level-triggered interrupt.
    public func endOfInterrupt(vector: UInt8) { ioapic?.endOfInterrupt(vector: vector) }

    /// The PICs' output is wired to LINT0 of every local APIC.
    func setExternalLine(_ asserted: Bool) {
        backend?.setExternalLine(asserted)
        for apic in localAPICs { apic.setLocalInterrupt0(asserted) }
    }

    /// The vector of the PICs for a processor that takes their interrupt.
    public func acknowledgeExternal() -> UInt8? { pic?.acknowledge() }

    /// After a restore: the wires carry what their drivers say, without anybody seeing an edge.
    func synchronize() {
        backend?.setExternalLine(pic?.output ?? false)
        for apic in localAPICs { apic.synchronizeLocalInterrupt0(pic?.output ?? false) }
    }
}
