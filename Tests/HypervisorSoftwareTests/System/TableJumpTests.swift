// SPDX-License-Identifier: Apache-2.0
// A guest that interprets a program of its own, with a jump through a table for each operation. Their loads keep pages, and what
// follows an operation is expected to follow it again.

import Testing

@testable import HypervisorSoftware

/// The operations of a program, and how often code runs before it is translated.
struct TableProgram: CustomTestStringConvertible, Sendable {
    var testDescription: String
    var operations: [UInt8]
    var heat: UInt8
    /// Whether operations follow each other so often in the same way that they are expected to.
    var isRegular: Bool { heat > 6 }

    static let all = [
        TableProgram(testDescription: "random", operations: random, heat: 2),
        TableProgram(testDescription: "regular", operations: regular, heat: 12),
        TableProgram(
            testDescription: "regular at first", operations: Array(regular[..<1500]) + random[1500...], heat: 12),
    ]

    private static let count = 5000
    private static let regular = (0..<count).map { UInt8($0 & 1) }
    private static let random: [UInt8] = {
        var state: UInt32 = 1
        return (0..<count).map { _ in
            state = state &* 1_664_525 &+ 1_013_904_223
            return UInt8(state >> 31)
        }
    }()
}

struct TableJumpTests {
    private typealias Machine = SupervisorMachine

    private enum Operation {
        static let add: UInt8 = 0
        static let double: UInt8 = 1
        static let end: UInt8 = 2
        /// Makes the page of the program another one.
        static let replacePage: UInt8 = 3
        static let missing: UInt8 = 4
    }

    /// MOVZX EAX, [RSI]; INC RSI; JMP [RDI + RAX * 8]
    private static let dispatch: [UInt8] = [0x0f, 0xb6, 0x06, 0x48, 0xff, 0xc6, 0xff, 0x24, 0xc7]
    /// INC RBX; ADD RBX, RBX; HLT; MOV [RCX], R9 and INVLPG [RDX]
    private static let operations: [[UInt8]] = [
        [0x48, 0xff, 0xc3], [0x48, 0x01, 0xdb], [0xf4], [0x4c, 0x89, 0x09, 0x0f, 0x01, 0x3a],
    ]
    private static func place(_ operation: Int) -> UInt64 { Machine.code + 0x40 + UInt64(operation) * 0x20 }

    /// The program is read from the start of the playground; `table` is a linear address.
    private func machine(_ engine: SoftwareEngine, _ program: TableProgram, table: UInt64) throws -> Machine {
        let machine = try Machine(engine, heat: program.heat)
        for page in 0..<4 { try machine.map(page, to: 7 - page * 2, Machine.present | Machine.writable) }
        try machine.write(Self.dispatch)
        for (number, operation) in Self.operations.enumerated() {
            try machine.write(operation + Self.dispatch, at: Self.place(number))
            for byte in 0..<UInt64(8) {
                let address = table + UInt64(number) * 8 + byte
                try machine.write([UInt8(truncatingIfNeeded: Self.place(number) >> (byte * 8))], at: physical(address))
            }
        }
        machine.core.general[6] = Machine.playground
        machine.core.general[7] = table
        return machine
    }

    private func physical(_ linear: UInt64) -> UInt64 {
        guard linear >= Machine.playground else { return linear }
        let offset = linear - Machine.playground
        return Machine.data + (7 - offset >> 12 * 2) << 12 + offset & 4095
    }

    private func write(_ program: [UInt8], _ machine: Machine) throws {
        for (number, operation) in program.enumerated() {
            try machine.write([operation], at: physical(Machine.playground + UInt64(number)))
        }
    }

    /// Runs the program to its end.
    private func run(_ program: TableProgram, _ machine: Machine) throws -> Caught? {
        machine.start()
        let caught = machine.runToHalt()
        if program.isRegular, let translator = machine.core.code.translator {
            try #require(translator.counts.expectedJumps > 0)
        }
        return caught
    }

    private static func result(_ program: ArraySlice<UInt8>) -> UInt64 {
        program.reduce(0) { $1 == Operation.add ? $0 &+ 1 : $0 &* 2 }
    }

    /// Whole, in two pages, with an entry in both, and where no page has begun.
    private static let tables = [
        Machine.playground + 0x2000, Machine.playground + 0x2ff8, Machine.playground + 0x2ffc, 1,
    ]

    private static let tablesAndEngines = tables.flatMap { table in SoftwareEngine.allCases.map { (table, $0) } }

    @Test(arguments: TableProgram.all, tablesAndEngines)
    func `program and table are read wherever they lie`(
        program: TableProgram, place: (table: UInt64, engine: SoftwareEngine)
    ) throws {
        let machine = try machine(place.engine, program, table: place.table)
        try write(program.operations + [Operation.end], machine)
        #expect(try run(program, machine) == nil)
        #expect(machine.core.general[3] == Self.result(program.operations[...]))
        #expect(machine.core.general[6] == Machine.playground + 5001)
        #expect(machine.core.counts.helperCalls < 20)
    }

    @Test(arguments: TableProgram.all, SoftwareEngine.allCases)
    func `a page of the program that becomes another is read there from then on`(
        program: TableProgram, engine: SoftwareEngine
    ) throws {
        let machine = try machine(engine, program, table: Machine.playground + 0x2000)
        let before = Array(program.operations[..<500])
        try write(before + [Operation.replacePage], machine)
        // The same place, in another page of memory.
        let frame = Machine.data + 8 << 12
        let after = program.operations[501..<1000].map { 1 - $0 }
        try machine.write(after + [Operation.end], at: frame + 501)
        machine.core.general[1] = Machine.entryAddress(0)
        machine.core.general[9] = frame | Machine.present
        machine.core.general[2] = Machine.playground
        #expect(try run(program, machine) == nil)
        #expect(machine.core.general[3] == Self.result((before + after)[...]))
    }

    private static let refusals = [true, false].flatMap { ofTable in SoftwareEngine.allCases.map { (ofTable, $0) } }

    @Test(arguments: TableProgram.all, refusals)
    func `reads that are refused fault where they are made`(
        program: TableProgram, refusal: (ofTable: Bool, engine: SoftwareEngine)
    ) throws {
        let ofTable = refusal.ofTable
        let machine = try machine(
            refusal.engine, program, table: Machine.playground + 0x4000 - UInt64(Operation.missing) * 8)
        try machine.map(ofTable ? 4 : 1, to: 0, 0)
        let count = ofTable ? 4000 : 4096
        try write(Array(program.operations[..<count]) + (ofTable ? [Operation.missing] : []), machine)
        // That of the last operation.
        let place = Self.place(Int(program.operations[count - 1])) + 3
        #expect(try run(program, machine) == Caught(vector: 14, errorCode: 0, rip: place + (ofTable ? 6 : 0)))
        #expect(machine.core.cr2 == Machine.playground + (ofTable ? 0x4000 : 0x1000))
        #expect(machine.core.general[6] == Machine.playground + (ofTable ? 4001 : 4096))
        #expect(machine.core.general[3] == Self.result(program.operations[..<count]))
    }
}
