// SPDX-License-Identifier: Apache-2.0
// Blocks that are translated into the code of those that lead to them. Intel SDM volume 3, 6.12 and 12.1.3.

import Testing

@testable import HypervisorSoftware

/// An access in a joined block close to one in the block before it, which comes into a page where it faults.
struct JoinedAccess: CustomTestStringConvertible, Sendable {
    var testDescription: String
    /// The instruction in the joined block.
    var code: [UInt8]
    /// What RDI becomes in the end, from the playground on. Its first page can only be read, the next one be written, the third
    /// is missing.
    var last: UInt64
    var errorCode: UInt64
    var address: UInt64

    private static let add: [UInt8] = [0x48, 0x03, 0x57, 8]  // ADD RDX, [RDI+8]
    private static let store: [UInt8] = [0x48, 0x89, 0x57, 8]  // MOV [RDI+8], RDX

    static let cases: [JoinedAccess] = [
        JoinedAccess(
            testDescription: "a read of the next page", code: add, last: 0x1ff8, errorCode: 0, address: 0x2000),
        JoinedAccess(
            testDescription: "a write to the next page", code: store, last: 0x1ff8, errorCode: 2, address: 0x2000),
        JoinedAccess(
            testDescription: "a write to a page that is only read", code: store, last: 0x100, errorCode: 3,
            address: 0x108),
    ]
}

struct JoinedBlockTests {
    private let code = SupervisorMachine.code

    /// A loop whose block at 0 leads to the one at 40, which leads back; with RAX = 1 and RBX = 2.
    private func machine(_ engine: SoftwareEngine, _ first: [UInt8], _ second: [UInt8]) throws -> SupervisorMachine {
        let machine = try SupervisorMachine(engine, heat: 4)
        try machine.write(first)
        try machine.write(second, at: code + 0x40)
        machine.core.general[0] = 1
        machine.core.general[3] = 2
        return machine
    }

