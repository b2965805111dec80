// SPDX-License-Identifier: Apache-2.0
// Repeated string instructions that are interrupted. Intel SDM volume 2, REP.

import Hypervisor
import Testing

@testable import HypervisorSoftware

struct RepeatedStringTests {
    /// In a checked run repeated instructions run to their end.
    private static let interrupting: [SoftwareEngine] = [.interpret, .translate]
    private let bits = SupervisorMachine.present | SupervisorMachine.writable

    @Test(
        arguments: [[0xf3, 0xaa], [0xf3, 0xa6], [0xf3, 0xac], [0xf2, 0xae]] as [[UInt8]], interrupting)
    func `a count of 2^63 comes back after a slice with the registers advanced`(code: [UInt8], engine: SoftwareEngine)
        throws
    {
        let machine = try SupervisorMachine(engine)
        // The address wraps within 64 KiB of 32-bit addresses that are all mapped to one frame: it never faults.
        for page in 0..<512 { try machine.map(page, to: 0, bits) }
        try machine.write(code + [0xf4])
        machine.core.general[0] = 0x55  // unlike memory for SCAS
        machine.core.general[1] = 1 << 63
        machine.core.general[6] = SupervisorMachine.playground
        machine.core.general[7] = SupervisorMachine.playground + 0x1000
        if code[1] == 0xaa { machine.core.general[0] = 0 }
        machine.start()
        #expect(machine.core.run(slice: 100) == .yielded)
        #expect(machine.core.rip == SupervisorMachine.code)
        let done = (1 << 63) - machine.core.general[1]
        #expect(done > 0 && done < 1 << 20)
        let register = code[1] == 0xac ? 6 : 7
        let start = SupervisorMachine.playground + (register == 7 ? 0x1000 : 0)
        #expect(machine.core.general[register] == start + done)
    }

    @Test(arguments: interrupting)
    func `a long MOVS goes on where it was interrupted and copies all`(engine: SoftwareEngine) throws {
        let machine = try SupervisorMachine(engine)
        let count: UInt64 = 0x40000
        for offset in 0..<count / 8 {
            try machine.put(offset &* 0x9e37_79b9_7f4a_7c15, at: SupervisorMachine.data + offset * 8)
        }
        try machine.write([0xf3, 0xa4, 0xf4])
        machine.core.general[1] = count
        machine.core.general[6] = SupervisorMachine.data
        machine.core.general[7] = SupervisorMachine.data + count
        machine.start()
        var slices = 0
        while machine.core.run(slice: 100) == .yielded { slices += 1 }
        #expect(slices > 5)
        #expect(machine.core.general[1] == 0)
        #expect(machine.core.general[6] == SupervisorMachine.data + count)
        #expect(machine.core.general[7] == SupervisorMachine.data + 2 * count)
        let offsets = stride(from: SupervisorMachine.data, to: SupervisorMachine.data + count, by: 8)
        #expect(try offsets.allSatisfy { try machine.get($0 + count) == machine.get($0) })
    }

    @Test(
        arguments: [[0xf3, 0xa4], [0xf3, 0x48, 0xa5], [0xf3, 0xaa], [0xf3, 0x66, 0xab]] as [[UInt8]],
        SoftwareEngine.allCases)
    func `a page fault in the middle leaves the registers at the faulting element`(
        code: [UInt8], engine: SoftwareEngine
    ) throws {
        let machine = try SupervisorMachine(engine)
        let size: UInt64 = code == [0xf3, 0x48, 0xa5] ? 8 : code.count == 3 ? 2 : 1
        try machine.map(0, to: 0, bits)
        try machine.map(1, to: 1, 0)
        try machine.write(code + [0xf4])
        let start = SupervisorMachine.playground + 0x1000 - 5 * size
        machine.core.general[1] = 12
        machine.core.general[6] = SupervisorMachine.data + 0x8000
        machine.core.general[7] = start
        machine.start()
        #expect(machine.runToHalt() == Caught(vector: 14, errorCode: 2, rip: SupervisorMachine.code))
        #expect(machine.core.cr2 == SupervisorMachine.playground + 0x1000)
        #expect(machine.core.general[1] == 7)
        #expect(machine.core.general[7] == start + 5 * size)
        if code.contains(0xa4) || code.contains(0xa5) {
            #expect(machine.core.general[6] == SupervisorMachine.data + 0x8000 + 5 * size)
        }
        // And with the page there it goes on to the end.
        try machine.map(1, to: 1, bits)
        let count = machine.core.general[1]
        machine.start()
        machine.core.general[1] = count
        #expect(machine.runToHalt() == nil)
        #expect(machine.core.general[7] == start + 12 * size)
    }

    /// Elements of 1 to 8 bytes, as bytes of the instruction.
    private static let moves: [(size: Int, code: [UInt8])] = [
        (1, [0xf3, 0xa4]), (2, [0x66, 0xf3, 0xa5]), (4, [0xf3, 0xa5]), (8, [0xf3, 0x48, 0xa5]),
    ]

    @Test(arguments: interrupting, [false, true])
    func `a copy into its own source moves element by element, either way and across pages`(
        engine: SoftwareEngine, isDown: Bool
    ) throws {
        let length = 512
        let count = 24
        // The middle is at the end of a page.
        let base = SupervisorMachine.data + 4096 - UInt64(length / 2)
        for (size, code) in Self.moves {
            for distance in -40...40 {
                let machine = try SupervisorMachine(engine)
                var expected = (0..<length).map { UInt8(truncatingIfNeeded: $0 &* 37 ^ $0 >> 3) }
                for start in stride(from: 0, to: length, by: 8) {
                    let word = expected[start..<start + 8].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
                    try machine.put(word, at: base + UInt64(start))
                }
                let from = 160 + (isDown ? (count - 1) * size : 0)
                for step in 0..<count {
                    let place = from + (isDown ? -step : step) * size
                    let element = Array(expected[place..<place + size])
                    expected.replaceSubrange(place + distance..<place + distance + size, with: element)
                }
                try machine.write([isDown ? 0xfd : 0xfc] + code + [0xf4])
                machine.core.general[1] = UInt64(count)
                machine.core.general[6] = base + UInt64(from)
                machine.core.general[7] = base + UInt64(from + distance)
                machine.start()
                while machine.core.run(slice: 100) == .yielded {}
                let words = try stride(from: 0, to: length, by: 8).map { try machine.get(base + UInt64($0)) }
                let actual = words.flatMap { word in (0..<8).map { UInt8(truncatingIfNeeded: word >> UInt64($0 * 8)) } }
                #expect(actual == expected, "\(size) bytes, distance \(distance)")
                let end = UInt64(count * size)
                #expect(machine.core.general[6] == base &+ UInt64(from) &+ (isDown ? 0 &- end : end))
                #expect(machine.core.general[1] == 0)
            }
        }
    }
}
