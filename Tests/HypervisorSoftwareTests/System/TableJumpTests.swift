// SPDX-License-Identifier: Apache-2.0
// A guest that interprets a program of its own, with a jump through a table for each operation. Their loads keep pages.

import Testing

@testable import HypervisorSoftware

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
    private func machine(_ engine: SoftwareEngine, table: UInt64) throws -> Machine {
        let machine = try Machine(engine, heat: 2)
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

    /// Of 5000 operations.
    private static let program: [UInt8] = {
        var state: UInt32 = 1
        return (0..<5000).map { _ in
            state = state &* 1_664_525 &+ 1_013_904_223
            return state >> 31 == 0 ? Operation.add : Operation.double
        }
    }()

    private static func result(_ program: ArraySlice<UInt8>) -> UInt64 {
        program.reduce(0) { $1 == Operation.add ? $0 &+ 1 : $0 &* 2 }
    }

    /// Whole, in two pages, with an entry in both, and where no page has begun.
    private static let tables = [
        Machine.playground + 0x2000, Machine.playground + 0x2ff8, Machine.playground + 0x2ffc, 1,
    ]

    @Test(arguments: tables, SoftwareEngine.allCases)
    func `program and table are read wherever they lie`(table: UInt64, engine: SoftwareEngine) throws {
        let machine = try machine(engine, table: table)
        try write(Self.program + [Operation.end], machine)
        machine.start()
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.general[3] == Self.result(Self.program[...]))
        #expect(machine.core.general[6] == Machine.playground + 5001)
        #expect(machine.core.counts.helperCalls < 20)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a page of the program that becomes another is read there from then on`(engine: SoftwareEngine) throws {
        let machine = try machine(engine, table: Machine.playground + 0x2000)
        var program = Array(Self.program[..<1000])
        try write(program, machine)
        // The same place, in another page of memory.
        program[500] = Operation.replacePage
        try write(Array(program[...500]), machine)
        let frame = Machine.data + 8 << 12
        try machine.write(Array(Self.program[501..<1000]).map { 1 - $0 } + [Operation.end], at: frame + 501)
        machine.core.general[1] = Machine.entryAddress(0)
        machine.core.general[9] = frame | Machine.present
        machine.core.general[2] = Machine.playground
        machine.start()
        #expect(machine.runToHalt() == nil)
        let executed = Array(Self.program[..<500]) + Self.program[501..<1000].map { 1 - $0 }
        #expect(machine.core.general[3] == Self.result(executed[...]))
    }

    @Test(arguments: [true, false], SoftwareEngine.allCases)
    func `reads that are refused fault where they are made`(ofTable: Bool, engine: SoftwareEngine) throws {
        let machine = try machine(engine, table: Machine.playground + 0x4000 - UInt64(Operation.missing) * 8)
        try machine.map(ofTable ? 4 : 1, to: 0, 0)
        let count = ofTable ? 4000 : 4096
        try write(Array(Self.program[..<count]) + (ofTable ? [Operation.missing] : []), machine)
        machine.start()
        // That of the last operation.
        let place = Self.place(Int(Self.program[count - 1])) + 3
        #expect(machine.runToHalt() == Caught(vector: 14, errorCode: 0, rip: place + (ofTable ? 6 : 0)))
        #expect(machine.core.cr2 == Machine.playground + (ofTable ? 0x4000 : 0x1000))
        #expect(machine.core.general[6] == Machine.playground + (ofTable ? 4001 : 4096))
        #expect(machine.core.general[3] == Self.result(Self.program[..<count]))
    }
}
