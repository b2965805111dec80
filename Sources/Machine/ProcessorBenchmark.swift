// SPDX-License-Identifier: Apache-2.0
// The software CPU's speed on three small loops: registers, memory, and branches that depend on data.

internal import Bus
internal import GuestMemory
internal import Hypervisor
public import HypervisorSoftware
internal import X86

/// Runs loops of guest code without a machine around them.
public enum ProcessorBenchmark {
    /// What one loop took.
    public struct Result: Sendable {
        public let name: String
        public let instructions: UInt64
        /// Host nanoseconds.
        public let nanoseconds: UInt64

        /// Millions of guest instructions a second.
        public var speed: Double { Double(instructions) * 1000 / Double(max(nanoseconds, 1)) }
    }

    private struct Loop {
        let name: String
        let code: [UInt8]
        /// RCX counts down from here.
        let turns: UInt64
    }

    private static let loops = [
        Loop(
            name: "registers",
            code: [
                0xb8, 0xb9, 0x79, 0x37, 0x9e,  // mov eax, 0x9e3779b9
                0xba, 0x01, 0x00, 0x00, 0x00,  // mov edx, 1
                0x48, 0x01, 0xc8,  // 1: add rax, rcx
                0x48, 0x31, 0xc2,  // xor rdx, rax
                0x48, 0xc1, 0xe2, 0x03,  // shl rdx, 3
                0x48, 0x8d, 0x5c, 0x50, 0x05,  // lea rbx, [rax + rdx * 2 + 5]
                0x48, 0x29, 0xd8,  // sub rax, rbx
                0x48, 0xff, 0xc9,  // dec rcx
                0x75, 0xe9,  // jnz 1b
                0xf4,  // hlt
            ], turns: 30_000_000),
        Loop(
            name: "memory",
            code: [
                0xbf, 0x00, 0x00, 0x20, 0x00,  // mov edi, 0x200000
                0x89, 0xce,  // 1: mov esi, ecx
                0x81, 0xe6, 0xf8, 0xff, 0x0f, 0x00,  // and esi, 0xffff8
                0x48, 0x8b, 0x04, 0x37,  // mov rax, [rdi + rsi]
                0x48, 0x01, 0xc8,  // add rax, rcx
                0x48, 0x89, 0x04, 0x37,  // mov [rdi + rsi], rax
                0x01, 0x44, 0x37, 0x08,  // add [rdi + rsi + 8], eax
                0x48, 0x83, 0xe9, 0x01,  // sub rcx, 1
                0x75, 0xe3,  // jnz 1b
                0xf4,  // hlt
            ], turns: 20_000_000),
        Loop(
            name: "branches",
            code: [
                0xb8, 0x78, 0x56, 0x34, 0x12,  // mov eax, 0x12345678
                0x31, 0xdb,  // xor ebx, ebx
                0x69, 0xc0, 0x6d, 0x4e, 0xc6, 0x41,  // 1: imul eax, eax, 1103515245
                0x05, 0x39, 0x30, 0x00, 0x00,  // add eax, 12345
                0xa9, 0x00, 0x00, 0x01, 0x00,  // test eax, 0x10000
                0x74, 0x12,  // jz 2f
                0x48, 0x83, 0xc3, 0x03,  // add rbx, 3
                0x3d, 0x00, 0x00, 0x00, 0x40,  // cmp eax, 0x40000000
                0x77, 0x0a,  // ja 3f
                0xe8, 0x0c, 0x00, 0x00, 0x00,  // call 4f
                0xeb, 0x03,  // jmp 3f
                0x48, 0xff, 0xc3,  // 2: inc rbx
                0x48, 0x83, 0xe9, 0x01,  // 3: sub rcx, 1
                0x75, 0xd3,  // jnz 1b
                0xf4,  // hlt
                0x48, 0x8d, 0x5b, 0x01,  // 4: lea rbx, [rbx + 1]
                0xc3,  // ret
            ], turns: 20_000_000),
    ]

    private enum Place {
        static let tables: UInt64 = 0x1000
        static let stack: UInt64 = 0x8000
        static let code: UInt64 = 0x10_0000
        static let memory: UInt64 = 4 << 20
    }

    /// Runs every loop once, some seconds in all.
    public static func run(_ engine: SoftwareEngine) throws(MachineError) -> [Result] {
        var results: [Result] = []
        for loop in loops { results.append(try run(loop, engine)) }
        return results
    }

    private static func run(_ loop: Loop, _ engine: SoftwareEngine) throws(MachineError) -> Result {
        do {
            let memory = try GuestMemory(size: Place.memory)
            // The first 4 MiB, mapped one to one by pages of 2 MiB.
            let tables: [(UInt64, UInt64)] = [
                (0, Place.tables + 0x1003), (0x1000, Place.tables + 0x2003), (0x2000, 0x83), (0x2008, 0x20_0083),
            ]
            for (offset, entry) in tables {
                let bytes = (0..<8).map { UInt8(truncatingIfNeeded: entry >> UInt64($0 * 8)) }
                try memory.write(bytes, at: GuestPhysicalAddress(Place.tables + offset))
            }
            try memory.write(loop.code, at: GuestPhysicalAddress(Place.code))
            let machine = SoftwareVirtualMachine(
                memory: memory, bus: Bus(), clock: GuestClock(), model: .x86_64_v2, processors: 1,
                engine: engine)
            let interrupts = NoInterrupts()
            let cpu = machine.makeSoftwareCPU(index: 0, interrupts: interrupts)
            try cpu.restoreState(state(turns: loop.turns))
            let start = GuestClock.hostMonotonic()
            var exit = cpu.run()
            while exit == .yielded { exit = cpu.run() }
            let nanoseconds = GuestClock.hostMonotonic() - start
            guard exit == .halted else { throw MachineError.assembly("the loop '\(loop.name)' ended with \(exit)") }
            return Result(name: loop.name, instructions: cpu.statistics.instructions, nanoseconds: nanoseconds)
        } catch {
            throw .assembly("\(error)")
        }
    }

    /// 64-bit mode at CPL 0, at the start of the code.
    private static func state(turns: UInt64) -> CPUState {
        var state = CPUState.reset
        let code = SegmentState(selector: 8, base: 0, limit: .max, attributes: 0xa09b)
        let data = SegmentState(selector: 16, base: 0, limit: .max, attributes: 0xc093)
        state.segments = [data, code, data, data, data, data]
        state.cr0 = 0x8000_0011
        state.cr3 = Place.tables
        state.cr4 = 0x20
        state.msr.efer = 0x500
        state.general[1] = turns
        state.general[4] = Place.stack
        state.rip = Place.code
        return state
    }
}
