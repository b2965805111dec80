// SPDX-License-Identifier: Apache-2.0
// What a fault in the midst of a block shows, and accesses that a block puts together. Intel SDM volume 3, 6.12.

import Testing

@testable import HypervisorSoftware

/// Instructions with RAX = 1 and RBX = 2, and the status flags after them.
struct FlagCase: CustomStringConvertible, Sendable {
    var name: String
    var code: [UInt8]
    var flags: UInt64

    var description: String { name }

    /// The status flags without AF, which some instructions leave undefined.
    static let compared: UInt64 = 0x8c5

    static let cases = [
        FlagCase(name: "CMP RAX, RBX", code: [0x48, 0x39, 0xd8], flags: 0x95),
        FlagCase(name: "CMP AL, 2", code: [0x3c, 2], flags: 0x95),
        FlagCase(name: "SUB RAX, RBX", code: [0x48, 0x29, 0xd8], flags: 0x95),
        FlagCase(name: "SUB EAX, 2", code: [0x83, 0xe8, 2], flags: 0x95),
        FlagCase(name: "ADD RAX, RBX", code: [0x48, 0x01, 0xd8], flags: 0x04),
        FlagCase(name: "ADD RAX, -1", code: [0x48, 0x83, 0xc0, 0xff], flags: 0x55),
        FlagCase(name: "TEST RAX, RAX", code: [0x48, 0x85, 0xc0], flags: 0),
        FlagCase(name: "XOR EAX, EAX", code: [0x31, 0xc0], flags: 0x44),
        FlagCase(name: "STC; DEC RAX", code: [0xf9, 0x48, 0xff, 0xc8], flags: 0x45),
        FlagCase(name: "STC; INC EBX; DEC RAX", code: [0xf9, 0xff, 0xc3, 0x48, 0xff, 0xc8], flags: 0x45),
        FlagCase(name: "CMP RAX, RBX; INC RAX", code: [0x48, 0x39, 0xd8, 0x48, 0xff, 0xc0], flags: 0x01),
        FlagCase(name: "NEG RAX", code: [0x48, 0xf7, 0xd8], flags: 0x95),
        FlagCase(name: "AND RAX, [RSP - 8]", code: [0x48, 0x23, 0x44, 0x24, 0xf8], flags: 0x44),
        FlagCase(name: "SHR RAX, 1", code: [0x48, 0xd1, 0xe8], flags: 0x45),
    ]
}

struct BlockStateTests {
    private static let readable = SupervisorMachine.present
    private static let writable = SupervisorMachine.present | SupervisorMachine.writable
    private let playground = SupervisorMachine.playground
    private let data = SupervisorMachine.data

    private func machine(_ engine: SoftwareEngine, _ code: [UInt8]) throws -> SupervisorMachine {
        let machine = try SupervisorMachine(engine)
        try machine.write(code + [0xf4])
        machine.core.general[0] = 1
        machine.core.general[3] = 2
        return machine
    }

    @Test(arguments: FlagCase.cases, SoftwareEngine.allCases)
    func `a fault shows the flags of the instructions before it`(flagCase: FlagCase, engine: SoftwareEngine) throws {
        // MOV RDX, [RDI] where nothing is.
        let machine = try machine(engine, flagCase.code + [0x48, 0x8b, 0x17])
        machine.core.general[7] = playground
        machine.start()
        #expect(machine.runToHalt()?.vector == 14)
        #expect(try machine.get(SupervisorMachine.savedFlags) & FlagCase.compared == flagCase.flags & FlagCase.compared)
    }

