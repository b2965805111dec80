// SPDX-License-Identifier: Apache-2.0
// Programs that write programs: compilers in the guest, and code that changes itself while it runs.

import CBench
import CLibc

/// Machine code put together byte by byte.
private struct Code {
    private(set) var bytes: [UInt8] = []

    mutating func add(_ opcode: UInt8..., immediate: UInt32? = nil) {
        bytes.append(contentsOf: opcode)
        guard let immediate else { return }
        for byte in 0..<4 { bytes.append(UInt8(truncatingIfNeeded: immediate >> UInt32(byte * 8))) }
    }

    /// x := argument; as often as told: x := (x + a) * b ^ c; return x.
    static func function(seed: UInt64, steps: Int) -> (code: Code, meaning: (UInt32) -> UInt32) {
        var numbers = Numbers(seed: seed)
        var code = Code()
        var constants: [(UInt32, UInt32, UInt32)] = []
        code.add(0x89, 0xf8)  // mov eax, edi
        for _ in 0..<steps {
            let (a, b, c) = (UInt32(numbers.next() >> 32), UInt32(numbers.next() >> 32), UInt32(numbers.next() >> 32))
            constants.append((a, b, c))
            code.add(0x05, immediate: a)  // add eax, a
            code.add(0x69, 0xc0, immediate: b)  // imul eax, eax, b
            code.add(0x35, immediate: c)  // xor eax, c
        }
        code.add(0xc3)  // ret
        return (code, { constants.reduce($0) { ($0 &+ $1.0) &* $1.1 ^ $1.2 } })
    }

    func write(to place: UnsafeMutableRawPointer) {
        // SAFETY: the caller's place has room for the code.
        for (offset, byte) in bytes.enumerated() {
            unsafe place.storeBytes(of: byte, toByteOffset: offset, as: UInt8.self)
        }
    }
}

/// A compiler in the guest: writes functions beside each other into a page and calls each some times, first in pages that
/// are always writable, then in pages that are either writable or executable.
enum GeneratedCode {
    private static let slots = 16
    private static let slotSize = 256

    static func run(scale: Int) -> Outcome {
        guard let open = Pages(count: 1, protection: PROT_READ | PROT_WRITE | PROT_EXEC), let strict = Pages(count: 1)
        else {
            return .refused
        }
        let functions = (0..<slots * 3).map { Code.function(seed: UInt64($0 + 1), steps: 1 + $0 % 14) }
        var errors = 0
        var checksum: UInt64 = 0
        var stopwatch = Stopwatch()
        for round in 0..<scale * 2400 {
            let function = functions[round % functions.count]
            // SAFETY: a function has at most 227 bytes, and a page 16 slots.
            let place = unsafe open.start + round % slots * slotSize
            unsafe function.code.write(to: place)
            errors += unsafe call(place, function.meaning, round, &checksum)
            guard round % 4 == 0 else { continue }
            let other = unsafe strict.start + round / 4 % slots * slotSize
            unsafe mprotect(strict.start, Pages.size, PROT_READ | PROT_WRITE)
            unsafe function.code.write(to: other)
            unsafe mprotect(strict.start, Pages.size, PROT_READ | PROT_EXEC)
            errors += unsafe call(other, function.meaning, round, &checksum)
        }
        stopwatch.stop()
        return Outcome(stopwatch, checksum, isRight: errors == 0)
    }

    /// Calls the function twenty times; 1 if the last result is wrong, or 0.
    private static func call(
        _ place: UnsafeMutableRawPointer, _ meaning: (UInt32) -> UInt32, _ round: Int, _ checksum: inout UInt64
    ) -> Int {
        var argument = UInt32(round)
        for _ in 1..<20 { unsafe argument = call_generated(place, argument) }
        let last = unsafe call_generated(place, argument)
        checksum = folded(checksum, UInt64(last))
        return meaning(argument) == last ? 0 : 1
    }
}

/// Changes one constant in the midst of code, writes data beside code that runs, and runs code that changes its own next
/// instruction (Intel SDM volume 3, 12.6: on one processor, a jump is all it takes).
enum PatchedCode {
    private static let selfChanging = 1024
    private static let data = 2048

    static func run(scale: Int) -> Outcome {
        guard let page = Pages(count: 1, protection: PROT_READ | PROT_WRITE | PROT_EXEC) else { return .refused }
        var plain = Code()
        plain.add(0x89, 0xf8)  // mov eax, edi
        plain.add(0x05, immediate: 0)  // add eax, a: `a` is at 3
        plain.add(0xc3)  // ret
        unsafe plain.write(to: page.start)
        var changing = Code()
        changing.add(0x89, 0x3d, immediate: 3)  // mov [rip + 3], edi: the constant below
        changing.add(0xeb, 0x00)  // jmp to the next instruction
        changing.add(0xb8, immediate: 0)  // mov eax, a
        changing.add(0xc3)  // ret
        // SAFETY: everything is at its own place in the one page.
        unsafe changing.write(to: page.start + selfChanging)
        var errors = 0
        var checksum: UInt64 = 0
        var stopwatch = Stopwatch()
        for round in 0..<scale * 10_000 {
            let number = UInt32(truncatingIfNeeded: round &* 0x9e37_79b9)
            if round % 4 == 0 { unsafe store_32(page.start + 3, number) }
            unsafe store_32(page.start + data, number)
            let sum = unsafe call_generated(page.start, UInt32(round))
            if unsafe sum != UInt32(round) &+ load_32(page.start + 3) { errors += 1 }
            if unsafe load_32(page.start + data) != number { errors += 1 }
            let constant = round % 8 == 0 ? unsafe call_generated(page.start + selfChanging, number) : number
            if constant != number { errors += 1 }
            checksum = folded(checksum, UInt64(sum ^ constant))
        }
        stopwatch.stop()
        return Outcome(stopwatch, checksum, isRight: errors == 0)
    }
}
