// SPDX-License-Identifier: Apache-2.0
// Tells the guest that it is a copy. Spec: Microsoft, Virtual Machine Generation ID (2012).

public import Bus
public import GuestMemory
public import Snapshot

/// The generation id: 16 bytes in reserved guest memory that change whenever the machine is restored.
public final class VMGenerationID: PlatformDevice {
    // MARK: State

    public struct State: Codable, Equatable, Sendable {
        /// 16 bytes.
        public var identifier: [UInt8]

        public init(identifier: [UInt8]) { self.identifier = identifier }
    }

    public static let size = 16

    /// What is behind the id, for guests whose ACPI tables note there that a driver has asked where the id is.
    enum Inquiry {
        static let offset: UInt64 = 16
        static let none: UInt8 = 1
        static let made: UInt8 = 2
    }

    public let layerName = "generation"
    private let memory: GuestMemory
    private let address: GuestPhysicalAddress
    private let interrupt: InterruptLine
    public private(set) var identifier: [UInt8]

    /// The id lies at `address`, which the ACPI tables name; `interrupt` is a line of the generic event device.
    public init(memory: GuestMemory, address: GuestPhysicalAddress, interrupt: InterruptLine) {
        self.memory = memory
        self.address = address
        self.interrupt = interrupt
        identifier = Self.random()
    }

    private static func random() -> [UInt8] { (0..<size).map { _ in UInt8.random(in: .min ... .max) } }

    // MARK: Guest access

    /// Writes the id to guest memory: before the first instruction, and after a reset. No driver has asked for it yet.
    public func install() throws(GuestMemoryError) { try memory.write(identifier + [Inquiry.none], at: address) }

    // MARK: Host events

    /// Gives the guest a new random id and tells it so: after a restore, before the first guest instruction. A guest
    /// without a driver for it is not told: finding that out takes its ACPI interpreter a fifth of a copy's first command.
    public func regenerate() throws(GuestMemoryError) {
        identifier = Self.random()
        try memory.write(identifier, at: address)
        if try memory.read(at: address + Inquiry.offset, count: 1) != [Inquiry.none] { interrupt.pulse() }
    }

    // MARK: Save and restore

    /// The id outlives a reset: the machine is the same.
    public func reset() {}

    public func saveState() -> State { State(identifier: identifier) }

    public func validate(_ state: State) throws(SnapshotError) {
        try check(state.identifier.count == Self.size, "identifier", state.identifier.count, "\(Self.size) bytes")
    }

    /// Guest memory is a layer of its own and has the id already.
    public func assign(_ state: State) { identifier = state.identifier }
}
