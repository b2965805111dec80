// SPDX-License-Identifier: Apache-2.0
// One processor of a backend, 2 MiB of memory and devices that note what reaches them.

import Bus
import CBareGuests
import GuestMemory
import Hypervisor
import X86

/// One access of the guest.
enum DeviceAccessRecord: Equatable {
    case read(UInt64, AccessWidth)
    case write(UInt64, AccessWidth, UInt64)
}

/// A device that answers each read with another value, and notes everything.
final class RecordingDevice: BusDevice {
    private(set) var accesses: [DeviceAccessRecord] = []
    private var reads = 0

    /// What read number `number`, from 1, gets. Each byte has its highest bit set.
    static func answer(_ number: Int, _ width: AccessWidth) -> UInt64 {
        (0xf7e6_d5c4_b3a2_9180 &+ 0x0101_0101_0101_0101 &* UInt64(number)) & width.openBus
    }

    func read(offset: UInt64, width: AccessWidth) -> UInt64 {
        accesses.append(.read(offset, width))
        reads += 1
        return Self.answer(reads, width)
    }

    func write(_ value: UInt64, offset: UInt64, width: AccessWidth) {
        accesses.append(.write(offset, width, value))
    }
}

/// The port that a guest writes to when it is done.
private final class DonePort: BusDevice {
    var isDone = false

    func read(offset: UInt64, width: AccessWidth) -> UInt64 { width.openBus }
    func write(_ value: UInt64, offset: UInt64, width: AccessWidth) { isDone = true }
}

/// The code of guest/bare.
enum BareGuest {
    static var exits: [UInt8] { unsafe bytes(smolvmm_guest_exits_bytes()) }
    static var selfModifying: [UInt8] { unsafe bytes(smolvmm_guest_self_modifying_bytes()) }

    private static func bytes(_ guest: bare_guest) -> [UInt8] {
        // SAFETY: the guest is as long as it says.
        unsafe Array(UnsafeRawBufferPointer(start: guest.start, count: guest.size))
    }
}

/// A guest without an operating system on one processor of its own.
final class GuestProcessor {
    /// Where code is loaded.
    static let code: UInt64 = 0x8000
    static let devicePorts = Port(0x500)...Port(0x50f)
    static let devicePage = GuestPhysicalAddress(0xd000_0000)
    /// Page tables that map the first 2 MiB one to one.
    static let tables: UInt64 = 0x1000
    /// Calls of `run` after which a guest that is not done never will be.
    private static let patience = 10_000

    let memory: GuestMemory
    let ports = RecordingDevice()
    let page = RecordingDevice()
    let processor: any VirtualCPU
    private let done = DonePort()
    /// Processors need not keep their machine.
    private let machine: any VirtualMachine

    init(_ backend: Backend, model: CPUModel = .x86_64, code: [UInt8]) throws {
        memory = try GuestMemory(size: 2 << 20)
        let bus = Bus()
        try bus.attach(ports, ports: Self.devicePorts)
        try bus.attach(page, memory: Self.devicePage, size: GuestMemory.pageSize)
        try bus.attach(done, ports: Port(0xf4)...Port(0xf4))
        machine = try backend.makeMachine(memory: memory, bus: bus, clock: GuestClock(), model: model)
        processor = try machine.makeVirtualCPU(index: 0, interrupts: NoInterrupts())
        try memory.write(code, at: GuestPhysicalAddress(Self.code))
        try memory.store(Self.tables + 0x1003, at: GuestPhysicalAddress(Self.tables))
        try memory.store(Self.tables + 0x2003, at: GuestPhysicalAddress(Self.tables + 0x1000))
        try memory.store(UInt64(0x83), at: GuestPhysicalAddress(Self.tables + 0x2000))
    }

    /// Runs until the guest is done, or something else brings the processor back for good.
    /// - Returns: nil when the guest is done.
    func run() -> VirtualCPUExit? {
        for _ in 0..<Self.patience {
            let exit = processor.run()
            if done.isDone { return nil }
            if exit != .yielded { return exit }
        }
        return .yielded
    }
}
