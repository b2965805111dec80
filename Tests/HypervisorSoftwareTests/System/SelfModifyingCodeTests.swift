// SPDX-License-Identifier: Apache-2.0
// Code that is written while it may be decoded already. Intel SDM volume 3, 12.1.3.

import GuestMemory
import Testing

@testable import HypervisorSoftware

struct SelfModifyingCodeTests {
    /// MOV EAX, 1; HLT.
    private let one: [UInt8] = [0xb8, 1, 0, 0, 0, 0xf4]
    private let code = SupervisorMachine.code

    @Test(arguments: SoftwareEngine.allCases)
    func `an instruction that changes a later one of its own block is seen`(engine: SoftwareEngine) throws {
        let machine = try SupervisorMachine(engine)
        // MOV BYTE [RIP + 1], 7 changes the immediate of the MOV after it.
        try machine.write([0xc6, 0x05, 1, 0, 0, 0, 7] + one)
        machine.start()
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.general[0] == 7)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a loop that rewrites its own instruction runs the new bytes each time`(engine: SoftwareEngine) throws {
        let machine = try SupervisorMachine(engine)
        // ADD EAX, 1; INC BYTE [RIP - 7]; DEC ECX; JNZ -13; HLT: adds 1, 2, 3 and so on.
        try machine.write([0x83, 0xc0, 1, 0xfe, 0x05, 0xf9, 0xff, 0xff, 0xff, 0xff, 0xc9, 0x75, 0xf3, 0xf4])
        machine.core.general[0] = 0
        machine.core.general[1] = 10
        machine.start()
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.general[0] == 55)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `code in another page that ran before is seen changed`(engine: SoftwareEngine) throws {
        let machine = try SupervisorMachine(engine)
        let other = code + 0x1000
        // CALL other; MOV BYTE [other + 1], 9; CALL other; HLT, with the callee MOV EAX, 1; RET.
        try machine.write([0xe8, 0xfb, 0x0f, 0, 0, 0xc6, 0x04, 0x25, 1, 0x10, 1, 0, 9, 0xe8, 0xee, 0x0f, 0, 0, 0xf4])
        try machine.write([0xb8, 1, 0, 0, 0, 0xc3], at: other)
        machine.start()
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.general[0] == 9)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a write through another linear address is seen`(engine: SoftwareEngine) throws {
        let machine = try SupervisorMachine(engine)
        try machine.map(0, to: 0, SupervisorMachine.present | SupervisorMachine.writable)
        // The callee is called through the direct mapping and written through the playground.
        let callee = SupervisorMachine.data
        try machine.write([0xb8, 1, 0, 0, 0, 0xc3], at: callee)
        // CALL RBX; MOV BYTE [RSI + 1], 9; CALL RBX; HLT
        try machine.write([0xff, 0xd3, 0xc6, 0x46, 1, 9, 0xff, 0xd3, 0xf4])
        machine.core.general[3] = callee
        machine.core.general[6] = SupervisorMachine.playground
        machine.start()
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.general[0] == 9)
    }

    @Test(arguments: [[0xf3, 0xa4], [0xf3, 0x48, 0xa5]] as [[UInt8]], SoftwareEngine.allCases)
    func `code that a string instruction copied over old code is seen`(copy: [UInt8], engine: SoftwareEngine) throws {
        let machine = try SupervisorMachine(engine)
        let callee = code + 0x2000
        let source = SupervisorMachine.data
        try machine.write([0xb8, 1, 0, 0, 0, 0xc3, 0x90, 0x90], at: callee)
        try machine.write([0xb8, 9, 0, 0, 0, 0xc3, 0x90, 0x90], at: source)
        try machine.write([0xff, 0xd3] + copy + [0xff, 0xd3, 0xf4])
        machine.core.general[1] = copy.count == 2 ? 8 : 1
        machine.core.general[3] = callee
        machine.core.general[6] = source
        machine.core.general[7] = callee
        machine.start()
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.general[0] == 9)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a changed instruction that crosses into the next page is seen`(engine: SoftwareEngine) throws {
        let machine = try SupervisorMachine(engine)
        let callee = code + 0x2ffe
        try machine.write([0xb8, 1, 0, 0, 0, 0xc3], at: callee)
        // CALL RBX; MOV BYTE [RBX + 2], 9 (in the next page); CALL RBX; HLT
        try machine.write([0xff, 0xd3, 0xc6, 0x43, 2, 9, 0xff, 0xd3, 0xf4])
        machine.core.general[3] = callee
        machine.start()
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.general[0] == 0x901)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a page that is mapped to other code after INVLPG runs that`(engine: SoftwareEngine) throws {
        let machine = try SupervisorMachine(engine)
        for frame in 0..<2 {
            try machine.write(
                [0xb8, UInt8(frame + 1), 0, 0, 0, 0xc3], at: SupervisorMachine.data + UInt64(frame) << 12)
        }
        try machine.map(0, to: 0, SupervisorMachine.present)
        // CALL RBX; MOV [RSI], RDX (the page-table entry); INVLPG [RBX]; CALL RBX; HLT
        try machine.write([0xff, 0xd3, 0x48, 0x89, 0x16, 0x0f, 0x01, 0x3b, 0xff, 0xd3, 0xf4])
        machine.core.general[3] = SupervisorMachine.playground
        machine.core.general[6] = 0x4000
        machine.core.general[2] = SupervisorMachine.data + 0x1000 | 1
        machine.start()
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.general[0] == 2)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `code that a device writes over code that ran is seen`(engine: SoftwareEngine) throws {
        let machine = try SupervisorMachine(engine)
        try machine.write(one)
        machine.start()
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.general[0] == 1)
        // A disk's data: announced, written by somebody else, announced again.
        let place = GuestPhysicalAddress(code)
        let host = unsafe try machine.memory.hostPointer(at: place, count: 2)
        machine.memory.willChange(place, count: 2)
        // SAFETY: two bytes of the guest's memory.
        unsafe host.storeBytes(of: 5, toByteOffset: 1, as: UInt8.self)
        machine.memory.willChange(place, count: 2)
        machine.start()
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.general[0] == 5)
        _ = machine.memory.release(place, count: GuestMemory.pageSize)
        try machine.write([0xb8, 6, 0, 0, 0, 0xf4])
        machine.start()
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.general[0] == 6)
    }
}
