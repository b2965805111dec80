// SPDX-License-Identifier: Apache-2.0
// Loops whose accesses run through pages. Intel SDM volume 3, 4.7 and 6.5.

import Testing
import X86

@testable import HypervisorSoftware

/// A loop that comes to an end, or into a page that it may not access.
struct WalkingLoop: CustomTestStringConvertible, Sendable {
    var testDescription: String
    /// Goes round ECX times, and stops with HLT.
    var code: [UInt8]
    /// Where RDI begins, from the playground on.
    var start: UInt64
    /// Offset of the instruction that comes into the page, and what RDI and ECX are then; nil where it does not.
    var fault: (rip: UInt64, errorCode: UInt64, rdi: UInt64, rounds: UInt64)?
    var rounds: UInt64
    /// What RSI begins as.
    var index: UInt64 = 0

    static let cases: [WalkingLoop] = [
        // ADD RBX, [RDI]; MOV [RDI+8], RBX; ADD RDI, 16; DEC ECX; JNZ back; HLT
        WalkingLoop(testDescription: "upwards", code: up, start: 0, rounds: 768),
        WalkingLoop(
            testDescription: "upwards into no page", code: up, start: 0, fault: (0, 0, 0x3000, 768), rounds: 1000),
        WalkingLoop(
            testDescription: "upwards across pages", code: up, start: 0xff4, fault: (3, 2, 0x2ff4, 512), rounds: 1000),
        // SUB RDI, 16; ADD RBX, [RDI]; MOV [RDI+8], RBX; DEC ECX; JNZ back; HLT
        WalkingLoop(
            testDescription: "downwards into a page for reading",
            code: [0x48, 0x83, 0xef, 16, 0x48, 0x03, 0x1f, 0x48, 0x89, 0x5f, 8, 0xff, 0xc9, 0x75, 0xf1, 0xf4],
            start: 0x8000, fault: (7, 3, 0x4ff0, 768), rounds: 1000),
        // ADD BL, [RDI+RDX*4]; MOVDQA [RDI], XMM0; ADD RDI, 48; INC RDX; DEC ECX; JNZ back; HLT
        WalkingLoop(
            testDescription: "with an index and alignment",
            code: [0x02, 0x1c, 0x97, 0x66, 0x0f, 0x7f, 0x07, 0x48, 0x83, 0xc7, 48, 0x48, 0xff, 0xc2]
                + [0xff, 0xc9, 0x75, 0xee, 0xf4],
            start: 0, rounds: 200),
        // ADD RBX, [RDI]; TEST BL, 2; JZ over; MOV [RDI+24], RBX; over: ADD RDI, 8; DEC ECX; JNZ back; HLT
        WalkingLoop(
            testDescription: "with a part that is jumped over",
            code: [0x48, 0x03, 0x1f, 0xf6, 0xc3, 2, 0x74, 4, 0x48, 0x89, 0x5f, 24, 0x48, 0x83, 0xc7, 8]
                + [0xff, 0xc9, 0x75, 0xec, 0xf4],
            start: 0, rounds: 1500),
        WalkingLoop(
            testDescription: "with an index of 32 bits below zero, and a constant less", code: halfIndex,
            start: 705 * 8, rounds: 1400, index: 0xffff_fd44),
        WalkingLoop(
            testDescription: "with an index of 32 bits that overflows", code: halfIndex,
            start: 0 &- 0x7fff_fefb * 8, fault: (6, 0, 0 &- 0x7fff_fefb * 8, 256), rounds: 1000, index: 0x7fff_ff00),
    ]
    /// What is subtracted there.
    static let constant: UInt64 = 5

    // MOVSXD RAX, ESI; SUB RAX, RDX; ADD RBX, [RDI+RAX*8]; MOV [RDI+RAX*8+8], RBX; ADD ESI, 1; DEC ECX; JNZ back; HLT
    private static let halfIndex: [UInt8] = [
        0x48, 0x63, 0xc6, 0x48, 0x29, 0xd0, 0x48, 0x03, 0x1c, 0xc7, 0x48, 0x89, 0x5c, 0xc7, 8,
        0x83, 0xc6, 1, 0xff, 0xc9, 0x75, 0xea, 0xf4,
    ]

    private static let up: [UInt8] = [
        0x48, 0x03, 0x1f, 0x48, 0x89, 0x5f, 8, 0x48, 0x83, 0xc7, 16, 0xff, 0xc9, 0x75, 0xf1, 0xf4,
    ]
}

struct AccessStreamTests {
    /// Pages that do not follow each other in memory: three to be written, none, one to be read, three to be written.
    private static let frames = [3, 0, 6, nil, 4, 2, 7, 5]

