// SPDX-License-Identifier: Apache-2.0
// More code than there is room for: what was decoded and translated first makes room, and runs again as before.

import Testing

@testable import HypervisorSoftware

struct EvictionTests {
    private static let region: UInt64 = 0x80000
    private static let regionSize = 1 << 20
    /// Blocks of this many additions, some of which begin in one page and end in the next.
    private static let additions = 20

    /// RBX rounds through blocks of ADD EAX, [RSI+RCX]; JMP on, which fill the region, with RAX = 0.
    private func machine(
        _ engine: SoftwareEngine, heat: UInt8, rounds: UInt64, isBeside: Bool = false
    ) throws -> (SupervisorMachine, Int) {
        let machine = try SupervisorMachine(engine, heat: heat, isBeside: isBeside)
        let block = [UInt8]((0..<Self.additions).flatMap { _ in [0x03, 0x04, 0x0e] }) + [0xeb, 0]
        let count = (Self.regionSize - 16) / block.count
        try machine.write((0..<count).flatMap { _ in block }, at: Self.region)
        // DEC EBX; JZ the end; JMP back; HLT
        let end = Self.region + UInt64(count * block.count)
        let back = Int32(truncatingIfNeeded: Int64(Self.region) - Int64(end) - 9)
        let bytes = (0..<4).map { UInt8(truncatingIfNeeded: back >> ($0 * 8)) }
        try machine.write([0xff, 0xcb, 0x74, 5, 0xe9] + bytes + [0xf4], at: end)
        try machine.put(3, at: SupervisorMachine.data)
        machine.core.general[0] = 0
        machine.core.general[1] = 0
        machine.core.general[3] = rounds
        machine.core.general[6] = SupervisorMachine.data
        machine.start(at: Self.region)
        return (machine, count * Self.additions)
    }

    @Test(arguments: SoftwareEngine.allCases, [1, 2] as [UInt8])
    func `a program that has more code than room does what it says`(engine: SoftwareEngine, heat: UInt8) throws {
        let rounds: UInt64 = engine == .check ? 2 : 5
        let (machine, additions) = try machine(engine, heat: heat, rounds: rounds)
        #expect(machine.runToHalt(slices: 10_000) == nil)
        #expect(machine.core.general[0] == rounds * UInt64(additions) * 3)
        #expect(machine.core.code.evictions >= 8)
    }

    @Test func `and when another thread translates it`() throws {
        let (machine, additions) = try machine(.translate, heat: 1, rounds: 20, isBeside: true)
        #expect(machine.runToHalt(slices: 100_000) == nil)
        #expect(machine.core.general[0] == UInt64(20 * additions * 3))
        #expect(machine.core.code.evictions >= 8)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `code that changes after others took its place runs as it is now`(engine: SoftwareEngine) throws {
        let (machine, additions) = try machine(engine, heat: 1, rounds: 2)
        #expect(machine.runToHalt(slices: 10_000) == nil)
        // ADD EAX, [RSI+RCX] becomes SUB in the first of all.
        try machine.write([0x2b], at: Self.region)
        machine.core.general[3] = 2
        machine.start(at: Self.region)
        #expect(machine.runToHalt(slices: 10_000) == nil)
        #expect(machine.core.general[0] == UInt64(4 * additions * 3 - 2 * 2 * 3))
    }
}
