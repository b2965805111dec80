// SPDX-License-Identifier: Apache-2.0
// Functions that are written into the code of their callers, and what they save and restore there. Intel SDM volume 2, CALL and RET.

import Testing
import X86

@testable import HypervisorSoftware

/// How a function changes the RBX that it has saved; it may also change RDX.
struct SavedChange: CustomTestStringConvertible, Sendable {
    var testDescription: String
    var code: [UInt8]
    var change: @Sendable (_ rbx: inout UInt64, _ rdx: inout UInt64) -> Void

    static let cases: [SavedChange] = [
        SavedChange(testDescription: "not at all", code: []) { _, _ in },
        // MOV EBX, EDX
        SavedChange(testDescription: "in the register", code: [0x89, 0xd3]) { _, _ in },
        // MOV [RSP], RDX
        SavedChange(testDescription: "wholly", code: [0x48, 0x89, 0x14, 0x24]) { $0 = $1 },
        // MOV [RSP], RBX
        SavedChange(testDescription: "to the same", code: [0x48, 0x89, 0x1c, 0x24]) { _, _ in },
        // MOV [RSP], EDX
        SavedChange(testDescription: "in its lower half", code: [0x89, 0x14, 0x24]) {
            $0 = ($0 >> 32) << 32 | $1 & 0xffff_ffff
        },
        // MOV [RSP+4], EDX
        SavedChange(testDescription: "in its upper half", code: [0x89, 0x54, 0x24, 4]) {
            $0 = $0 & 0xffff_ffff | $1 << 32
        },
        // MOV [RSP+7], DL
        SavedChange(testDescription: "in its last byte", code: [0x88, 0x54, 0x24, 7]) {
            $0 = ($0 << 8) >> 8 | $1 << 56
        },
        // XCHG [RSP], RDX
        SavedChange(testDescription: "by an exchange", code: [0x48, 0x87, 0x14, 0x24]) { swap(&$0, &$1) },
        // MOV RSI, RSP; AND RSI, -1; MOV [RSI], RDX
        SavedChange(
            testDescription: "through another register",
            code: [0x48, 0x89, 0xe6, 0x48, 0x83, 0xe6, 0xff, 0x48, 0x89, 0x16]
        ) { $0 = $1 },
        // PUSH RSI; MOV RSI, RSP; MOV [RSI+8], RDX; POP RSI
        SavedChange(
            testDescription: "through a copy of the stack pointer",
            code: [0x56, 0x48, 0x89, 0xe6, 0x48, 0x89, 0x56, 8, 0x5e]
        ) { $0 = $1 },
        // PUSH RDX; POP [RSP]
        SavedChange(testDescription: "by POP", code: [0x52, 0x8f, 0x04, 0x24]) { $0 = $1 },
    ]
}

struct InlinedCallTests {
    private typealias Machine = SupervisorMachine
    private let code = SupervisorMachine.code

    /// A caller at 0, and a function at 40 that has run often enough to be inlined before the caller is translated.
    private func machine(_ engine: SoftwareEngine, _ caller: [UInt8], _ function: [UInt8]) throws -> SupervisorMachine {
        let machine = try Machine(engine, heat: 4)
        try machine.write(caller)
        try machine.write(function, at: code + 0x40)
        try machine.openToUser()
        for register in [0, 2, 3, 5, 6, 7] { machine.core.general[register] = 0 }
        return machine
    }

    /// Runs user code to its HLT, which ends at `end`, and where the stack is as it began; at least one call is inlined.
    private func run(
        _ machine: SupervisorMachine, end: UInt64, sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        machine.start(privilege: 3)
        #expect(machine.runToHalt() == Caught(vector: 13, rip: code + end - 1), sourceLocation: sourceLocation)
        #expect(try machine.get(savedStackPointer) == Machine.stackTop, sourceLocation: sourceLocation)
        try requireInlined(machine)
    }

    private let savedStackPointer = SupervisorMachine.savedFlags + 8

