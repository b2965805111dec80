// SPDX-License-Identifier: Apache-2.0
// Which accesses a page permits, and what a fault reports. Intel SDM volume 3, 4.6 and 4.7.

import Testing
import X86

@testable import HypervisorSoftware

/// One access to page 0 of the playground.
struct PageAccess: CustomStringConvertible, Sendable {
    enum Kind: CaseIterable { case read, write, readModifyWrite, fetch, push, string }

    var kind: Kind
    var privilege: UInt8 = 0
    /// Page-table entry bits.
    var entry: UInt64
    var cr4: UInt64 = 0
    var writeProtect = true
    var alignmentCheck = false
    /// The expected error code, or nil where the access succeeds.
    var errorCode: UInt64?

    var description: String {
        "\(kind) at CPL \(privilege) of \(String(entry, radix: 16)) with CR4 \(cr4), AC \(alignmentCheck)"
    }

    static let cases: [PageAccess] = {
        let (p, w, u, nx) = (
            SupervisorMachine.present, SupervisorMachine.writable, SupervisorMachine.user, SupervisorMachine.noExecute
        )
        let smep = ControlRegister4.smep
        let smap = ControlRegister4.smap
        let reserved: UInt64 = 1 << 45
        var list: [PageAccess] = []
        for kind in Kind.allCases {
            let isFetch = kind == .fetch
            let isWrite = kind != .read && !isFetch
            // The W and I bits of the error code.
            let way: UInt64 = isFetch ? 0x10 : isWrite ? 2 : 0
            list += [
                PageAccess(kind: kind, entry: 0, errorCode: way),
                PageAccess(kind: kind, entry: p | w, errorCode: nil),
                PageAccess(kind: kind, entry: p, errorCode: isWrite ? 3 : nil),
                PageAccess(kind: kind, entry: p, writeProtect: false, errorCode: nil),
                PageAccess(kind: kind, entry: p | w | reserved, errorCode: 9 | way),
                PageAccess(kind: kind, entry: p | w | nx, errorCode: isFetch ? 0x11 : nil),
                PageAccess(kind: kind, entry: p | w | u, errorCode: nil),
                PageAccess(kind: kind, entry: p | w | u, cr4: smep, errorCode: isFetch ? 0x11 : nil),
                PageAccess(kind: kind, entry: p | w | u, cr4: smap, errorCode: isFetch ? nil : 1 | way),
                PageAccess(kind: kind, entry: p | w | u, cr4: smap, alignmentCheck: true, errorCode: nil),
            ]
            // At CPL 3 with the code in the playground too.
            list += [
                PageAccess(kind: kind, privilege: 3, entry: 0, errorCode: 4 | way),
                PageAccess(kind: kind, privilege: 3, entry: p | w | u, errorCode: nil),
                PageAccess(kind: kind, privilege: 3, entry: p | w, errorCode: 5 | way),
                PageAccess(kind: kind, privilege: 3, entry: p | u, errorCode: isWrite ? 7 : nil),
                PageAccess(kind: kind, privilege: 3, entry: p | u, writeProtect: false, errorCode: isWrite ? 7 : nil),
                PageAccess(kind: kind, privilege: 3, entry: p | w | u | nx, errorCode: isFetch ? 0x15 : nil),
                PageAccess(kind: kind, privilege: 3, entry: p | w | u, cr4: smep | smap, errorCode: nil),
                PageAccess(kind: kind, privilege: 3, entry: p | w | u | reserved, errorCode: 13 | way),
            ]
        }
        return list
    }()

    /// The instruction, with its operand at RBX.
    var code: [UInt8] {
        switch kind {
        case .read: [0x48, 0x8b, 0x03]
        case .write: [0x48, 0x89, 0x03]
        case .readModifyWrite: [0x48, 0x01, 0x03]
        case .fetch: [0xff, 0xe3]
        case .push: [0x50]
        case .string: [0xaa]
        }
    }
}

