// SPDX-License-Identifier: Apache-2.0
// Accesses through the stack pointer, which look first in the page that was found last. Intel SDM volume 3, 4.6 and 4.10.

import Testing

@testable import HypervisorSoftware

struct StackAccessTests {
    private typealias Machine = SupervisorMachine
    private let data = Machine.data
    private static let all = Machine.present | Machine.writable
    /// MOV RSP, RDI; PUSH RAX; POP RBX; PUSH RCX; MOV RDX, [RSP]; HLT
    private static let pushes: [UInt8] = [0x48, 0x89, 0xfc, 0x50, 0x5b, 0x51, 0x48, 0x8b, 0x14, 0x24, 0xf4]

    /// Runs what is at `code` with the stack at `offset` in the playground.
    private func run(_ machine: Machine, stack offset: UInt64 = 0x800, value: UInt64) -> Caught? {
        machine.core.general[0] = value
        machine.core.general[1] = value + 1
        machine.core.general[2] = 0
        machine.core.general[3] = 0
        machine.core.general[7] = Machine.playground + offset
        machine.start()
        return machine.runToHalt()
    }

    private func expectPushed(_ machine: Machine, _ value: UInt64, to address: UInt64) throws {
        #expect(machine.core.general[3] == value && machine.core.general[2] == value + 1)
        #expect(try machine.get(address) == value + 1)
    }

    @Test(arguments: [true, false], SoftwareEngine.allCases)
    func `a stack that is mapped elsewhere is there from then on`(wholly: Bool, engine: SoftwareEngine) throws {
        let machine = try Machine(engine)
        try machine.write(Self.pushes)
        try machine.map(0, to: 0, Self.all)
        for (value, frame) in ([1, 2, 1, 3] as [UInt64]).enumerated() {
            try machine.put(data + frame << 12 | Self.all, at: Machine.entryAddress(0))
            if wholly { machine.core.flushTranslations() } else { machine.forget(Machine.playground) }
            for round in 0..<4 {
                let value = UInt64(value * 100 + round * 10)
                #expect(run(machine, value: value) == nil)
                try expectPushed(machine, value, to: data + frame << 12 + 0x7f8)
            }
        }
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a stack that may only be read is read, and not written`(engine: SoftwareEngine) throws {
        let machine = try Machine(engine)
        // MOV RSP, RDI; POP RBX; MOV RDX, [RSP]; PUSH RBX; HLT
        try machine.write([0x48, 0x89, 0xfc, 0x5b, 0x48, 0x8b, 0x14, 0x24, 0x53, 0xf4])
        try machine.put(5, at: data + 0x800)
        try machine.put(6, at: data + 0x808)
        for isWritable in [true, false, true, false] {
            try machine.map(0, to: 0, isWritable ? Self.all : Machine.present)
            for _ in 0..<4 {
                let caught = run(machine, value: 0)
                #expect(caught == (isWritable ? nil : Caught(vector: 14, errorCode: 3, rip: Machine.code + 8)))
                #expect(machine.core.general[3] == 5 && machine.core.general[2] == 6)
            }
        }
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `what is pushed over code is run`(engine: SoftwareEngine) throws {
        let machine = try Machine(engine)
        try machine.map(0, to: 0, Self.all)
        // MOV RSP, RDI; PUSH RCX; CALL RSI; MOV RSP, RDI; PUSH RAX; CALL RSI; HLT
        try machine.write([
            0x48, 0x89, 0xfc, 0x51, 0xff, 0xd6, 0x48, 0x89, 0xfc, 0x50, 0xff, 0xd6, 0xf4,
        ])
        // In the stack's page: INC EBX, or ADD EBX, 16; RET.
        machine.core.general[6] = Machine.playground + 0x7f8
        let (one, sixteen): (UInt64, UInt64) = (0xc3c3_ff, 0xc310_c383)
        for round in 0..<20 {
            machine.core.general[0] = round % 2 == 0 ? sixteen : one
            machine.core.general[1] = one
            machine.core.general[3] = 0
            machine.core.general[7] = Machine.playground + 0x800
            machine.start()
            #expect(machine.runToHalt() == nil)
            #expect(machine.core.general[3] == (round % 2 == 0 ? 17 : 2))
        }
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `stacks in two pages, and one in both, take turns`(engine: SoftwareEngine) throws {
        let machine = try Machine(engine, heat: 2)
        try machine.map(0, to: 5, Self.all)
        try machine.map(1, to: 2, Self.all)
        // MOV RSP, RDI; PUSH RCX; POP RDX; ADD RBX, RDX; XCHG RDI, RSI; XCHG RDI, R9; DEC ECX; JNZ; HLT
        try machine.write([
            0x48, 0x89, 0xfc, 0x51, 0x5a, 0x48, 0x01, 0xd3, 0x48, 0x87, 0xfe, 0x4c, 0x87, 0xcf, 0xff, 0xc9, 0x75, 0xee,
            0xf4,
        ])
        machine.core.general[1] = 10_000
        machine.core.general[3] = 0
        machine.core.general[6] = Machine.playground + 0x1800
        machine.core.general[7] = Machine.playground + 0x800
        machine.core.general[9] = Machine.playground + 0x1004
        machine.start()
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.general[3] == 50_005_000)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `where the stack pointer leads nowhere the access faults, and changes nothing`(engine: SoftwareEngine) throws {
        let machine = try Machine(engine)
        try machine.map(0, to: 0, Self.all)
        try machine.map(1, to: 0, 0)
        try machine.write(Self.pushes)
        for _ in 0..<4 {
            #expect(run(machine, value: 1) == nil)
            // Not canonical: a stack fault.
            let caught = run(machine, stack: 0x8000_0000_0000_0800 &- Machine.playground, value: 2)
            #expect(caught == Caught(vector: 12, errorCode: 0, rip: Machine.code + 3))
            #expect(run(machine, stack: 0x1800, value: 3) == Caught(vector: 14, errorCode: 2, rip: Machine.code + 3))
            #expect(machine.core.general[3] == 0)
            #expect(try machine.get(data + 0x7f8) == 2)
        }
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `an aligned access to a misaligned stack faults`(engine: SoftwareEngine) throws {
        let machine = try Machine(engine)
        try machine.map(0, to: 0, Self.all)
        // MOV RSP, RDI; MOVAPS [RSP], XMM0; MOVAPS XMM1, [RSP + 16]; HLT
        try machine.write([0x48, 0x89, 0xfc, 0x0f, 0x29, 0x04, 0x24, 0x0f, 0x28, 0x4c, 0x24, 0x10, 0xf4])
        for _ in 0..<4 {
            #expect(run(machine, value: 0) == nil)
            #expect(run(machine, stack: 0xff0, value: 0)?.vector == 14)
            #expect(run(machine, stack: 0x808, value: 0) == Caught(vector: 13, rip: Machine.code + 3))
        }
    }
}
