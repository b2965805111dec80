// SPDX-License-Identifier: Apache-2.0
// Calls and returns, and returns that lead elsewhere than calls came from. Intel SDM volume 2, CALL and RET.

import Testing
import X86

@testable import HypervisorSoftware

struct CallTests {
    private let code = SupervisorMachine.code
    private static let stackTop = SupervisorMachine.stackTop

    private func machine(_ engine: SoftwareEngine, _ bytes: [UInt8]) throws -> SupervisorMachine {
        let machine = try SupervisorMachine(engine)
        try machine.write(bytes)
        machine.core.general[0] = 0
        return machine
    }

    /// Runs to the HLT of the code, which ends at `end` with the stack as it began.
    private func run(_ machine: SupervisorMachine, end: UInt64, sourceLocation: SourceLocation = #_sourceLocation) {
        machine.start()
        #expect(machine.runToHalt() == nil, sourceLocation: sourceLocation)
        #expect(machine.core.failure == nil, sourceLocation: sourceLocation)
        #expect(machine.core.rip == end, sourceLocation: sourceLocation)
        #expect(machine.core.general[4] == Self.stackTop, sourceLocation: sourceLocation)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `calls deeper than a time slice return one by one`(engine: SoftwareEngine) throws {
        // CALL 20; HLT. At 20: DEC ECX; JZ 29; CALL 20; at 29: INC EAX; RET
        let machine = try machine(engine, [0xe8, 0x1b, 0, 0, 0, 0xf4])
        try machine.write(
            [0xff, 0xc9, 0x74, 5, 0xe8, 0xf7, 0xff, 0xff, 0xff, 0xff, 0xc0, 0xc3], at: code + 0x20)
        machine.core.general[1] = 5000
        run(machine, end: code + 6)
        #expect(machine.core.general[0] == 5000)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a return that takes arguments off the stack comes back`(engine: SoftwareEngine) throws {
        // At 0: PUSH RAX; PUSH RAX; CALL 20; INC EAX; DEC ECX; JNZ 0; HLT. At 20: NOP; RET 16
        let machine = try machine(engine, [0x50, 0x50, 0xe8, 0x19, 0, 0, 0, 0xff, 0xc0, 0xff, 0xc9, 0x75, 0xf3, 0xf4])
        try machine.write([0x90, 0xc2, 16, 0], at: code + 0x20)
        machine.core.general[1] = 10
        run(machine, end: code + 14)
        #expect(machine.core.general[0] == 10)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a function of the same page that goes on in another one returns to where it was called`(
        engine: SoftwareEngine
    ) throws {
        // At 0: CALL 20; LEA RBX, [RIP]; DEC ECX; JNZ 0; HLT. At 20: JMP 1020; there: INC EAX; RET
        let machine = try machine(
            engine, [0xe8, 0x1b, 0, 0, 0, 0x48, 0x8d, 0x1d, 0, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf0, 0xf4])
        try machine.write([0xe9, 0xfb, 0x0f, 0, 0], at: code + 0x20)
        try machine.write([0xff, 0xc0, 0xc3], at: code + 0x1020)
        machine.core.general[1] = 10
        run(machine, end: code + 17)
        #expect(machine.core.general[0] == 10)
        #expect(machine.core.general[3] == code + 12)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a return whose address was changed goes there`(engine: SoftwareEngine) throws {
        // At 0: CALL 20; HLT. At 20: MOV [RSP], RBX; NOP; RET. At 40: INC EAX; DEC ECX; JNZ 0; HLT
        let machine = try machine(engine, [0xe8, 0x1b, 0, 0, 0, 0xf4])
        try machine.write([0x48, 0x89, 0x1c, 0x24, 0x90, 0xc3], at: code + 0x20)
        try machine.write([0xff, 0xc0, 0xff, 0xc9, 0x75, 0xba, 0xf4], at: code + 0x40)
        machine.core.general[1] = 10
        machine.core.general[3] = code + 0x40
        run(machine, end: code + 0x47)
        #expect(machine.core.general[0] == 10)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `indirect jumps by a return go to their target, which returns to the caller`(engine: SoftwareEngine) throws {
        // At 0: CALL 20; DEC ECX; JNZ 0; HLT. At 20: CALL 2c; at 25: PAUSE; LFENCE; JMP 25; at 2c: MOV [RSP], RBX; RET.
        // At 40: INC EAX; RET
        let machine = try machine(engine, [0xe8, 0x1b, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf7, 0xf4])
        try machine.write(
            [0xe8, 7, 0, 0, 0, 0xf3, 0x90, 0x0f, 0xae, 0xe8, 0xeb, 0xf9, 0x48, 0x89, 0x1c, 0x24, 0xc3],
            at: code + 0x20)
        try machine.write([0xff, 0xc0, 0xc3], at: code + 0x40)
        machine.core.general[1] = 10
        machine.core.general[3] = code + 0x40
        run(machine, end: code + 10)
        #expect(machine.core.general[0] == 10)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `functions that switch stacks return on the other one`(engine: SoftwareEngine) throws {
        // At 0: CALL 40; ADD EAX, 1; DEC ECX; JNZ 0; HLT. At 20: CALL 40; ADD EDX, 1; JMP 20. At 40: XCHG RSP, RBX; RET
        let machine = try machine(engine, [0xe8, 0x3b, 0, 0, 0, 0x83, 0xc0, 1, 0xff, 0xc9, 0x75, 0xf4, 0xf4])
        try machine.write([0xe8, 0x1b, 0, 0, 0, 0x83, 0xc2, 1, 0xeb, 0xf6], at: code + 0x20)
        try machine.write([0x48, 0x87, 0xdc, 0xc3], at: code + 0x40)
        machine.core.general[1] = 10
        machine.core.general[2] = 0
        machine.core.general[3] = SupervisorMachine.data
        try machine.put(code + 0x20, at: SupervisorMachine.data)
        run(machine, end: code + 13)
        #expect(machine.core.general[0] == 10)
        #expect(machine.core.general[2] == 9)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `calls that are left behind do not disturb later ones`(engine: SoftwareEngine) throws {
        // At 0: MOV EDX, 5; MOV RBP, RSP; CALL 20; at d: INC EAX; DEC ECX; JNZ 0; CALL 40; HLT.
        // At 20: DEC EDX; JZ 29; CALL 20; at 29: MOV RSP, RBP; JMP d. At 40: RET
        let machine = try machine(
            engine,
            [
                0xba, 5, 0, 0, 0, 0x48, 0x89, 0xe5, 0xe8, 0x13, 0, 0, 0, 0xff, 0xc0, 0xff, 0xc9, 0x75, 0xed, 0xe8, 0x28,
                0, 0, 0, 0xf4,
            ])
        try machine.write(
            [0xff, 0xca, 0x74, 5, 0xe8, 0xf7, 0xff, 0xff, 0xff, 0x48, 0x89, 0xec, 0xeb, 0xdf], at: code + 0x20)
        try machine.write([0xc3], at: code + 0x40)
        machine.core.general[1] = 10
        run(machine, end: code + 25)
        #expect(machine.core.general[0] == 10)
    }

