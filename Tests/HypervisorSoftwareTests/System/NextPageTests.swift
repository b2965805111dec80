// SPDX-License-Identifier: Apache-2.0
// Translations that go on in the page behind that of their block. Intel SDM volume 3, 4.10 and 12.1.3.

import Testing

@testable import HypervisorSoftware

/// A loop whose code lies in two pages, most often with an instruction in both.
struct TwoPageLoop: CustomTestStringConvertible, Sendable {
    var testDescription: String
    /// What lies in the first page, and what in the next one, of a loop that adds RDX to RBX, and `amount` times 65,536 to EAX.
    var first: [UInt8]
    var next: @Sendable (_ amount: UInt8) -> [UInt8]
    /// Whether it counts in the first page.
    var countsFirst = false
    /// Where LEA R8, [RIP] is followed by the next instruction, from the first page on.
    var leads: UInt64?

    static let cases: [TwoPageLoop] = [
        // ADD RBX, RDX; ADD EAX, imm32 in both pages; DEC ECX; JNZ; RET
        TwoPageLoop(
            testDescription: "an instruction in both pages", first: [0x48, 0x01, 0xd3, 0x05, 0],
            next: { [0, $0, 0, 0xff, 0xc9, 0x75, 0xf4, 0xc3] }),
        // ADD RBX, RDX; ADD EAX, imm32; LEA R8, [RIP]; DEC ECX; JNZ; RET
        TwoPageLoop(
            testDescription: "no instruction in both pages", first: [0x48, 0x01, 0xd3],
            next: { [0x05, 0, 0, $0, 0, 0x4c, 0x8d, 0x05, 0, 0, 0, 0, 0xff, 0xc9, 0x75, 0xed, 0xc3] }, leads: 0x100c),
        // ADD EAX, imm32 in both pages; ADD RBX, RDX; DEC ECX; JNZ; RET
        TwoPageLoop(
            testDescription: "a first instruction in both pages", first: [0x05, 0],
            next: { [0, $0, 0, 0x48, 0x01, 0xd3, 0xff, 0xc9, 0x75, 0xf4, 0xc3] }),
        // ADD RBX, RDX; LEA R8, [RIP]; DEC ECX; JNZ, in both pages, over ADD EAX, imm32; RET; to ADD EAX, imm32; JMP
        TwoPageLoop(
            testDescription: "a jump in both pages",
            first: [0x48, 0x01, 0xd3, 0x4c, 0x8d, 0x05, 0, 0, 0, 0, 0xff, 0xc9, 0x0f, 0x85],
            next: { [6, 0, 0, 0, 0x05, 0, 0, $0, 0, 0xc3, 0x05, 0, 0, $0, 0, 0xeb, 0xe1] }, countsFirst: true,
            leads: 0xffc),
    ]
}

struct NextPageTests {
    private let data = SupervisorMachine.data
    private static let readable = SupervisorMachine.present
    private static let all = SupervisorMachine.present | SupervisorMachine.writable

    private static func entry(_ loop: TwoPageLoop) -> UInt64 {
        SupervisorMachine.playground + 0x1000 - UInt64(loop.first.count)
    }

    /// The first page of `loop` is that of frame 0; frames 1 and 2 have next pages that add 1 << 16 and 2 << 16.
    private func machine(_ loop: TwoPageLoop, _ engine: SoftwareEngine) throws -> SupervisorMachine {
        let machine = try SupervisorMachine(engine, heat: 4)
        try machine.write(loop.first, at: data + 0x1000 - UInt64(loop.first.count))
        for frame in 1...2 as ClosedRange<UInt8> { try machine.write(loop.next(frame), at: data + UInt64(frame) << 12) }
        try machine.map(0, to: 0, Self.readable)
        try machine.map(1, to: 1, Self.readable)
        // CALL RSI; HLT
        try machine.write([0xff, 0xd6, 0xf4])
        machine.core.general[2] = 3
        return machine
    }

    private func prepare(_ machine: SupervisorMachine, _ loop: TwoPageLoop, rounds: UInt64) {
        machine.core.general[0] = 0
        machine.core.general[1] = rounds
        machine.core.general[3] = 0
        machine.core.general[6] = Self.entry(loop)
        machine.start()
    }

    /// Runs the loop with `amount`.
    private func run(_ machine: SupervisorMachine, _ loop: TwoPageLoop, rounds: UInt64 = 100, amount: UInt64) {
        prepare(machine, loop, rounds: rounds)
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.failure == nil)
        #expect(machine.core.general[0] == rounds * amount << 16)
        #expect(machine.core.general[3] == rounds * 3)
        if let leads = loop.leads { #expect(machine.core.general[8] == SupervisorMachine.playground + leads) }
    }

    @Test(arguments: TwoPageLoop.cases)
    func `a loop in two pages stays in translated code`(loop: TwoPageLoop) throws {
        let machine = try machine(loop, .translate)
        run(machine, loop, amount: 1)
        let before = machine.core.counts.entries
        run(machine, loop, rounds: 10_000, amount: 1)
        #expect(machine.core.counts.entries - before < 200)
        #expect(machine.core.code.translator?.counts.joins ?? 0 > 0)
    }

    @Test(arguments: TwoPageLoop.cases, SoftwareEngine.allCases)
    func `the code of the page that follows now is run`(loop: TwoPageLoop, engine: SoftwareEngine) throws {
        let machine = try machine(loop, engine)
        for frame in [1, 2, 1, 1, 2] {
            try machine.map(1, to: frame, Self.readable)
            run(machine, loop, amount: UInt64(frame))
        }
    }

