// SPDX-License-Identifier: Apache-2.0
// Direct calls to other pages, whose target follows from where the page of the call is mapped, and what follows it there.

import Testing

@testable import HypervisorSoftware

struct FarTargetTests {
    private let code = SupervisorMachine.code

    /// A machine with a function in each of the first frames of the data memory: ADD EAX, `amounts[frame]`; RET.
    private func machine(_ engine: SoftwareEngine, amounts: [UInt8]) throws -> SupervisorMachine {
        let machine = try SupervisorMachine(engine)
        for (frame, amount) in amounts.enumerated() {
            try machine.write([0x83, 0xc0, amount, 0xc3], at: SupervisorMachine.data + UInt64(frame) << 12)
        }
        machine.core.general[0] = 0
        return machine
    }

    private func run(_ machine: SupervisorMachine, expecting sum: UInt64) {
        machine.start()
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.failure == nil)
        #expect(machine.core.general[0] == sum)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a call to a page that is mapped to other code after INVLPG runs that`(engine: SoftwareEngine) throws {
        let machine = try machine(engine, amounts: [1, 16])
        try machine.map(0, to: 0, SupervisorMachine.present)
        // At 0: MOV ECX, 5; at 5: CALL the playground; DEC ECX; JNZ 5; MOV [RSI], RDX (the page-table entry); INVLPG [RBX];
        // DEC EBP; JNZ 0; HLT
        try machine.write([
            0xb9, 5, 0, 0, 0, 0xe8, 0xf6, 0xff, 0x1e, 0, 0xff, 0xc9, 0x75, 0xf7, 0x48, 0x89, 0x16, 0x0f, 0x01, 0x3b,
            0xff,
            0xcd, 0x75, 0xe8, 0xf4,
        ])
        machine.core.general[5] = 3
        machine.core.general[2] = SupervisorMachine.data + 0x1000 | 1
        machine.core.general[3] = SupervisorMachine.playground
        machine.core.general[6] = 0x4000
        run(machine, expecting: 5 * 1 + 10 * 16)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `code that is mapped twice calls what follows where it runs`(engine: SoftwareEngine) throws {
        let machine = try machine(engine, amounts: [0, 1, 16])
        // The caller is in pages 0 and 2 of the playground: CALL to the start of the next page; RET.
        try machine.write([0xe8, 0xfb, 0x0f, 0, 0, 0xc3], at: SupervisorMachine.data)
        for (page, frame) in [0, 1, 0, 2].enumerated() { try machine.map(page, to: frame, SupervisorMachine.present) }
        // CALL RBX; CALL RDX; DEC ECX; JNZ to the first; HLT
        try machine.write([0xff, 0xd3, 0xff, 0xd2, 0xff, 0xc9, 0x75, 0xf8, 0xf4])
        machine.core.general[1] = 5
        machine.core.general[2] = SupervisorMachine.playground + 0x2000
        machine.core.general[3] = SupervisorMachine.playground
        run(machine, expecting: 5 * 17)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a call goes where its address space has the target`(engine: SoftwareEngine) throws {
        let machine = try machine(engine, amounts: [1, 16])
        try machine.map(0, to: 0, SupervisorMachine.present)
        // Another address space, which has the second function in the playground.
        try machine.put(0xc000 | 7, at: 0xb000)
        try machine.put(0xd000 | 7, at: 0xc000)
        try machine.put(0xe3, at: 0xd000)
        try machine.put(0xe000 | 7, at: 0xd008)
        try machine.put(SupervisorMachine.data + 0x1000 | SupervisorMachine.present, at: 0xe000)
        // At 0: MOV CR3, RSI; XCHG RSI, RDI; MOV ECX, 5; at b: CALL the playground; DEC ECX; JNZ b; DEC EBP; JNZ 0; HLT
        try machine.write([
            0x0f, 0x22, 0xde, 0x48, 0x87, 0xf7, 0xb9, 5, 0, 0, 0, 0xe8, 0xf0, 0xff, 0x1e, 0, 0xff, 0xc9, 0x75, 0xf7,
            0xff,
            0xcd, 0x75, 0xe8, 0xf4,
        ])
        machine.core.general[5] = 4
        machine.core.general[6] = 0xb000
        machine.core.general[7] = machine.core.cr3
        run(machine, expecting: 10 * 17)
    }

    @Test func `a call whose target was changed finds it without leaving translated code each time`() throws {
        let machine = try machine(.translate, amounts: [1])
        try machine.map(0, to: 0, SupervisorMachine.present)
        // CALL the playground; DEC ECX; JNZ to the call; HLT
        try machine.write([0xe8, 0xfb, 0xff, 0x1e, 0, 0xff, 0xc9, 0x75, 0xf7, 0xf4])
        machine.core.general[1] = 200
        run(machine, expecting: 200)
        try machine.write([0x83, 0xc0, 2], at: SupervisorMachine.data)
        let before = machine.core.counts.dispatches
        machine.core.general[1] = 200
        run(machine, expecting: 600)
        #expect(machine.core.counts.dispatches - before < 20)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `calls go on when the numbers of changes begin again`(engine: SoftwareEngine) throws {
        let machine = try machine(engine, amounts: [1])
        try machine.map(0, to: 0, SupervisorMachine.present)
        // CALL the playground; DEC ECX; JNZ to the call; HLT
        try machine.write([0xe8, 0xfb, 0xff, 0x1e, 0, 0xff, 0xc9, 0x75, 0xf7, 0xf4])
        for round in 1...3 as ClosedRange<UInt64> {
            machine.core.general[1] = 5
            run(machine, expecting: round * 5)
            machine.core.farEpochs[1] = round
        }
    }
}