    @Test(arguments: FlagCase.cases, SoftwareEngine.allCases)
    func `a fault shows them when the registers that they came from have changed`(
        flagCase: FlagCase, engine: SoftwareEngine
    ) throws {
        // MOV RAX, [RSI]; MOV RBX, [RSI + 8]; MOV RDX, [RDI] where nothing is.
        let machine = try machine(
            engine, flagCase.code + [0x48, 0x8b, 0x06, 0x48, 0x8b, 0x5e, 8, 0x48, 0x8b, 0x17])
        machine.core.general[6] = data
        machine.core.general[7] = playground
        machine.start()
        #expect(machine.runToHalt()?.vector == 14)
        #expect(try machine.get(SupervisorMachine.savedFlags) & FlagCase.compared == flagCase.flags & FlagCase.compared)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `registers that the host has no register for have what the instruction before gave them`(
        engine: SoftwareEngine
    ) throws {
        let machine = try machine(
            engine,
            // MOV R10, RAX; OR R10D, 2; BSF R11D, R10D; ADD R10, R11; MOV R14, R10; ADD R14, 4; IMUL R14, R10
            [0x49, 0x89, 0xc2, 0x41, 0x83, 0xca, 2, 0x45, 0x0f, 0xbc, 0xda, 0x4d, 0x01, 0xda, 0x4d, 0x89, 0xd6]
                + [0x49, 0x83, 0xc6, 4, 0x4d, 0x0f, 0xaf, 0xf2]
                // MOV R15, R14; MOV R14, RBX; ADD R15, R14; BSWAP R10; XCHG R10, R11; MOVZX R10, R15B; CMOVZ R11, R10
                + [0x4d, 0x89, 0xf7, 0x49, 0x89, 0xde, 0x4d, 0x01, 0xf7, 0x49, 0x0f, 0xca, 0x4d, 0x87, 0xda]
                + [0x4d, 0x0f, 0xb6, 0xd7, 0x4d, 0x0f, 0x44, 0xda])
        machine.start()
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.general[10] == 23)
        #expect(machine.core.general[11] == 3 << 56)
        #expect(machine.core.general[14] == 2)
        #expect(machine.core.general[15] == 23)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a stack that reaches from one page into another is right, also the second time`(
        engine: SoftwareEngine
    ) throws {
        // LEA RSP, [RBP]; PUSH RAX; PUSH RBX; PUSH RCX; PUSH RDX; POP R8; POP R9; MOV R10, [RSP + 8]
        let machine = try machine(
            engine,
            [0x48, 0x8d, 0x65, 0, 0x50, 0x53, 0x51, 0x52, 0x41, 0x58, 0x41, 0x59, 0x4c, 0x8b, 0x54, 0x24, 8])
        try machine.map(0, to: 3, Self.writable)
        try machine.map(1, to: 1, Self.writable)
        for round in 0..<3 as Range<UInt64> {
            machine.core.general[0] = 10 + round
            machine.core.general[3] = 20 + round
            machine.core.general[1] = 30 + round
            machine.core.general[2] = 40 + round
            machine.core.general[5] = playground + 0x1010
            machine.start()
            #expect(machine.runToHalt() == nil)
            #expect(try machine.get(data + 0x1008) == 10 + round)
            #expect(try machine.get(data + 0x1000) == 20 + round)
            #expect(try machine.get(data + 0x3ff8) == 30 + round)
            #expect(try machine.get(data + 0x3ff0) == 40 + round)
            #expect(machine.core.general[8] == 40 + round)
            #expect(machine.core.general[9] == 30 + round)
            #expect(machine.core.general[10] == 10 + round)
        }
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a write beside a read faults by itself, and what was before it is done`(engine: SoftwareEngine) throws {
        // MOV RAX, [RBX]; INC RCX; MOV [RBX + 8], RAX
        let machine = try machine(engine, [0x48, 0x8b, 0x03, 0x48, 0xff, 0xc1, 0x48, 0x89, 0x43, 8])
        try machine.map(0, to: 0, Self.readable)
        try machine.put(77, at: data + 0x20)
        for round in 1...3 as ClosedRange<UInt64> {
            machine.core.general[3] = playground + 0x20
            machine.core.general[1] = round
            machine.start()
            #expect(
                machine.runToHalt() == Caught(vector: 14, errorCode: 3, rip: SupervisorMachine.code + 6))
            #expect(machine.core.general[0] == 77)
            #expect(machine.core.general[1] == round + 1)
        }
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `an instruction in two pages is another one when the second page is`(engine: SoftwareEngine) throws {
        // MOV EAX, imm32; RET with its last three bytes in the next page.
        try #require(playground & 0xfff == 0)
        // CALL RBX; MOV ECX, EAX; MOV [RSI], RDX (the page-table entry); INVLPG [RDI]; CALL RBX
        let machine = try machine(
            engine, [0xff, 0xd3, 0x89, 0xc1, 0x48, 0x89, 0x16, 0x0f, 0x01, 0x3f, 0xff, 0xd3])
        try machine.write([0xb8, 1], at: data + 0xffe)
        try machine.write([2, 3, 4, 0xc3], at: data + 0x2000)
        try machine.write([5, 6, 7, 0xc3], at: data + 0x3000)
        try machine.map(0, to: 0, Self.readable)
        for _ in 0..<3 {
            try machine.map(1, to: 2, Self.readable)
            machine.core.general[3] = playground + 0xffe
            machine.core.general[6] = 0x4008
            machine.core.general[2] = data + 0x3000 | 1
            machine.core.general[7] = playground + 0x1000
            machine.start()
            #expect(machine.runToHalt() == nil)
            #expect(machine.core.general[1] == 0x0403_0201)
            #expect(machine.core.general[0] == 0x0706_0501)
        }
    }
}
