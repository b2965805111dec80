// SPDX-License-Identifier: Apache-2.0
// SYSCALL, SYSRET and IRET in code that runs often. Intel SDM volume 2, and AMD APM volume 2, 6.1.

import Testing
import X86

@testable import HypervisorSoftware

/// How the supervisor answers a call.
struct SystemCall: CustomTestStringConvertible, Sendable {
    var testDescription: String
    /// Code of the supervisor behind what is common to all.
    var code: [UInt8]
    /// Flags that SYSCALL clears.
    var mask: UInt64 = 0x47700
    /// Whether translated code does it alone.
    var isTranslated = true
    /// The exception that ends the calls, if they do not come to their end.
    var exception: Int?

    private static let systemReturn: [UInt8] = [0x48, 0x0f, 0x07]
    // MOV RAX, RSP; PUSH 1B; PUSH RAX; PUSH R11; PUSH 23; PUSH RCX; IRETQ
    private static let interruptReturn: [UInt8] = [
        0x48, 0x89, 0xe0, 0x6a, 0x1b, 0x50, 0x41, 0x53, 0x6a, 0x23, 0x51, 0x48, 0xcf,
    ]
    // MOV RAX, RSP; MOV EDX, SS; PUSH RDX; PUSH RAX; PUSHFQ; MOV EDX, CS; PUSH RDX; LEA RAX, [RIP+3]; PUSH RAX; IRETQ
    private static let toItself: [UInt8] = [
        0x48, 0x89, 0xe0, 0x8c, 0xd2, 0x52, 0x50, 0x9c, 0x8c, 0xca, 0x52, 0x48, 0x8d, 0x05, 3, 0, 0, 0, 0x50, 0x48,
        0xcf,
    ]

    static let cases: [SystemCall] = [
        SystemCall(testDescription: "SYSRET", code: systemReturn),
        SystemCall(testDescription: "SYSRET, all flags cleared", code: systemReturn, mask: 0xffff_ffff),
        SystemCall(testDescription: "SYSRET, no flags cleared", code: systemReturn, mask: 0, isTranslated: false),
        // XOR R11, 8D5
        SystemCall(
            testDescription: "SYSRET with other flags", code: [0x49, 0x81, 0xf3, 0xd5, 8, 0, 0] + systemReturn),
        // OR R11, 100
        SystemCall(
            testDescription: "SYSRET with TF", code: [0x49, 0x81, 0xcb, 0, 1, 0, 0] + systemReturn,
            isTranslated: false, exception: 1),
        // BTS RCX, 47
        SystemCall(
            testDescription: "SYSRET to no canonical address", code: [0x48, 0x0f, 0xba, 0xe9, 47] + systemReturn,
            isTranslated: false, exception: 13),
        SystemCall(testDescription: "IRET", code: interruptReturn),
        SystemCall(testDescription: "IRET to the supervisor, and SYSRET", code: toItself + systemReturn),
        // PUSH RCX; RET, with the address of the user's code: CPL stays 0
        SystemCall(testDescription: "RET to the caller", code: [0x51, 0xc3], isTranslated: false),
    ]
}

struct SystemCallTests {
    private static let calls: UInt64 = 300
    private static let user = SupervisorMachine.playground

    /// Starts the user's code, whose calls come to the supervisor's and clear the flags of `mask`.
    private func start(_ machine: SupervisorMachine, mask: UInt64) {
        machine.core.msr.efer |= ExtendedFeatures.syscall
        machine.core.msr.star = 0x13 << 48 | 8 << 32
        machine.core.msr.lstar = SupervisorMachine.code
        machine.core.msr.syscallMask = mask
        machine.start(at: Self.user, privilege: 3)
    }

    private func machine(_ call: SystemCall, _ engine: SoftwareEngine) throws -> SupervisorMachine {
        let machine = try SupervisorMachine(engine, heat: 2)
        let rights = SupervisorMachine.present | SupervisorMachine.user
        try machine.map(0, to: 0, rights)
        try machine.map(2, to: 2, rights | SupervisorMachine.writable)
        // INC EBX; SYSCALL; ADD RSI, R11; ADD RDI, RCX; DEC EBP; JNZ back; HLT, which is an exception
        try machine.write(
            [0xff, 0xc3, 0x0f, 0x05, 0x4c, 0x01, 0xde, 0x48, 0x01, 0xcf, 0xff, 0xcd, 0x75, 0xf2, 0xf4],
            at: SupervisorMachine.data)
        // PUSHFQ; POP RAX; ADD R8, RAX; MOV EAX, SS; ADD R9, RAX; MOV EAX, CS; ADD R9, RAX; NEG EBX; NEG EBX
        try machine.write(
            [0x9c, 0x58, 0x49, 0x01, 0xc0, 0x8c, 0xd0, 0x49, 0x01, 0xc1, 0x8c, 0xc8, 0x49, 0x01, 0xc1, 0xf7, 0xdb]
                + [0xf7, 0xdb] + call.code)
        start(machine, mask: call.mask)
        machine.core.general[4] = Self.user + 0x3000
        machine.core.general[5] = Self.calls
        return machine
    }

    private func registers(_ machine: SupervisorMachine) -> [UInt64] {
        (0..<16).map { machine.core.general[$0] } + [machine.core.rflags, UInt64(machine.core.privilege)]
    }

    @Test(arguments: SystemCall.cases, SoftwareEngine.allCases)
    func `they lead there and back`(call: SystemCall, engine: SoftwareEngine) throws {
        let machine = try machine(call, engine)
        let before = machine.core.counts
        let caught = machine.runToHalt()
        let reference = try self.machine(call, .interpret)
        #expect(reference.runToHalt() == caught)
        #expect(registers(machine) == registers(reference))
        #expect(machine.core.segments[Int(SegmentIndex.cs)].selector == reference.core.segments[1].selector)
        if let exception = call.exception {
            #expect(caught?.vector == exception)
        } else {
            #expect(machine.core.general[3] == Self.calls)
            #expect(machine.core.general[9] == Self.calls * (8 + 16))
        }
        if engine == .translate, call.isTranslated {
            #expect(machine.core.counts.interpretations - before.interpretations < 20)
        }
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `user code that a call has mapped elsewhere runs from there`(engine: SoftwareEngine) throws {
        let machine = try SupervisorMachine(engine, heat: 2)
        let rights = SupervisorMachine.present | SupervisorMachine.user
        try machine.map(0, to: 0, rights)
        // SYSCALL; ADD EBX, amount; DEC EBP; JNZ back; HLT, which is an exception
        for (frame, amount) in [1, 16].enumerated() as EnumeratedSequence<[UInt8]> {
            try machine.write(
                [0x0f, 0x05, 0x83, 0xc3, amount, 0xff, 0xcd, 0x75, 0xf7, 0xf4],
                at: SupervisorMachine.data + UInt64(frame) << 12)
        }
        // XCHG [R12], R13 (the page-table entry); INVLPG [R14]; SYSRET
        try machine.write([0x4d, 0x87, 0x2c, 0x24, 0x41, 0x0f, 0x01, 0x3e, 0x48, 0x0f, 0x07])
        start(machine, mask: 0x47700)
        machine.core.general[3] = 0
        machine.core.general[5] = Self.calls
        machine.core.general[12] = SupervisorMachine.entryAddress(0)
        machine.core.general[13] = SupervisorMachine.data + 0x1000 | rights
        machine.core.general[14] = Self.user
        #expect(machine.runToHalt() == Caught(vector: 13, rip: Self.user + 9))
        #expect(machine.core.general[3] == Self.calls / 2 * 17)
    }
}
