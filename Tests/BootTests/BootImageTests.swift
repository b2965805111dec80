// SPDX-License-Identifier: Apache-2.0
// What is in guest memory before the first instruction, and what the ROM makes of it.

import Bus
import Devices
import GuestMemory
import Host
import Hypervisor
import HypervisorSoftware
import Testing
import X86

@testable import Boot

struct BootImageTests {
    private let memory: GuestMemory
    private static let rsdp = GuestPhysicalAddress(0xe_0000)
    private static let reserved = [ReservedRange(start: GuestPhysicalAddress(0xe_0000), size: 0x2_0000)]

    init() throws { memory = try GuestMemory(size: 64 << 20) }

    private func load(
        _ kernel: [UInt8] = ELFFixture().file.bytes, initramfs: [UInt8] = [], commandLine: String = "console=ttyS0",
        into memory: GuestMemory? = nil
    ) throws {
        let image = BootImage(
            kernel: FileBytes(kernel), initramfs: FileBytes(initramfs), commandLine: commandLine)
        try image.load(into: memory ?? self.memory, rsdp: Self.rsdp, reserved: Self.reserved)
    }

    private func word<T: FixedWidthInteger & BitwiseCopyable>(_ type: T.Type, _ address: UInt64) throws -> T {
        try memory.load(type, at: GuestPhysicalAddress(address))
    }

    @Test func `the segment is placed and what lies behind it is cleared`() throws {
        let stale = [UInt8](repeating: 0xee, count: 0x4000)
        try memory.write(stale, at: GuestPhysicalAddress(ELFFixture.physical))
        try load()
        #expect(try word(UInt8.self, ELFFixture.entry) == 0xf4)
        #expect(try word(UInt8.self, ELFFixture.physical + 4016) == 0x11)
        #expect(try word(UInt8.self, ELFFixture.physical + 4017) == 0)
        #expect(try word(UInt8.self, ELFFixture.physical + 0x2fff) == 0)
        #expect(try word(UInt8.self, ELFFixture.physical + 0x3000) == 0xee)
    }

    @Test(arguments: Compression.allCases, [2 << 20, 3 << 20])
    func `a kernel that is unpacked in its place is as it says, and nothing beside it`(
        compression: Compression, offset: Int
    ) throws {
        let fixture = LinkedFixture(offset: offset)
        let file = BzImageFixture(
            payload: compression.payload(fixture.file.bytes), preferredAddress: LinkedFixture.physical
        ).file.bytes
        let start = LinkedFixture.physical - 2 << 20
        let end = start + UInt64(fixture.file.bytes.count)
        // What a kernel before it has left in its memory.
        let behind = fixture.secondPhysical + UInt64(fixture.second.count)
        try memory.write([UInt8](repeating: 0xee, count: 0x2000), at: GuestPhysicalAddress(behind))
        try load(file)
        var expected = [UInt8](repeating: 0, count: Int(end - start))
        let places = [(LinkedFixture.physical, fixture.first), (fixture.secondPhysical, fixture.second)]
        for (physical, bytes) in places {
            expected.replaceSubrange(
                Int(physical - start)..., with: bytes + expected[(Int(physical - start) + bytes.count)...])
        }
        #expect(try memory.read(at: GuestPhysicalAddress(start), count: expected.count) == expected)
        #expect(try word(UInt64.self, end) == 0)
        let target = BootTarget(memory)
        #expect(try KernelImage(file, unpackingInto: target).place == (offset == 2 << 20 ? start..<end : nil))
    }

    @Test func `a kernel that cannot be unpacked in its place is unpacked elsewhere`() throws {
        let fixture = LinkedFixture()
        let file = BzImageFixture(
            payload: Compression.lz4.payload(fixture.file.bytes), preferredAddress: LinkedFixture.physical
        ).file.bytes
        let memory = try GuestMemory(size: 17 << 20)
        #expect(try KernelImage(file, unpackingInto: BootTarget(memory)).bytes == fixture.file.bytes)
    }

    @Test func `boot parameters tell where everything is`() throws {
        let initramfs = (0..<10_000).map { UInt8(truncatingIfNeeded: $0 &* 13) }
        try load(initramfs: initramfs, commandLine: "quiet splash")
        let page: UInt64 = 0x7000
        #expect(try word(UInt16.self, page + 0x1fe) == 0xaa55)
        #expect(try word(UInt32.self, page + 0x202) == 0x5372_6448)
        #expect(try word(UInt64.self, page + 0x70) == Self.rsdp.rawValue)
        let start = UInt64(try word(UInt32.self, page + 0x218))
        #expect(try word(UInt32.self, page + 0x21c) == 10_000)
        #expect(start.isMultiple(of: 4096) && start + 10_000 <= 64 << 20 && start > 60 << 20)
        #expect(try memory.read(at: GuestPhysicalAddress(start), count: 10_000) == initramfs)
        let line = UInt64(try word(UInt32.self, page + 0x228))
        #expect(try memory.read(at: GuestPhysicalAddress(line), count: 13) == Array("quiet splash\0".utf8))
    }

