// SPDX-License-Identifier: Apache-2.0
// User code that is called through registers, before and after translations of addresses change. Intel SDM volume 3, 5.10.4.

import Testing

@testable import HypervisorSoftware

struct UserTargetTests {
    private static let functions = 32
    private static let caller = SupervisorMachine.playground
    private static let called = SupervisorMachine.playground + 0x1000

    /// Page 0 of the playground calls all functions of page 1, and ends with a HLT. In frame 1 a function adds 1, in frame 2 16.
    private func machine(_ engine: SoftwareEngine) throws -> SupervisorMachine {
        let machine = try SupervisorMachine(engine)
        let user = SupervisorMachine.present | SupervisorMachine.user
        // CALL RDX; ADD RDX, 16; DEC ECX; JNZ to the call; HLT
        try machine.write([0xff, 0xd2, 0x48, 0x83, 0xc2, 16, 0xff, 0xc9, 0x75, 0xf6, 0xf4], at: SupervisorMachine.data)
        for (frame, amount) in [1: 1, 2: 16] as [UInt64: UInt8] {
            // ADD EAX, amount; RET
            let function = [0x83, 0xc0, amount, 0xc3] + [UInt8](repeating: 0xcc, count: 12)
            let code = [[UInt8]](repeating: function, count: Self.functions).flatMap { $0 }
            try machine.write(code, at: SupervisorMachine.data + frame << 12)
        }
        try machine.map(0, to: 0, user)
        try machine.map(1, to: 1, user)
        try machine.map(2, to: 3, user | SupervisorMachine.writable)
        machine.core.general[0] = 0
        return machine
    }

    private func start(_ machine: SupervisorMachine) {
        machine.start(at: Self.caller, privilege: 3)
        machine.core.general[1] = UInt64(Self.functions)
        machine.core.general[2] = Self.called
        machine.core.general[4] = SupervisorMachine.playground + 0x3000
    }

    /// Calls them, and expects `sum` of all calls so far.
    private func run(_ machine: SupervisorMachine, expecting sum: Int) {
        start(machine)
        #expect(machine.runToHalt() == Caught(vector: 13, rip: Self.caller + 10))
        #expect(machine.core.general[0] == UInt64(sum))
    }

    @Test func `code that is where it was before CR3 was written is found in translated code`() throws {
        let machine = try machine(.translate)
        run(machine, expecting: Self.functions)
        machine.core.flushTranslations()
        let before = machine.core.counts.dispatches
        run(machine, expecting: 2 * Self.functions)
        #expect(machine.core.counts.dispatches - before < 10)
    }

    @Test func `code of many pages is found so, too`() throws {
        let machine = try machine(.translate)
        // CALL RDX; ADD RDX, 4096; DEC ECX; JNZ to the call; HLT
        let code: [UInt8] = [0xff, 0xd2, 0x48, 0x81, 0xc2, 0, 0x10, 0, 0, 0xff, 0xc9, 0x75, 0xf3, 0xf4]
        try machine.write(code, at: SupervisorMachine.data)
        for page in 0..<Self.functions {
            try machine.map(4 + page, to: page % 2 == 0 ? 1 : 2, SupervisorMachine.present | SupervisorMachine.user)
        }
        var dispatches: UInt64 = 0
        for round in 1...3 {
            machine.core.flushTranslations()
            let before = machine.core.counts.dispatches
            start(machine)
            machine.core.general[2] = SupervisorMachine.playground + 0x4000
            #expect(machine.runToHalt() == Caught(vector: 13, rip: Self.caller + 13))
            #expect(machine.core.general[0] == UInt64(round * Self.functions / 2 * 17))
            dispatches = machine.core.counts.dispatches - before
        }
        #expect(dispatches < 10)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `code that is gone after CR3 was written faults when it is called`(engine: SoftwareEngine) throws {
        let machine = try machine(engine)
        run(machine, expecting: Self.functions)
        try machine.map(1, to: 1, 0)
        start(machine)
        // A fetch by the user.
        #expect(machine.runToHalt() == Caught(vector: 14, errorCode: 0x14, rip: Self.called))
        #expect(machine.core.cr2 == Self.called)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `code that is elsewhere after CR3 was written runs from there`(engine: SoftwareEngine) throws {
        let machine = try machine(engine)
        run(machine, expecting: Self.functions)
        // It ends with writing CR3.
        try machine.map(1, to: 2, SupervisorMachine.present | SupervisorMachine.user)
        run(machine, expecting: 17 * Self.functions)
        try machine.map(1, to: 1, SupervisorMachine.present | SupervisorMachine.user)
        run(machine, expecting: 18 * Self.functions)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `code that is elsewhere after INVLPG of its page, and of another, runs from there`(
        engine: SoftwareEngine
    ) throws {
        let machine = try machine(engine)
        run(machine, expecting: Self.functions)
        machine.forget(Self.caller)
        run(machine, expecting: 2 * Self.functions)
        let entry = SupervisorMachine.data + 0x2000 | SupervisorMachine.present | SupervisorMachine.user
        try machine.put(entry, at: SupervisorMachine.entryAddress(1))
        machine.forget(Self.called)
        run(machine, expecting: 18 * Self.functions)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `code that may be executed no longer after CR3 was written faults`(engine: SoftwareEngine) throws {
        let machine = try machine(engine)
        run(machine, expecting: Self.functions)
        try machine.map(
            1, to: 1, SupervisorMachine.present | SupervisorMachine.user | SupervisorMachine.noExecute)
        start(machine)
        #expect(machine.runToHalt() == Caught(vector: 14, errorCode: 0x15, rip: Self.called))
    }
}
