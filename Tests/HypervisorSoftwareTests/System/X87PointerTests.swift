// SPDX-License-Identifier: Apache-2.0
// What the x87 unit knows of its last instruction. Intel SDM volume 1, 8.1.8.

import Testing

@testable import HypervisorSoftware

struct X87PointerTests {
    /// FLD dword [RDI]; FADD ST0, ST0; FXCH ST1; FSTP ST0; ADD RDI, 4; DEC ECX; JNZ back
    private static let loop: [UInt8] = [
        0xd9, 0x07, 0xd8, 0xc0, 0xd9, 0xc9, 0xdd, 0xd8, 0x48, 0x83, 0xc7, 4, 0xff, 0xc9, 0x75, 0xf0,
    ]

    private func machine(_ engine: SoftwareEngine, end: [UInt8], rounds: UInt64) throws -> SupervisorMachine {
        let machine = try SupervisorMachine(engine, heat: 2)
        try machine.map(0, to: 0, SupervisorMachine.present | SupervisorMachine.writable)
        try machine.write(Self.loop + end)
        machine.core.general[1] = rounds
        machine.core.general[7] = SupervisorMachine.playground
        machine.start()
        return machine
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a loop leaves those of its last round`(engine: SoftwareEngine) throws {
        // FNSTENV [RDI]; HLT
        let machine = try machine(engine, end: [0xd9, 0x37, 0xf4], rounds: 300)
        #expect(machine.runToHalt() == nil)
        let environment = SupervisorMachine.data + 300 * 4
        #expect(try machine.get(environment + 12) & 0xffff_ffff == SupervisorMachine.code + 6)
        #expect(try machine.get(environment + 16) >> 16 & 0x7ff == 0x5d8)
        #expect(try machine.get(environment + 16) >> 32 == SupervisorMachine.playground + 299 * 4)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `one that faults leaves those of the one before it`(engine: SoftwareEngine) throws {
        let machine = try machine(engine, end: [0xf4], rounds: 2000)
        #expect(machine.runToHalt() == Caught(vector: 14, errorCode: 0, rip: SupervisorMachine.code))
        #expect(machine.core.general[1] == 2000 - 1024)
        #expect(machine.core.x87.lastInstruction == SupervisorMachine.code + 6)
        #expect(machine.core.x87.lastOpcode == 0x5d8)
        #expect(machine.core.x87.lastData == SupervisorMachine.playground + 1023 * 4)
    }

    @Test func `the end of a time slice has those of the last instruction`() throws {
        let (translated, interpreted) = (
            try machine(.translate, end: [0xf4], rounds: 1000), try machine(.interpret, end: [0xf4], rounds: 1000)
        )
        for slice in [97, 50, 101, 200, 33] {
            let before = translated.core.executed
            _ = translated.core.run(slice: slice)
            _ = interpreted.core.run(slice: 1)
            while interpreted.core.executed < translated.core.executed { _ = interpreted.core.run(slice: 1) }
            #expect(translated.core.executed > before)
            #expect(translated.core.executed == interpreted.core.executed)
            #expect(translated.core.rip == interpreted.core.rip)
            #expect(translated.core.x87.lastInstruction == interpreted.core.x87.lastInstruction)
            #expect(translated.core.x87.lastOpcode == interpreted.core.x87.lastOpcode)
            #expect(translated.core.x87.lastData == interpreted.core.x87.lastData)
        }
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `one in the page behind its block's is right after the interpreter ran another there`(
        engine: SoftwareEngine
    ) throws {
        let machine = try SupervisorMachine(engine, heat: 4)
        let playground = SupervisorMachine.playground
        for page in 0..<2 { try machine.map(page, to: page, SupervisorMachine.present) }
        // CALL RSI; HLT. There FLD1; FSTP ST0; and in the next page FLD DWORD [RDI]; FSTP ST0; ADD RDI, RAX; DEC ECX; JNZ; RET
        try machine.write([0xff, 0xd6, 0xf4])
        try machine.write([0xd9, 0xe8, 0xdd, 0xd8], at: SupervisorMachine.data + 0xffc)
        try machine.write(
            [0xd9, 0x07, 0xdd, 0xd8, 0x48, 0x01, 0xc7, 0xff, 0xc9, 0x75, 0xf1, 0xc3],
            at: SupervisorMachine.data + 0x1000)
        // Each round reads from a page that is not known yet.
        machine.core.general[0] = 0x1000
        machine.core.general[1] = 50
        machine.core.general[6] = playground + 0xffc
        machine.core.general[7] = SupervisorMachine.data + 0x3000
        machine.start()
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.general[1] == 0)
        #expect(machine.core.x87.lastInstruction == playground + 0x1002)
    }
}