struct PageFaultTests {
    @Test(arguments: PageAccess.cases, SoftwareEngine.allCases.flatMap { [($0, false), ($0, true)] })
    func `an access faults as the page's bits say, and else sets A and D`(
        access: PageAccess, circumstances: (engine: SoftwareEngine, isWarm: Bool)
    ) throws {
        let (engine, isWarm) = circumstances
        let machine = try SupervisorMachine(engine)
        let target = SupervisorMachine.playground + 0x100
        var codeAddress = SupervisorMachine.code
        if access.privilege == 3 {
            codeAddress = SupervisorMachine.playground + 0x1000
            try machine.map(1, to: 1, SupervisorMachine.present | SupervisorMachine.user)
            try machine.write(access.code + [0x0f, 0x0b], at: SupervisorMachine.data + 0x1000)
        } else {
            try machine.write(access.code + [0x0f, 0x0b])
        }
        // UD2 at the target of the jump.
        try machine.write([0x0f, 0x0b], at: SupervisorMachine.data + 0x100)
        machine.core.cr4 |= access.cr4
        if !access.writeProtect { machine.core.cr0 &= ~ControlRegister0.writeProtect }

        func run() {
            machine.core.rflags = access.alignmentCheck ? 0x40002 : 2
            machine.core.general[3] = target
            machine.core.general[7] = target
            machine.start(at: codeAddress, privilege: access.privilege)
            if access.kind == .push { machine.core.general[4] = target + 8 }
        }
        if isWarm {
            // The same access where all is permitted fills the TLB; the entry changes with a flush.
            let all = SupervisorMachine.present | SupervisorMachine.writable
            try machine.map(0, to: 0, access.privilege == 3 ? all | SupervisorMachine.user : all)
            run()
            #expect(machine.runToHalt()?.vector == 6)
        }
        try machine.map(0, to: 0, access.entry)
        run()
        let caught = try #require(machine.runToHalt())
        let isFetch = access.kind == .fetch
        if let errorCode = access.errorCode {
            #expect(caught == Caught(vector: 14, errorCode: errorCode, rip: isFetch ? target : codeAddress))
            #expect(machine.core.cr2 == target)
            #expect(try machine.entry(0) & 0xfff == access.entry & 0xfff)
            #expect(machine.core.general[4] != target || access.kind != .push)
        } else {
            #expect(caught == Caught(vector: 6, rip: isFetch ? target : codeAddress + UInt64(access.code.count)))
            let isWrite = access.kind != .read && !isFetch
            let expected = SupervisorMachine.accessed | (isWrite ? SupervisorMachine.dirty : 0)
            #expect(try machine.entry(0) & 0x60 == expected)
        }
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `an access across pages faults at the second page's start and writes nothing`(engine: SoftwareEngine) throws {
        let machine = try SupervisorMachine(engine)
        try machine.map(0, to: 0, SupervisorMachine.present | SupervisorMachine.writable)
        try machine.map(1, to: 1, SupervisorMachine.present)
        try machine.write([0x48, 0x89, 0x03, 0xf4])
        machine.core.general[0] = .max
        machine.core.general[3] = SupervisorMachine.playground + 0xffb
        machine.start()
        #expect(machine.runToHalt() == Caught(vector: 14, errorCode: 3, rip: SupervisorMachine.code))
        #expect(machine.core.cr2 == SupervisorMachine.playground + 0x1000)
        #expect(try machine.get(SupervisorMachine.data + 0xff8) == 0)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a write after a read of a clean page sets the dirty bit`(engine: SoftwareEngine) throws {
        let machine = try SupervisorMachine(engine)
        try machine.map(0, to: 0, SupervisorMachine.present | SupervisorMachine.writable)
        // MOV RAX, [RBX]; HLT, then MOV [RBX], RAX; HLT
        try machine.write([0x48, 0x8b, 0x03, 0xf4, 0x48, 0x89, 0x03, 0xf4])
        machine.core.general[3] = SupervisorMachine.playground
        machine.start()
        #expect(machine.runToHalt() == nil)
        #expect(try machine.entry(0) & 0x60 == SupervisorMachine.accessed)
        machine.start(at: SupervisorMachine.code + 4)
        #expect(machine.runToHalt() == nil)
        #expect(try machine.entry(0) & 0x60 == SupervisorMachine.accessed | SupervisorMachine.dirty)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `an instruction that crosses into a page that is not there faults at that page`(engine: SoftwareEngine) throws
    {
        let machine = try SupervisorMachine(engine)
        try machine.map(0, to: 0, SupervisorMachine.present)
        try machine.map(1, to: 1, 0)
        try machine.write([0xb8, 1], at: SupervisorMachine.data + 0xffe)
        machine.start(at: SupervisorMachine.playground + 0xffe)
        #expect(
            machine.runToHalt() == Caught(vector: 14, errorCode: 0x10, rip: SupervisorMachine.playground + 0xffe))
        #expect(machine.core.cr2 == SupervisorMachine.playground + 0x1000)
    }
}