    private func requireInlined(_ machine: SupervisorMachine) throws {
        if let translator = machine.core.code.translator { try #require(translator.counts.inlinedCalls > 0) }
    }

    @Test(arguments: SavedChange.cases, SoftwareEngine.allCases)
    func `a function restores what it has saved as it is then`(change: SavedChange, engine: SoftwareEngine) throws {
        // At 0: CALL 40; ADD RAX, RBX; DEC ECX; JNZ 0; HLT. At 40: PUSH RBX; …; POP RBX; RET
        let machine = try machine(
            engine, [0xe8, 0x3b, 0, 0, 0, 0x48, 0x01, 0xd8, 0xff, 0xc9, 0x75, 0xf4, 0xf4],
            [0x53] + change.code + [0x5b, 0xc3])
        var (rax, rdx, rbx): (UInt64, UInt64, UInt64) = (0, 0x1122_3344_5566_7788, 0x0f0e_0d0c_0b0a_0908)
        machine.core.general[1] = 20
        machine.core.general[2] = rdx
        machine.core.general[3] = rbx
        try run(machine, end: 13)
        for _ in 0..<20 {
            change.change(&rbx, &rdx)
            rax &+= rbx
        }
        #expect(machine.core.general[0] == rax)
        #expect(machine.core.general[2] == rdx)
        #expect(machine.core.general[3] == rbx)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a return whose address the function moved leads there`(engine: SoftwareEngine) throws {
        // At 0: CALL 40; ADD EAX, 1; DEC ECX; JNZ 0; HLT. At 40: TEST CL, 1; JZ to the RET; ADD QWORD [RSP], 3; RET
        let machine = try machine(
            engine, [0xe8, 0x3b, 0, 0, 0, 0x83, 0xc0, 1, 0xff, 0xc9, 0x75, 0xf4, 0xf4],
            [0xf6, 0xc1, 1, 0x74, 5, 0x48, 0x83, 0x04, 0x24, 3, 0xc3])
        machine.core.general[1] = 100
        try run(machine, end: 13)
        #expect(machine.core.general[0] == 50)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `returns that lead elsewhere for ever leave with the time slice`(engine: SoftwareEngine) throws {
        // At 0: CALL 40; NOP; JMP 0. At 40: ADD QWORD [RSP], 1; RET
        let machine = try machine(
            engine, [0xe8, 0x3b, 0, 0, 0, 0x90, 0xeb, 0xf8], [0x48, 0x83, 0x04, 0x24, 1, 0xc3])
        machine.start(privilege: 3)
        for _ in 0..<20 { _ = machine.core.run(slice: 1000) }
        #expect(machine.core.activity == .running && machine.core.failure == nil)
        try requireInlined(machine)
    }

    /// Ways on at 80 that are not in the caller's code, each of which adds 4 to EAX and returns; RBX is E0, where ADD EAX, 4;
    /// RET is.
    private static let waysOut: [[UInt8]] = [
        // Too long to be joined.
        [UInt8](repeating: 0x90, count: 41) + [0x83, 0xc0, 4, 0xc3],
        [0xff, 0xe3],  // JMP RBX
        [0xff, 0xd3, 0x90, 0xc3],  // CALL RBX; NOP; RET
        [0xe8, 0x5b, 0, 0, 0, 0xc3],  // CALL E0; RET
        [0xe9, 0x5b, 0, 0, 0],  // JMP E0
        [0x53, 0xc3],  // PUSH RBX; RET
    ]

    @Test(arguments: waysOut, SoftwareEngine.allCases)
    func `a function that goes on in other code returns from there`(way: [UInt8], engine: SoftwareEngine) throws {
        // At 0: CALL 40; ADD EAX, 1; DEC ECX; JNZ 0; HLT. At 40: TEST CL, 7; JZ 80; ADD EAX, 2; RET
        let machine = try machine(
            engine, [0xe8, 0x3b, 0, 0, 0, 0x83, 0xc0, 1, 0xff, 0xc9, 0x75, 0xf4, 0xf4],
            [0xf6, 0xc1, 7, 0x74, 0x3b, 0x83, 0xc0, 2, 0xc3])
        try machine.write(way, at: code + 0x80)
        try machine.write([0x83, 0xc0, 4, 0xc3], at: code + 0xe0)
        machine.core.general[1] = 800
        machine.core.general[3] = code + 0xe0
        try run(machine, end: 13)
        #expect(machine.core.general[0] == 800 + 700 * 2 + 100 * 4)
        if engine == .translate { #expect(machine.core.counts.dispatches < 50) }
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a function that calls itself twice`(engine: SoftwareEngine) throws {
        // At 0: MOV EDI, 15; CALL 40; HLT. At 40: PUSH RBX; CMP EDI, 2; JB 5e; MOV EBX, EDI; LEA EDI, [RBX-1]; CALL 40;
        // PUSH RAX; LEA EDI, [RBX-2]; CALL 40; POP RCX; ADD EAX, ECX; POP RBX; RET. At 5e: MOV EAX, EDI; POP RBX; RET
        let machine = try machine(
            engine, [0xbf, 15, 0, 0, 0, 0xe8, 0x36, 0, 0, 0, 0xf4],
            [0x53, 0x83, 0xff, 2, 0x72, 0x18, 0x89, 0xfb, 0x8d, 0x7b, 0xff, 0xe8, 0xf0, 0xff, 0xff, 0xff]
                + [0x50, 0x8d, 0x7b, 0xfe, 0xe8, 0xe7, 0xff, 0xff, 0xff, 0x59, 0x01, 0xc8, 0x5b, 0xc3]
                + [0x89, 0xf8, 0x5b, 0xc3])
        try run(machine, end: 11)
        #expect(machine.core.general[0] == 610)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a fault in a function finds everything as it is before the instruction`(engine: SoftwareEngine) throws {
        // At 0: CALL 40; DEC ECX; JNZ 0; HLT. At 40: PUSH RBX; MOV EBX, [RDI]; ADD RDI, 8; POP RBX; RET
        let machine = try machine(
            engine, [0xe8, 0x3b, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf7, 0xf4],
            [0x53, 0x8b, 0x1f, 0x48, 0x83, 0xc7, 8, 0x5b, 0xc3])
        try machine.map(0, to: 0, Machine.present | Machine.user)
        machine.core.general[1] = 1000
        machine.core.general[3] = 5
        machine.core.general[7] = Machine.playground + 0xf80
        machine.start(privilege: 3)
        #expect(machine.runToHalt() == Caught(vector: 14, errorCode: 4, rip: code + 0x41))
        try requireInlined(machine)
        #expect(machine.core.general[1] == 1000 - 16)
        #expect(machine.core.general[3] == 5)
        #expect(machine.core.general[7] == Machine.playground + 0x1000)
        #expect(try machine.get(Machine.stackTop - 8) == code + 5)
        #expect(try machine.get(Machine.stackTop - 16) == 5)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `the stack may lie in two pages anywhere`(engine: SoftwareEngine) throws {
        // At 0: MOV RSP, RDI; MOV ECX, 9; at 8: CALL 40; ADD EAX, EBX; DEC ECX; JNZ 8; HLT.
        // At 40: PUSH RBX; PUSH RDX; INC EBX; POP RDX; POP RBX; RET
        let machine = try machine(
            engine,
            [0x48, 0x89, 0xfc, 0xb9, 9, 0, 0, 0, 0xe8, 0x33, 0, 0, 0, 0x01, 0xd8, 0xff, 0xc9, 0x75, 0xf5, 0xf4],
            [0x53, 0x52, 0xff, 0xc3, 0x5a, 0x5b, 0xc3])
        for page in 0..<2 { try machine.map(page, to: 1 - page, Machine.present | Machine.writable | Machine.user) }
        for round in 0..<3 {
            for offset in stride(from: 0x0fc4, through: 0x1040, by: 4) as StrideThrough<UInt64> {
                machine.core.general[0] = 0
                machine.core.general[2] = 9
                machine.core.general[3] = offset
                machine.core.general[7] = Machine.playground + offset
                machine.start(privilege: 3)
                #expect(machine.runToHalt() == Caught(vector: 13, rip: code + 19))
                #expect(machine.core.general[0] == 9 * offset && machine.core.general[3] == offset, "\(round)")
                #expect(machine.core.general[2] == 9)
                #expect(try machine.get(savedStackPointer) == Machine.playground + offset)
            }
        }
        try requireInlined(machine)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a function that was changed runs as it is now`(engine: SoftwareEngine) throws {
        // At 0: CALL 40; DEC ECX; JNZ 0; HLT. At 40: ADD EAX, 1; RET
        let machine = try machine(
            engine, [0xe8, 0x3b, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf7, 0xf4], [0x83, 0xc0, 1, 0xc3])
        for value in 1...3 as ClosedRange<UInt8> {
            try machine.write([value], at: code + 0x42)
            machine.core.general[0] = 0
            machine.core.general[1] = 20
            try run(machine, end: 10)
            #expect(machine.core.general[0] == 20 * UInt64(value))
        }
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `flags of what moved the stack pointer are seen behind the call`(engine: SoftwareEngine) throws {
        // At 0: CALL 40; PUSHF; POP RAX; DEC ECX; JNZ 0; HLT.
        // At 40: PUSH RBX; SUB RSP, 8; CMP EBX, EBX; ADD RSP, 8; MOV RDX, [RDI]; POP RBX; RET
        let machine = try machine(
            engine, [0xe8, 0x3b, 0, 0, 0, 0x9c, 0x58, 0xff, 0xc9, 0x75, 0xf5, 0xf4],
            [0x53, 0x48, 0x83, 0xec, 8, 0x39, 0xdb, 0x48, 0x83, 0xc4, 8, 0x48, 0x8b, 0x17, 0x5b, 0xc3])
        machine.core.general[7] = Machine.data
        machine.core.general[1] = 20
        try run(machine, end: 12)
        // The sum is 2FFF0.
        let expected: Flags = [.parity, .auxiliary]
        #expect(Flags(rawValue: machine.core.general[0]).intersection(.status) == expected)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `accesses at an index of 32 bits that overflows are not beside each other`(engine: SoftwareEngine) throws {
        // At 0: MOVSXD RSI, ECX; MOV EDX, [RDI+RSI]; INC ECX; MOVSXD RSI, ECX; MOV EBX, [RDI+RSI]; DEC EAX; JNZ 0; HLT
        let machine = try machine(
            engine,
            [
                0x48, 0x63, 0xf1, 0x8b, 0x14, 0x37, 0xff, 0xc1, 0x48, 0x63, 0xf1, 0x8b, 0x1c, 0x37, 0xff, 0xc8, 0x75,
                0xee, 0xf4,
            ], [])
        try machine.map(0, to: 0, Machine.present)
        machine.core.general[0] = 100
        machine.core.general[1] = 0x7fff_ffff - 50
        machine.core.general[7] = Machine.playground + 0x100 &- 0x7fff_ffff
        machine.start()
        #expect(machine.runToHalt() == Caught(vector: 14, errorCode: 0, rip: code + 11))
        #expect(machine.core.general[0] == 50 && machine.core.general[1] == 0x8000_0000)
    }
}