    private func requireJoin(_ machine: SupervisorMachine, _ engine: SoftwareEngine) throws {
        if engine == .translate { try #require(machine.core.code.translator?.counts.joins ?? 0 > 0) }
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `one that code elsewhere has changed runs as it is now`(engine: SoftwareEngine) throws {
        // DEC ECX; JNZ 40; DEC EBX; JS the end; MOV BYTE [42], 9; MOV ECX, 10; JMP 0; HLT. At 40: ADD EAX, 1; JMP 0
        let machine = try machine(
            engine,
            [0xff, 0xc9, 0x75, 0x3c, 0xff, 0xcb, 0x78, 15, 0xc6, 0x04, 0x25, 0x42, 0, 1, 0, 9, 0xb9, 10, 0, 0, 0]
                + [0xeb, 0xe9, 0xf4],
            [0x83, 0xc0, 1, 0xeb, 0xbb])
        machine.core.general[1] = 100
        machine.start()
        #expect(machine.runToHalt() == nil)
        try requireJoin(machine, engine)
        #expect(machine.core.general[0] == 1 + 99 + 2 * 9 * 9)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `one whose own translation has become invalid is still right in another's`(engine: SoftwareEngine) throws {
        // DEC EDX; JS on; MOV ECX, 3; JMP 40; on: DEC EBX; JS the end; MOV BYTE [A6], 9; MOV EDX, 10; JMP 0; HLT
        let machine = try machine(
            engine,
            [0xff, 0xca, 0x78, 7, 0xb9, 3, 0, 0, 0, 0xeb, 0x35]
                + [0xff, 0xcb, 0x78, 15, 0xc6, 0x04, 0x25, 0xa6, 0, 1, 0, 9, 0xba, 10, 0, 0, 0, 0xeb, 0xe2, 0xf4],
            // At 40: MOV EBP, [ESI], which the interpreter runs; DEC ECX; JZ 0; JMP 80. Too long to be in the first, too:
            // at 80: 36 NOPs, ADD EAX, 1; JMP 40
            [0x67, 0x8b, 0x2e, 0xff, 0xc9, 0x74, 0xb9, 0xeb, 0x37])
        try machine.write([UInt8](repeating: 0x90, count: 36), at: code + 0x80)
        try machine.write([0x83, 0xc0, 1, 0xeb, 0x97], at: code + 0xa4)
        machine.core.general[0] = 0
        machine.core.general[2] = 50
        machine.core.general[3] = 1
        machine.core.general[6] = SupervisorMachine.data
        machine.start()
        #expect(machine.runToHalt() == nil)
        try requireJoin(machine, engine)
        #expect(machine.core.general[0] == 50 * 2 + 10 * 2 * 9)
    }

    @Test(arguments: FlagCase.cases, SoftwareEngine.allCases)
    func `a fault in it shows the flags of the block before`(flagCase: FlagCase, engine: SoftwareEngine) throws {
        // MOV EAX, 1; MOV EBX, 2; DEC ECX; CMOVZ RDI, R8; the case; JMP 40. At 40: MOV RDX, [RDI]; JMP 0
        let first: [UInt8] =
            [0xb8, 1, 0, 0, 0, 0xbb, 2, 0, 0, 0, 0xff, 0xc9, 0x49, 0x0f, 0x44, 0xf8] + flagCase.code
        let machine = try machine(
            engine, first + [0xeb, UInt8(0x3e - first.count)], [0x48, 0x8b, 0x17, 0xeb, 0xbb])
        machine.core.general[1] = 50
        machine.core.general[7] = SupervisorMachine.data
        machine.core.general[8] = SupervisorMachine.playground
        machine.start()
        #expect(machine.runToHalt() == Caught(vector: 14, rip: code + 0x40))
        try requireJoin(machine, engine)
        #expect(machine.core.general[1] == 0)
        #expect(try machine.get(SupervisorMachine.savedFlags) & FlagCase.compared == flagCase.flags & FlagCase.compared)
    }

    /// Both ways back leave the flags in the context; only one of them may have left them in what they followed from, too.
    @Test(arguments: [0x74, 0x75] as [UInt8], SoftwareEngine.allCases)
    func `a loop begins with the flags of the way that it came back by`(jump: UInt8, engine: SoftwareEngine) throws {
        // DEC DWORD [RDI]; JZ the end; TEST BYTE [RDI], 1; JZ or JNZ 40; CMP RBX, RAX; PUSHF; POP RSI; JMP 0; SETC DL; HLT
        // At 40: CMP RAX, RBX; JMP 0
        let machine = try machine(
            engine,
            [0xff, 0x0f, 0x74, 12, 0xf6, 0x07, 1, jump, 0x37, 0x48, 0x39, 0xc3, 0x9c, 0x5e, 0xeb, 0xf0]
                + [0x0f, 0x92, 0xc2, 0xf4],
            [0x48, 0x39, 0xd8, 0xeb, 0xbb])
        try machine.put(50, at: SupervisorMachine.data)
        machine.core.general[2] = 7
        machine.core.general[7] = SupervisorMachine.data
        machine.start()
        #expect(machine.runToHalt() == nil)
        try requireJoin(machine, engine)
        // What is counted was 1 in the last round.
        #expect(machine.core.general[2] == (jump == 0x75 ? 1 : 0))
    }

    @Test(arguments: JoinedAccess.cases, SoftwareEngine.allCases)
    func `an access in it is checked though one before found the page`(access: JoinedAccess, engine: SoftwareEngine)
        throws
    {
        // MOV RBX, [RDI]; DEC ECX; CMOVZ RDI, R8; MOV RDX, [RDI]; JMP 40. At 40: the access; JMP 0
        let machine = try machine(
            engine, [0x48, 0x8b, 0x1f, 0xff, 0xc9, 0x49, 0x0f, 0x44, 0xf8, 0x48, 0x8b, 0x17, 0xeb, 0x32],
            access.code + [0xeb, 0xba])
        try machine.map(0, to: 0, SupervisorMachine.present)
        try machine.map(1, to: 1, SupervisorMachine.present | SupervisorMachine.writable)
        machine.core.general[1] = 50
        machine.core.general[7] = SupervisorMachine.data + 0x3000
        machine.core.general[8] = SupervisorMachine.playground + access.last
        machine.start()
        #expect(machine.runToHalt() == Caught(vector: 14, errorCode: access.errorCode, rip: code + 0x40))
        try requireJoin(machine, engine)
        #expect(machine.core.general[1] == 0)
        #expect(machine.core.cr2 == SupervisorMachine.playground + access.address)
    }
}