    @Test(arguments: TwoPageLoop.cases, SoftwareEngine.allCases)
    func `the code of another next page is run after INVLPG of both, one after the other`(
        loop: TwoPageLoop, engine: SoftwareEngine
    ) throws {
        let machine = try machine(loop, engine)
        run(machine, loop, amount: 1)
        for frame in [2, 1] as [UInt64] {
            machine.forget(SupervisorMachine.playground)
            run(machine, loop, amount: 3 - frame)
            try machine.put(data + frame << 12 | Self.readable, at: SupervisorMachine.entryAddress(1))
            machine.forget(SupervisorMachine.playground + 0x1000)
            run(machine, loop, amount: frame)
        }
    }

    @Test(arguments: TwoPageLoop.cases, SoftwareEngine.allCases)
    func `code that is mapped twice goes on in what follows it there`(loop: TwoPageLoop, engine: SoftwareEngine) throws
    {
        let machine = try machine(loop, engine)
        for (page, frame) in [0, 1, 0, 2].enumerated() { try machine.map(page, to: frame, Self.readable) }
        // At 0: MOV ECX, EDI; CALL RSI; XCHG RSI, R9; DEC EBP; JNZ 0; HLT
        try machine.write([0x89, 0xf9, 0xff, 0xd6, 0x49, 0x87, 0xf1, 0xff, 0xcd, 0x75, 0xf5, 0xf4])
        prepare(machine, loop, rounds: 0)
        machine.core.general[7] = 10
        machine.core.general[9] = Self.entry(loop) + 0x2000
        machine.core.general[5] = 20
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.general[0] == 10 * 10 * (1 + 2) << 16)
        #expect(machine.core.general[3] == 20 * 10 * 3)
    }

    @Test(arguments: TwoPageLoop.cases, SoftwareEngine.allCases)
    func `what a device writes to the next page is run`(loop: TwoPageLoop, engine: SoftwareEngine) throws {
        let machine = try machine(loop, engine)
        for amount in [1, 7, 9, 2] as [UInt8] {
            try machine.write(loop.next(amount), at: data + 0x1000)
            run(machine, loop, amount: UInt64(amount))
        }
    }

    @Test(arguments: TwoPageLoop.cases, SoftwareEngine.allCases)
    func `what a device writes to the first page is run`(loop: TwoPageLoop, engine: SoftwareEngine) throws {
        let machine = try machine(loop, engine)
        run(machine, loop, amount: 1)
        // NOPs, and a loop that adds 7: ADD EAX, imm32; DEC ECX; JNZ; RET
        var code = [UInt8](repeating: 0x90, count: 13)
        code += [0x05, 0, 0, 7, 0, 0xff, 0xc9, 0x75, 0xf7, 0xc3]
        try machine.write(code, at: data + 0x1000 - UInt64(loop.first.count))
        prepare(machine, loop, rounds: 10)
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.general[0] == 10 * 7 << 16)
    }

    @Test(arguments: TwoPageLoop.cases, SoftwareEngine.allCases)
    func `the next page faults when it is gone`(loop: TwoPageLoop, engine: SoftwareEngine) throws {
        let machine = try machine(loop, engine)
        run(machine, loop, amount: 1)
        try machine.map(1, to: 1, 0)
        prepare(machine, loop, rounds: 10)
        let caught = try #require(machine.runToHalt())
        #expect(caught.vector == 14)
        #expect(machine.core.cr2 == SupervisorMachine.playground + 0x1000)
        #expect(machine.core.general[1] == (loop.countsFirst ? 9 : 10))
        try machine.map(1, to: 2, Self.readable)
        run(machine, loop, amount: 2)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a loop that changes its code in the next page runs the new one`(engine: SoftwareEngine) throws {
        let machine = try SupervisorMachine(engine, heat: 4)
        // MOV [RDI], CL; ADD EAX, imm32, which lies in both pages, and whose third byte that is; DEC ECX; JNZ; RET
        try machine.write([0x88, 0x0f, 0x05, 0], at: data + 0xffc)
        try machine.write([0, 0, 0, 0xff, 0xc9, 0x75, 0xf5, 0xc3], at: data + 0x1000)
        try machine.map(0, to: 0, Self.all)
        try machine.map(1, to: 1, Self.all)
        try machine.write([0xff, 0xd6, 0xf4])
        machine.core.general[0] = 0
        machine.core.general[1] = 100
        machine.core.general[6] = SupervisorMachine.playground + 0xffc
        machine.core.general[7] = SupervisorMachine.playground + 0x1001
        machine.start()
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.general[0] == (1...100).reduce(0) { $0 + $1 << 16 })
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a page that follows itself is found changed`(engine: SoftwareEngine) throws {
        let machine = try SupervisorMachine(engine, heat: 4)
        // At the end of the page: ADD EAX, imm32, which goes on at its start; DEC ECX; JNZ; RET
        try machine.write([0x05, 0], at: data + 0xffe)
        try machine.map(0, to: 0, Self.all)
        try machine.map(1, to: 0, Self.all)
        try machine.write([0xff, 0xd6, 0xf4])
        for amount in [1, 5, 3] as [UInt8] {
            try machine.write([0, amount, 0, 0xff, 0xc9, 0x75, 0xf7, 0xc3], at: data)
            machine.core.general[0] = 0
            machine.core.general[1] = 100
            machine.core.general[6] = SupervisorMachine.playground + 0xffe
            machine.start()
            #expect(machine.runToHalt() == nil)
            #expect(machine.core.general[0] == 100 * UInt64(amount) << 16)
        }
    }
}
