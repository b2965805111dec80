// SPDX-License-Identifier: Apache-2.0
// A driver as a guest has one: it negotiates, lends buffers in split rings, and looks at what comes back.

import Bus
import GuestMemory
import Snapshot
import Virtio

/// Remembers the level of one line.
final class TestInterrupts: InterruptController {
    private(set) var isAsserted = false
    /// Times that the line went up.
    private(set) var edges = 0

    func setLine(_ line: Int, asserted: Bool) {
        if asserted && !isAsserted { edges += 1 }
        isAsserted = asserted
    }
}

/// A descriptor as it stands in memory. Spec: virtio 1.2 §2.7.5.
struct TestDescriptor {
    static let next: UInt16 = 1
    static let write: UInt16 = 2
    static let indirect: UInt16 = 4

    var address: UInt64
    var length: UInt32
    var flags: UInt16 = 0
    var next: UInt16 = 0
}

/// A device on its transport in 8 MiB of memory, and a driver for it.
final class GuestDriver<Device: VirtioDevice> {
    enum Register: UInt64 {
        case magic = 0, version = 4, deviceID = 8, vendorID = 0xc
        case deviceFeatures = 0x10, deviceFeaturesSelect = 0x14, driverFeatures = 0x20, driverFeaturesSelect = 0x24
        case queueSelect = 0x30, queueSizeMax = 0x34, queueSize = 0x38, queueReady = 0x44, queueNotify = 0x50
        case interruptStatus = 0x60, interruptAcknowledge = 0x64, status = 0x70
        case descriptors = 0x80, driver = 0x90, device = 0xa0
        case generation = 0xfc, configuration = 0x100
    }

    static var needsReset: UInt32 { 0x40 }
    static var memorySize: UInt64 { 8 << 20 }
    /// Where the rings of a queue are, 64 KiB for each queue; buffers start at 4 MiB.
    static func ring(_ queue: Int) -> UInt64 { 0x10_0000 + UInt64(queue) << 16 }
    static var data: UInt64 { 4 << 20 }

    let memory: GuestMemory
    private(set) var interrupts = TestInterrupts()
    private(set) var transport: MMIOTransport<Device>
    let size: UInt16
    var usesEventIndex = false
    /// By queue: what was made available, and what was seen used.
    private(set) var available: [UInt16]
    private(set) var seen: [UInt16]

    init(_ device: Device, size: UInt16 = 16, memory: GuestMemory? = nil) throws {
        self.memory = try memory ?? GuestMemory(size: Self.memorySize)
        self.size = size
        transport = MMIOTransport(
            device, name: "device", memory: self.memory, interrupt: InterruptLine(interrupts, 5))
        available = Array(repeating: 0, count: device.queueSizes.count)
        seen = available
    }

    /// Puts another device in the place of this one, in the state that this one has.
    func replace(by device: Device) throws(SnapshotError) {
        let state = transport.saveState()
        let interrupts = TestInterrupts()
        let other = MMIOTransport(device, name: "device", memory: memory, interrupt: InterruptLine(interrupts, 5))
        try other.prepare(state)()
        other.synchronizeInterrupt()
        self.interrupts = interrupts
        transport = other
    }

    // MARK: Registers

    func read(_ register: Register) -> UInt32 {
        UInt32(truncatingIfNeeded: transport.read(offset: register.rawValue, width: .doubleWord))
    }

    func write(_ register: Register, _ value: UInt32) {
        transport.write(UInt64(value), offset: register.rawValue, width: .doubleWord)
    }

    func write(_ register: Register, address: UInt64) {
        transport.write(address & 0xffff_ffff, offset: register.rawValue, width: .doubleWord)
        transport.write(address >> 32, offset: register.rawValue + 4, width: .doubleWord)
    }

    var status: UInt32 { read(.status) }
    var isBroken: Bool { status & Self.needsReset != 0 }

    // MARK: Start

    /// Reset, negotiation of everything that is offered, all queues, DRIVER_OK.
    func start(eventIndex: Bool = false) {
        negotiate(eventIndex: eventIndex)
        for queue in available.indices { setUp(queue) }
        write(.status, 0xf)
    }

