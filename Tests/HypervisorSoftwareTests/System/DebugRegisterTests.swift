// SPDX-License-Identifier: Apache-2.0
// Breakpoints in DR0 to DR3 and single steps. Intel SDM volume 3, 18.2 and 18.3.

import Testing

@testable import HypervisorSoftware

struct DebugRegisterTests {
    private let code = SupervisorMachine.code
    private let target = SupervisorMachine.data + 0x100

    /// MOV DR7, RAX; NOP; NOP; the code under test; HLT.
    private func machine(
        _ engine: SoftwareEngine, _ body: [UInt8], dr7: UInt64, address: UInt64, number: Int = 0
    ) throws -> SupervisorMachine {
        let machine = try SupervisorMachine(engine)
        try machine.write([0x0f, 0x23, 0xf8, 0x90, 0x90] + body + [0xf4])
        machine.core.debug[number] = address
        machine.core.general[0] = dr7
        machine.core.general[3] = target
        machine.core.general[7] = target
        machine.start()
        return machine
    }

    @Test(arguments: 0..<4, SoftwareEngine.allCases)
    func `an instruction breakpoint faults before the instruction`(number: Int, engine: SoftwareEngine) throws {
        // INC ECX at the breakpoint.
        let machine = try machine(
            engine, [0xff, 0xc1], dr7: 1 << UInt64(number * 2), address: code + 5, number: number)
        #expect(machine.runToHalt() == Caught(vector: 1, rip: code + 5))
        #expect(machine.core.debug[4] & 0xf == 1 << UInt64(number))
        #expect(machine.core.general[1] == 0)
        // With RF the instruction runs.
        machine.start(at: code + 5)
        machine.core.rflags |= Flags.resume.rawValue
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.general[1] == 1)
        #expect(machine.core.rflags & Flags.resume.rawValue == 0)
    }

    @Test(
        arguments: [
            // MOV [RBX], CL; MOV CL, [RBX]; INC DWORD [RBX - 2]; STOSB; MOV CL, [RBX + 8]
            ([0x88, 0x0b], true, true), ([0x8a, 0x0b], false, true), ([0xff, 0x43, 0xfe], true, true),
            ([0xaa], true, true),
            ([0x8a, 0x4b, 8], false, false),
        ] as [([UInt8], Bool, Bool)], SoftwareEngine.allCases)
    func `a data breakpoint traps after the access`(
        access: (body: [UInt8], isWrite: Bool, isAccess: Bool), engine: SoftwareEngine
    ) throws {
        let body = access.body
        // Four bytes, for writes and for accesses.
        for (kind, hits) in [(1, access.isWrite), (3, access.isAccess)] as [(UInt64, Bool)] {
            let machine = try machine(engine, body, dr7: 1 | kind << 16 | 3 << 18, address: target)
            let caught = machine.runToHalt()
            if hits {
                #expect(caught == Caught(vector: 1, rip: code + 5 + UInt64(body.count)))
                #expect(machine.core.debug[4] & 0xf == 1)
            } else {
                #expect(caught == nil)
            }
        }
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a repeated instruction stops after the element that meets the breakpoint`(engine: SoftwareEngine) throws {
        // REP STOSB
        let machine = try machine(engine, [0xf3, 0xaa], dr7: 1 | 1 << 16, address: target + 3)
        machine.core.general[1] = 8
        #expect(machine.runToHalt() == Caught(vector: 1, rip: code + 5))
        #expect(machine.core.general[1] == 4)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a disabled breakpoint does nothing`(engine: SoftwareEngine) throws {
        let machine = try machine(engine, [0x88, 0x0b], dr7: 0x400 | 1 << 16, address: target)
        #expect(machine.runToHalt() == nil)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `TF traps after each instruction, and after each element of a repeated one`(engine: SoftwareEngine) throws {
        let machine = try SupervisorMachine(engine)
        // REP STOSB; HLT
        try machine.write([0xf3, 0xaa, 0xf4])
        machine.core.general[1] = 3
        machine.core.general[7] = target
        for rest in [2, 1, 0] as [UInt64] {
            let (count, address) = (machine.core.general[1], machine.core.general[7])
            machine.start()
            (machine.core.general[1], machine.core.general[7]) = (count, address)
            machine.core.rflags = 2 | Flags.trap.rawValue
            #expect(machine.runToHalt() == Caught(vector: 1, rip: rest == 0 ? code + 2 : code))
            #expect(machine.core.debug[4] & DebugStatus.singleStep != 0)
            #expect(machine.core.general[1] == rest)
        }
    }
}