    private func machine(_ loop: WalkingLoop, _ engine: SoftwareEngine) throws -> SupervisorMachine {
        let machine = try SupervisorMachine(engine, heat: 2)
        for (page, frame) in Self.frames.enumerated() {
            guard let frame else { continue }
            let rights = page == 4 ? 0 : SupervisorMachine.writable
            try machine.map(page, to: frame, SupervisorMachine.present | rights)
        }
        for offset in stride(from: UInt64(0), to: 0x8000, by: 8) {
            try machine.put(offset &* 0x9e37_79b9_7f4a_7c15, at: SupervisorMachine.data + offset)
        }
        try machine.write(loop.code)
        machine.core.general[1] = loop.rounds
        machine.core.general[2] = loop.index == 0 ? 0 : WalkingLoop.constant
        machine.core.general[6] = loop.index
        machine.core.general[7] = SupervisorMachine.playground &+ loop.start
        machine.start()
        return machine
    }

    private func contents(_ machine: SupervisorMachine) throws -> [UInt64] {
        try stride(from: UInt64(0), to: 0x8000, by: 8).map { try machine.get(SupervisorMachine.data + $0) }
    }

    @Test(arguments: WalkingLoop.cases, SoftwareEngine.allCases)
    func `they come as far as the pages let them`(loop: WalkingLoop, engine: SoftwareEngine) throws {
        let machine = try machine(loop, engine)
        let caught = machine.runToHalt()
        #expect(
            caught
                == loop.fault.map {
                    Caught(vector: 14, errorCode: $0.errorCode, rip: SupervisorMachine.code + $0.rip)
                })
        if let fault = loop.fault {
            #expect(machine.core.general[7] == SupervisorMachine.playground &+ fault.rdi)
            #expect(machine.core.general[1] == loop.rounds - fault.rounds)
            #expect(machine.core.cr2 >= SupervisorMachine.playground + (fault.errorCode == 3 ? 0x4ff8 : 0x3000))
        } else {
            #expect(machine.core.general[1] == 0)
        }
        if engine == .translate {
            #expect(machine.core.code.translator?.counts.walkingLoops ?? 0 > 0)
            let other = try self.machine(loop, .interpret)
            _ = other.runToHalt()
            #expect(try contents(machine) == contents(other))
            #expect(machine.core.general[3] == other.core.general[3])
        }
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `time goes on as fast as instructions run`(engine: SoftwareEngine) throws {
        let machine = try machine(WalkingLoop.cases[0], engine)
        for _ in 0..<3 {
            let before = machine.core.executed
            _ = machine.core.run(slice: 1000)
            // What is over is no more than once round.
            #expect((1000...1006).contains(machine.core.executed - before))
        }
    }

    // ADD RDI, 8; LEA ECX, [RCX-1]; TEST ECX, ECX; JZ over; CMP BYTE [RDI], 5; JNE back; over: HLT
    private static let search = WalkingLoop(
        testDescription: "a search",
        code: [0x48, 0x83, 0xc7, 8, 0x8d, 0x49, 0xff, 0x85, 0xc9, 0x74, 5]
            + [0x80, 0x3f, 5, 0x75, 0xf0, 0xf4],
        start: 0, rounds: 1500)

    private static func flags(ofComparing byte: UInt8, with other: UInt8) -> Flags {
        let (difference, borrow) = byte.subtractingReportingOverflow(other)
        var flags: Flags = []
        if borrow { flags.insert(.carry) }
        if difference.nonzeroBitCount % 2 == 0 { flags.insert(.parity) }
        if byte & 15 < other & 15 { flags.insert(.auxiliary) }
        if difference == 0 { flags.insert(.zero) }
        if difference >= 0x80 { flags.insert(.sign) }
        if Int8(bitPattern: byte).subtractingReportingOverflow(Int8(bitPattern: other)).overflow {
            flags.insert(.overflow)
        }
        return flags
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `flags that the loop does not need are right where a time slice ends`(engine: SoftwareEngine) throws {
        let machine = try machine(Self.search, engine)
        for offset in stride(from: UInt64(0), to: 0x8000, by: 8) {
            try machine.write([UInt8(truncatingIfNeeded: offset >> 3 &* 7) | 0x10], at: SupervisorMachine.data + offset)
        }
        var checked = 0
        for _ in 0..<1000 where machine.core.activity == .running {
            _ = machine.core.run(slice: 60)
            guard machine.core.rip == SupervisorMachine.code, machine.core.general[1] < Self.search.rounds else {
                continue
            }
            checked += 1
            let offset = machine.core.general[7] - SupervisorMachine.playground
            let frame = try #require(Self.frames[Int(offset >> 12)])
            let byte = try UInt8(
                truncatingIfNeeded: machine.get(SupervisorMachine.data + UInt64(frame) << 12 + offset & 4095))
            #expect(
                Flags(rawValue: machine.core.rflags).intersection(.status) == Self.flags(ofComparing: byte, with: 5))
        }
        try #require(checked > 50)
        if let translator = machine.core.code.translator { #expect(translator.counts.walkingLoops > 0) }
    }
}