    func negotiate(eventIndex: Bool = false) {
        write(.status, 0)
        write(.status, 1)
        write(.status, 3)
        usesEventIndex = eventIndex
        for half in 0..<2 as Range<UInt32> {
            write(.deviceFeaturesSelect, half)
            var features = read(.deviceFeatures)
            if half == 0, !eventIndex { features &= ~(1 << 29) }
            write(.driverFeaturesSelect, half)
            write(.driverFeatures, features)
        }
        write(.status, 0xb)
    }

    func setUp(_ queue: Int) {
        let ring = Self.ring(queue)
        for offset in stride(from: UInt64(0), to: 0x1_0000, by: 8) {
            try? memory.store(UInt64(0), at: GuestPhysicalAddress(ring + offset))
        }
        write(.queueSelect, UInt32(queue))
        write(.queueSize, UInt32(size))
        write(.descriptors, address: ring)
        write(.driver, address: ring + 0x4000)
        write(.device, address: ring + 0x8000)
        write(.queueReady, 1)
        available[queue] = 0
        seen[queue] = 0
    }

    // MARK: Rings

    func store<Value: FixedWidthInteger & BitwiseCopyable>(_ value: Value, at address: UInt64) {
        try? memory.store(value, at: GuestPhysicalAddress(address))
    }

    func load<Value: FixedWidthInteger & BitwiseCopyable>(_ type: Value.Type, at address: UInt64) -> Value {
        (try? memory.load(type, at: GuestPhysicalAddress(address))) ?? 0
    }

    func put(_ descriptor: TestDescriptor, at address: UInt64) {
        store(descriptor.address, at: address)
        store(descriptor.length, at: address + 8)
        store(descriptor.flags, at: address + 12)
        store(descriptor.next, at: address + 14)
    }

    /// Writes a descriptor into the queue's table.
    func put(_ descriptor: TestDescriptor, _ index: UInt16, queue: Int = 0) {
        put(descriptor, at: Self.ring(queue) + UInt64(index) * 16)
    }

    /// Makes the chain that starts at `head` available; `notify` tells the device.
    func push(_ head: UInt16, queue: Int = 0) {
        let ring = Self.ring(queue) + 0x4000
        store(head, at: ring + 4 + UInt64(available[queue] % size) * 2)
        available[queue] &+= 1
        store(available[queue], at: ring + 2)
    }

    func notify(_ queue: Int = 0) { write(.queueNotify, UInt32(queue)) }

    /// Lends one chain of buffers, readable ones first, from descriptor `first` on, and notifies.
    func lend(readable: [(UInt64, UInt32)] = [], writable: [(UInt64, UInt32)] = [], first: UInt16 = 0, queue: Int = 0) {
        let all = readable.map { ($0.0, $0.1, UInt16(0)) } + writable.map { ($0.0, $0.1, TestDescriptor.write) }
        for (number, (address, length, flags)) in all.enumerated() {
            let index = first + UInt16(number)
            let isLast = number == all.count - 1
            put(
                TestDescriptor(
                    address: address, length: length, flags: flags | (isLast ? 0 : TestDescriptor.next),
                    next: isLast ? 0 : index + 1), index, queue: queue)
        }
        push(first, queue: queue)
        notify(queue)
    }

    var usedIndex: UInt16 { usedIndex(0) }
    func usedIndex(_ queue: Int) -> UInt16 { load(UInt16.self, at: Self.ring(queue) + 0x8002) }

    /// The next chain that came back; nil when there is none.
    func takeUsed(_ queue: Int = 0) -> (head: UInt32, written: UInt32)? {
        guard usedIndex(queue) != seen[queue] else { return nil }
        let entry = Self.ring(queue) + 0x8004 + UInt64(seen[queue] % size) * 8
        seen[queue] &+= 1
        return (load(UInt32.self, at: entry), load(UInt32.self, at: entry + 4))
    }

    /// Where the driver wants the next interrupt. Spec: virtio 1.2 §2.7.7.
    func setUsedEvent(_ index: UInt16, queue: Int = 0) {
        store(index, at: Self.ring(queue) + 0x4004 + UInt64(size) * 2)
    }

    func acknowledge() { write(.interruptAcknowledge, read(.interruptStatus)) }
}
