// SPDX-License-Identifier: Apache-2.0
// Accesses that lie in two pages. Intel SDM volume 3, 4.7.

import Testing

@testable import HypervisorSoftware

struct CrossingAccessTests {
    /// Pages that do not follow each other in memory, and one that is not there.
    private static let frames = [3, 0, nil, 6]

    private func machine(_ engine: SoftwareEngine, _ code: [UInt8], rdi: UInt64, rounds: UInt64) throws
        -> SupervisorMachine
    {
        let machine = try SupervisorMachine(engine, heat: 2)
        for (page, frame) in Self.frames.enumerated() {
            if let frame { try machine.map(page, to: frame, SupervisorMachine.present | SupervisorMachine.writable) }
        }
        for offset in stride(from: UInt64(0), to: 0x7000, by: 8) {
            try machine.put(offset &* 0x9e37_79b9_7f4a_7c15, at: SupervisorMachine.data + offset)
        }
        try machine.write(code)
        machine.core.general[1] = rounds
        machine.core.general[7] = SupervisorMachine.playground + rdi
        machine.start()
        return machine
    }

    /// ADD BX, [RDI]; ADD R8D, [RDI]; ADD R9, [RDI]; MOVDQU XMM1, [RDI]; PADDQ XMM0, XMM1; DEC ECX; JNZ back; HLT
    private static let reads: [UInt8] = [
        0x66, 0x03, 0x1f, 0x44, 0x03, 0x07, 0x4c, 0x03, 0x0f, 0xf3, 0x0f, 0x6f, 0x0f, 0x66, 0x0f, 0xd4, 0xc1,
        0xff, 0xc9, 0x75, 0xeb, 0xf4,
    ]

    /// MOV [RDI], BX; ADD RDX, [RDI]; MOV [RDI], EBX; ADD RDX, [RDI]; MOV [RDI], RBX; ADD RDX, [RDI]; MOVQ XMM0, RBX;
    /// MOVDQU [RDI], XMM0; ADD RDX, [RDI]; ADD RBX, RDX; DEC ECX; JNZ back; HLT
    private static let writes: [UInt8] = [
        0x66, 0x89, 0x1f, 0x48, 0x03, 0x17, 0x89, 0x1f, 0x48, 0x03, 0x17, 0x48, 0x89, 0x1f, 0x48, 0x03, 0x17,
        0x66, 0x48, 0x0f, 0x6e, 0xc3, 0xf3, 0x0f, 0x7f, 0x07, 0x48, 0x03, 0x17, 0x48, 0x01, 0xd3,
        0xff, 0xc9, 0x75, 0xdc, 0xf4,
    ]

    @Test(arguments: 0xff1...0xfff as ClosedRange<UInt64>, [reads, writes])
    func `their bytes are those of both pages, without the interpreter`(offset: UInt64, code: [UInt8]) throws {
        let machines = try SoftwareEngine.allCases.map { try machine($0, code, rdi: offset, rounds: 200) }
        let first = machines[0]
        for machine in machines {
            #expect(machine.runToHalt() == nil)
            #expect(machine.core.general[1] == 0)
            #expect(machine.core.general[2] == first.core.general[2])
            #expect(machine.core.general[3] == first.core.general[3])
            #expect(machine.core.general[8] == first.core.general[8])
            #expect(machine.core.general[9] == first.core.general[9])
            #expect(machine.core.xmm[0] == first.core.xmm[0])
            for address in stride(from: SupervisorMachine.data, to: SupervisorMachine.data + 0x7000, by: 8) {
                #expect(try machine.get(address) == first.get(address))
            }
            // It ran until there was code, and where the soft TLB had the page not yet.
            #expect(machine.core.counts.helperCalls < 20)
        }
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a read into a page that is not there faults, and has changed nothing`(engine: SoftwareEngine) throws {
        // ADD RBX, [RDI]; ADD RDI, 64; DEC ECX; JNZ back; HLT
        let code: [UInt8] = [0x48, 0x03, 0x1f, 0x48, 0x83, 0xc7, 64, 0xff, 0xc9, 0x75, 0xf5, 0xf4]
        let machine = try machine(engine, code, rdi: 0xffd, rounds: 100)
        #expect(machine.runToHalt() == Caught(vector: 14, errorCode: 0, rip: SupervisorMachine.code))
        #expect(machine.core.cr2 == SupervisorMachine.playground + 0x2000)
        #expect(machine.core.general[7] == SupervisorMachine.playground + 0x1ffd)
        #expect(machine.core.general[1] == 100 - 64)
        var sum: UInt64 = 0
        for round in 0..<UInt64(64) {
            let address = 0xffd + round * 64
            for byte in 0..<UInt64(8) {
                let place = address + byte
                let frame = UInt64(try #require(Self.frames[Int(place >> 12)]))
                let physical = SupervisorMachine.data + frame << 12 + place & 0xfff
                sum &+= (try machine.get(physical) & 0xff) << (byte * 8)
            }
        }
        #expect(machine.core.general[3] == sum)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a write leaves the flags as they were`(engine: SoftwareEngine) throws {
        // CMP RBX, RCX; MOVDQU [RDI], XMM0; ADC RAX, 0; CMP RCX, RBX; MOVDQU [RDI], XMM0; ADC RDX, 0; DEC ECX; JNZ back; HLT
        let code: [UInt8] = [
            0x48, 0x39, 0xcb, 0xf3, 0x0f, 0x7f, 0x07, 0x48, 0x83, 0xd0, 0, 0x48, 0x39, 0xd9, 0xf3, 0x0f, 0x7f, 0x07,
            0x48, 0x83, 0xd2, 0, 0xff, 0xc9, 0x75, 0xe6, 0xf4,
        ]
        let machine = try machine(engine, code, rdi: 0xff7, rounds: 100)
        machine.core.general[3] = 1 << 63
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.general[0] == 0)
        #expect(machine.core.general[2] == 100)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a write into a page that is not there faults, and has changed nothing`(engine: SoftwareEngine) throws {
        // MOV [RDI], RBX; ADD RDI, 64; DEC ECX; JNZ back; HLT
        let code: [UInt8] = [0x48, 0x89, 0x1f, 0x48, 0x83, 0xc7, 64, 0xff, 0xc9, 0x75, 0xf5, 0xf4]
        let machine = try machine(engine, code, rdi: 0xffd, rounds: 100)
        machine.core.general[3] = 0x0807_0605_0403_0201
        let end = SupervisorMachine.data + UInt64(try #require(Self.frames[1])) << 12 + 0xff8
        let before = try machine.get(end)
        #expect(machine.runToHalt() == Caught(vector: 14, errorCode: 2, rip: SupervisorMachine.code))
        #expect(machine.core.cr2 == SupervisorMachine.playground + 0x2000)
        #expect(machine.core.general[7] == SupervisorMachine.playground + 0x1ffd)
        #expect(try machine.get(end) == before)
        // The first went into both pages.
        let start = SupervisorMachine.data + UInt64(try #require(Self.frames[0])) << 12 + 0xff8
        #expect(try machine.get(start) >> 40 == 0x03_0201)
        let next = SupervisorMachine.data + UInt64(try #require(Self.frames[1])) << 12
        #expect(try machine.get(next) & 0xff_ffff_ffff == 0x08_0706_0504)
    }
}