    @Test func `the memory map has RAM as usable and all else as reserved`() throws {
        try load()
        var map: [[UInt64]] = []
        for index in 0..<UInt64(try word(UInt8.self, 0x71e8)) {
            let at = 0x72d0 + index * 20
            map.append([
                try word(UInt64.self, at), try word(UInt64.self, at + 8), UInt64(try word(UInt32.self, at + 16)),
            ])
        }
        #expect(
            map == [
                [0, 0x9_fc00, 1], [0x10_0000, 63 << 20, 1], [0xffff_0000, 0x1_0000, 2], [0xe_0000, 0x2_0000, 2],
            ])
    }

    @Test func `every load gives the kernel another seed`() throws {
        try load()
        let node = try word(UInt64.self, 0x7250)
        let seed = try memory.read(at: GuestPhysicalAddress(node + 16), count: 32)
        #expect(try word(UInt64.self, node) == 0)
        #expect(try word(UInt32.self, node + 8) == 9)
        #expect(try word(UInt32.self, node + 12) == 32)
        try load()
        #expect(try memory.read(at: GuestPhysicalAddress(node + 16), count: 32) != seed)
    }

    @Test func `what does not fit is refused with what would`() throws {
        let small = try GuestMemory(size: 16 << 20)
        #expect(throws: BootError.doesNotFit(what: "the kernel", needed: 0x100_3000, available: 16 << 20)) {
            try load(into: small)
        }
        let huge = [UInt8](repeating: 1, count: 40 << 20)
        #expect(
            throws: BootError.doesNotFit(
                what: "kernel and initramfs", needed: 0x100_3000 + (48 << 20), available: 64 << 20)
        ) { try load(initramfs: huge) }
    }

    @Test func `a command line that is too long is refused`() throws {
        let line = String(repeating: "x", count: 2048)
        #expect(throws: BootError.commandLineTooLong(bytes: 2048, limit: 2047)) { try load(commandLine: line) }
    }

    private func run(from state: CPUState, on bus: Bus = Bus()) throws -> (CPUState, VirtualCPUExit) {
        let machine = SoftwareVirtualMachine(
            memory: memory, bus: bus, clock: GuestClock(), model: .x86_64_v2, processors: 1)
        let interrupts = NoInterrupts()
        let cpu = machine.makeVirtualCPU(index: 0, interrupts: interrupts)
        try cpu.restoreState(state)
        var exit = cpu.run()
        for _ in 0..<100 where exit == .yielded { exit = cpu.run() }
        return (cpu.saveState(), exit)
    }

    @Test func `the ROM goes from the reset vector to the kernel's 64-bit entry`() throws {
        try load()
        let (state, exit) = try run(from: .reset)
        #expect(exit == .halted)
        #expect(state.rip == ELFFixture.entry + 1)
        #expect(state.general[6] == 0x7000)  // RSI: boot parameters
        #expect(state.cr0 & 0x8000_0001 == 0x8000_0001)
        #expect(state.msr.efer & 0x500 == 0x500)
        #expect(state.segments[1].attributes & 0x2000 != 0)
        #expect(state.rflags & 0x200 == 0)
    }

    private final class Resets: PlatformEvents {
        var count = 0
        func platformRequestsReset() { count += 1 }
        func platformRequestsPowerOff() {}
        func platformRequestsInit(processor index: Int) {}
        func platformRequestsStartup(processor index: Int, page: UInt8) {}
        func platformRequestsNonMaskableInterrupt(processor index: Int) {}
        func platformInterrupts(processor index: Int) {}
    }

    @Test func `a jump to FFFF:0000 in real mode resets the machine`() throws {
        let bus = Bus()
        let platform = try Platform(processors: 1, bus: bus, clock: GuestClock(), memory: memory)
        let resets = Resets()
        platform.events = resets
        try load()
        var state = CPUState.reset
        state.segments[1] = SegmentState(selector: 0xffff, base: 0xf_fff0, limit: 0xffff, attributes: 0x9b)
        state.rip = 0
        let (_, exit) = try run(from: state, on: bus)
        #expect(exit == .halted)
        #expect(resets.count == 1)
    }
}