    @Test(arguments: [0x0ffb, 0x0ffa, 0x0ff9, 0x0ffe] as [UInt64], SoftwareEngine.allCases)
    func `a call at the end of a page returns to what follows`(offset: UInt64, engine: SoftwareEngine) throws {
        let machine = try machine(engine, [])
        // CALL 20; INC EAX; DEC ECX; JNZ to the call; HLT. At 20: RET
        let distance = UInt8(truncatingIfNeeded: 0x20 - Int(offset) - 5)
        try machine.write(
            [0xe8, distance, 0xf0, 0xff, 0xff, 0xff, 0xc0, 0xff, 0xc9, 0x75, 0xf5, 0xf4], at: code + offset)
        try machine.write([0xc3], at: code + 0x20)
        machine.core.general[1] = 10
        machine.start(at: code + offset)
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.rip == code + offset + 12)
        #expect(machine.core.general[0] == 10)
        #expect(machine.core.general[4] == Self.stackTop)
    }

    @Test(arguments: [0x100, 0x1000] as [UInt64], SoftwareEngine.allCases)
    func `what a function changed in its caller is run after its return`(
        distance: UInt64, engine: SoftwareEngine
    ) throws {
        // At 0: CALL RBX; ADD EAX, 1; DEC ECX; JNZ 0; HLT. The function: INC BYTE [RDI] (the 1); RET
        let machine = try machine(engine, [0xff, 0xd3, 0x83, 0xc0, 1, 0xff, 0xc9, 0x75, 0xf7, 0xf4])
        try machine.write([0xfe, 0x07, 0xc3], at: code + distance)
        machine.core.general[1] = 10
        machine.core.general[3] = code + distance
        machine.core.general[7] = code + 4
        run(machine, end: code + 10)
        #expect(machine.core.general[0] == 65)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a caller that others changed while a function ran is run as it is now`(engine: SoftwareEngine) throws {
        // At 0: CALL 20; ADD EAX, 1; HLT. At 20: DEC ECX; JNZ 20; RET, for longer than a time slice.
        let machine = try machine(engine, [0xe8, 0x1b, 0, 0, 0, 0x83, 0xc0, 1, 0xf4])
        try machine.write([0xff, 0xc9, 0x75, 0xfc, 0xc3], at: code + 0x20)
        for value in 1...3 as ClosedRange<UInt8> {
            machine.core.general[1] = 2000
            machine.core.general[0] = 0
            machine.start()
            _ = machine.core.run(slice: 1000)
            try machine.write([0x83, 0xc0, value], at: code + 5)
            #expect(machine.runToHalt() == nil)
            #expect(machine.core.general[0] == UInt64(value))
        }
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a return to address 0 goes there`(engine: SoftwareEngine) throws {
        // PUSH 0; NOP; RET, and at 0 HLT.
        let machine = try machine(engine, [0x6a, 0, 0x90, 0xc3])
        try machine.write([0xf4], at: 0)
        run(machine, end: 1)
    }

    @Test(arguments: [true, false], SoftwareEngine.allCases)
    func `a function's change of RFLAGS.AC counts in its caller`(suspends: Bool, engine: SoftwareEngine) throws {
        // STAC or CLAC; CALL RBX; MOV EAX, [RDI] of a user page; HLT. At 20: the other one; at 23: NOP; RET
        let (stac, clac) = ([0x0f, 0x01, 0xcb] as [UInt8], [0x0f, 0x01, 0xca] as [UInt8])
        let machine = try machine(engine, (suspends ? clac : stac) + [0xff, 0xd3, 0x8b, 0x07, 0xf4])
        try machine.write((suspends ? stac : clac) + [0x90, 0xc3], at: code + 0x20)
        try machine.map(0, to: 0, SupervisorMachine.present | SupervisorMachine.user)
        machine.core.cr4 |= ControlRegister4.smap
        machine.core.general[7] = SupervisorMachine.playground
        let refused = Caught(vector: 14, errorCode: 1, rip: code + 5)
        for round in 0..<8 {
            let changes = round >= 4
            machine.core.general[3] = code + (changes ? 0x20 : 0x23)
            machine.start()
            #expect(machine.runToHalt() == (changes == suspends ? nil : refused))
        }
    }

    @Test(arguments: [true, false], SoftwareEngine.allCases)
    func `calls and returns to addresses that are not canonical fault, whatever ran before`(
        returns: Bool, engine: SoftwareEngine
    ) throws {
        // CALL RBX; NOP; PUSH RDX; NOP; RET to HLT. At 20: RET
        let machine = try machine(engine, [0xff, 0xd3, 0x90, 0x52, 0x90, 0xc3, 0xf4])
        try machine.write([0xc3], at: code + 0x20)
        let refused = Caught(vector: 13, rip: returns ? code + 5 : code)
        for _ in 0..<3 {
            machine.core.general[3] = code + 0x20
            machine.core.general[2] = code + 6
            run(machine, end: code + 7)
            // What was found in one state of translations must not be found by another address in the next.
            machine.core.flushTranslations()
            for bits in 1..<0x200 as Range<UInt64> {
                machine.core.general[3] = (code + 0x20) ^ (returns ? 0 : bits << 48)
                machine.core.general[2] = (code + 6) ^ (returns ? bits << 48 : 0)
                machine.start()
                #expect(machine.runToHalt() == refused)
            }
        }
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `targets that have one place in the table are all found there`(engine: SoftwareEngine) throws {
        // CALL RBX; CALL RDX; CALL RSI; CALL RDI; DEC ECX; JNZ back; HLT
        let machine = try machine(
            engine, [0xff, 0xd3, 0xff, 0xd2, 0xff, 0xd6, 0xff, 0xd7, 0xff, 0xc9, 0x75, 0xf4, 0xf4])
        // Three beside each other and one far away. INC EAX; RET
        let targets = [code + 0x2000, code + 0x2003, code + 0x2006, code + 0x22000]
        for target in targets { try machine.write([0xff, 0xc0, 0xc3], at: target) }
        #expect(Set(targets.map { JumpTable.offset($0) }).count == 1)
        for (register, target) in zip([3, 2, 6, 7], targets) { machine.core.general[register] = target }
        machine.core.general[1] = 1000
        run(machine, end: code + 13)
        #expect(machine.core.general[0] == 4000)
        #expect(machine.core.counts.dispatches < 50)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `the stack pointer moves once where the interpreter runs one PUSH of several`(engine: SoftwareEngine) throws {
        // PUSH RAX; PUSH [RDI]; PUSH RBX; POP RDX; POP RSI; POP RAX; ADD RDI, 4096; DEC ECX; JNZ back; HLT
        let machine = try machine(
            engine,
            [0x50, 0xff, 0x37, 0x53, 0x5a, 0x5e, 0x58, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, 0xff, 0xc9, 0x75, 0xee, 0xf4])
        // The soft TLB has none of the pages.
        for page in 0..<200 { try machine.map(page, to: page & 7, SupervisorMachine.present) }
        for frame in UInt64(0)..<8 { try machine.put(frame + 1, at: SupervisorMachine.data + frame << 12) }
        machine.core.general[0] = 5
        machine.core.general[3] = 7
        machine.core.general[7] = SupervisorMachine.playground
        machine.core.general[1] = 200
        run(machine, end: code + 19)
        #expect(machine.core.general[0] == 5)
        #expect(machine.core.general[2] == 7)
        #expect(machine.core.general[6] == 8)
    }
}
