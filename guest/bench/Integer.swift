// SPDX-License-Identifier: Apache-2.0
// Integer programs: loops, branches, calls, jumps through tables, hashing, division, bits.

import CBench

enum Sieve {
    private static let limit = 1 << 16
    private static let primesBelowLimit = 6542

    static func run(scale: Int) -> Outcome {
        var composite = [Bool](repeating: false, count: limit)
        var checksum: UInt64 = 0
        var isRight = true
        var stopwatch = Stopwatch()
        for _ in 0..<scale * 32 {
            for index in 0..<limit { composite[index] = false }
            var primes = 0
            for candidate in 2..<limit where !composite[candidate] {
                primes += 1
                checksum = checksum &* 31 &+ UInt64(candidate)
                var multiple = candidate * candidate
                while multiple < limit {
                    composite[multiple] = true
                    multiple += candidate
                }
            }
            isRight = isRight && primes == primesBelowLimit
        }
        stopwatch.stop()
        return Outcome(stopwatch, checksum, isRight: isRight)
    }
}

enum Quicksort {
    private static let count = 16384

    static func run(scale: Int) -> Outcome {
        var numbers = Numbers(seed: 2)
        let original = (0..<count).map { _ in UInt32(truncatingIfNeeded: numbers.next()) }
        var values = original
        var checksum: UInt64 = 0
        var isRight = true
        var stopwatch = Stopwatch()
        for round in 0..<scale * 6 {
            for index in 0..<count {
                values[index] = original[index] ^ UInt32(truncatingIfNeeded: round &* 0x9e37_79b9)
            }
            sort(&values, 0, count - 1)
            for index in 1..<count where values[index - 1] > values[index] { isRight = false }
            for index in stride(from: 0, to: count, by: 97) { checksum = folded(checksum, UInt64(values[index])) }
        }
        stopwatch.stop()
        return Outcome(stopwatch, checksum, isRight: isRight)
    }

    /// Hoare's partition around the middle element.
    private static func sort(_ values: inout [UInt32], _ first: Int, _ last: Int) {
        guard first < last else { return }
        let pivot = values[first + (last - first) / 2]
        var low = first
        var high = last
        while low <= high {
            while values[low] < pivot { low += 1 }
            while values[high] > pivot { high -= 1 }
            if low <= high {
                values.swapAt(low, high)
                low += 1
                high -= 1
            }
        }
        sort(&values, first, high)
        sort(&values, low, last)
    }
}

/// Calls and returns, almost nothing else.
enum Recursion {
    static func run(scale: Int) -> Outcome {
        var checksum: UInt64 = 0
        var isRight = true
        var stopwatch = Stopwatch()
        for _ in 0..<scale * 24 {
            let count = Int(unknown(20))
            let sum = fibonacci(count)
            let takeuchi = takeuchi(count - 2, count - 8, count - 14)
            isRight = isRight && sum == 6765 && takeuchi == 7
            checksum = folded(checksum, UInt64(sum * 100 + takeuchi))
        }
        stopwatch.stop()
        return Outcome(stopwatch, checksum, isRight: isRight)
    }

    @inline(never)
    private static func fibonacci(_ index: Int) -> Int {
        index < 2 ? index : fibonacci(index - 1) + fibonacci(index - 2)
    }

    /// Takeuchi's function: three calls in the arguments of a fourth.
    @inline(never)
    private static func takeuchi(_ x: Int, _ y: Int, _ z: Int) -> Int {
        x <= y ? z : takeuchi(takeuchi(x - 1, y, z), takeuchi(y - 1, z, x), takeuchi(z - 1, x, y))
    }
}

/// An interpreter of a small machine: each of its instructions is a jump through a table.
enum Dispatch {
    /// Collatz: a number's way to 1, its length in the second register.
    private static let code: [UInt8] = [
        0,  // 0: end at 1
        1,  // 1: go to 5 if odd
        2,  // 2: halve
        3,  // 3: count
        4,  // 4: go to 0
        5,  // 5: triple
        6,  // 6: add one
        7,  // 7: nothing
        3,  // 8: count
        4,  // 9: go to 0
    ]

    static func run(scale: Int) -> Outcome {
        let code = code.map { UInt8(unknown(UInt64($0))) }
        var checksum: UInt64 = 0
        var steps = 0
        let starts = scale * 6000
        var stopwatch = Stopwatch()
        for start in 1...starts {
            let length = interpret(code, UInt64(start))
            steps += length
            checksum = folded(checksum, UInt64(length))
        }
        stopwatch.stop()
        var expected = 0
        for start in 1...starts {
            var value = start
            while value != 1 {
                value = value % 2 == 0 ? value / 2 : value * 3 + 1
                expected += 1
            }
        }
        return Outcome(stopwatch, checksum, isRight: steps == expected)
    }

    @inline(never)
    private static func interpret(_ code: [UInt8], _ start: UInt64) -> Int {
        var value = start
        var count = 0
        var position = 0
        while true {
            let operation = code[position]
            position += 1
            switch operation {
            case 0: if value == 1 { return count }
            case 1: if value & 1 == 1 { position = 5 }
            case 2: value >>= 1
            case 3: count += 1
            case 4: position = 0
            case 5: value &*= 3
            case 6: value &+= 1
            default: break
            }
        }
    }
}

/// A chain of SHA-256, each digest that of the one before.
enum HashChain {
    static func run(scale: Int) -> Outcome {
        var message = [64 of UInt8](repeating: 0)
        message[0] = UInt8(ascii: "a")
        message[1] = UInt8(ascii: "b")
        message[2] = UInt8(ascii: "c")
        // FIPS 180-4's example: SHA-256("abc") begins with ba7816bf.
        let isRight = SHA256.digest(of: message, count: 3).words[0] == 0xba78_16bf
        var checksum: UInt64 = 0
        var stopwatch = Stopwatch()
        for _ in 0..<scale * 5000 {
            let digest = SHA256.digest(of: message, count: 32)
            for index in 0..<32 { message[index] = digest.byte(index) }
            checksum = folded(checksum, UInt64(digest.words[0]))
        }
        stopwatch.stop()
        return Outcome(stopwatch, checksum, isRight: isRight)
    }
}

/// Signed and unsigned division of 32, 64 and 128 bits by 32 and 64.
enum Division {
    static func run(scale: Int) -> Outcome {
        var numbers = Numbers(seed: 6)
        let pairs = (0..<1024).map { _ in (numbers.next(), numbers.next() >> 20 | 1) }
        var checksum: UInt64 = 0
        var errors = 0
        var stopwatch = Stopwatch()
        for _ in 0..<scale * 360 {
            for (number, divisor) in pairs {
                let quotient = number / divisor
                let rest = number % divisor
                if quotient &* divisor &+ rest != number { errors += 1 }
                let signed = Int64(bitPattern: number)
                let signedQuotient = signed / Int64(divisor)
                if signedQuotient &* Int64(divisor) &+ signed % Int64(divisor) != signed { errors += 1 }
                let word = UInt32(truncatingIfNeeded: number)
                let wordQuotient = word / (UInt32(truncatingIfNeeded: divisor) | 1)
                let wide = divisor.dividingFullWidth((rest, number))
                checksum =
                    (checksum &+ quotient ^ UInt64(bitPattern: signedQuotient)) &+ UInt64(wordQuotient)
                    &+ wide.quotient ^ wide.remainder
            }
        }
        stopwatch.stop()
        return Outcome(stopwatch, checksum, isRight: errors == 0)
    }
}

/// Counting, finding, rotating and swapping bits, and additions of 256 bits with their carries.
enum Bits {
    static func run(scale: Int) -> Outcome {
        var numbers = Numbers(seed: 7)
        let words = (0..<1024).map { _ in numbers.next() }
        var sum = (UInt64(0), UInt64(0), UInt64(0), UInt64(0))
        var checksum: UInt64 = 0
        var errors = 0
        var stopwatch = Stopwatch()
        for round in 0..<scale * 400 {
            for word in words {
                let rotated = word << UInt64(round & 63) | word >> UInt64((64 - round) & 63)
                let highest = 63 - rotated.leadingZeroBitCount
                let lowest = rotated.trailingZeroBitCount
                if rotated >> UInt64(highest) != 1 || rotated << UInt64(63 - lowest) != 1 << 63 { errors += 1 }
                let bits = UInt64(rotated.nonzeroBitCount + highest + lowest)
                add(rotated, word, rotated.byteSwapped, bits, to: &sum)
                checksum = checksum &* 3 &+ bits
            }
        }
        stopwatch.stop()
        checksum = folded(folded(folded(folded(checksum, sum.0), sum.1), sum.2), sum.3)
        return Outcome(stopwatch, checksum, isRight: errors == 0)
    }

    private static func add(
        _ first: UInt64, _ second: UInt64, _ third: UInt64, _ fourth: UInt64,
        to sum: inout (UInt64, UInt64, UInt64, UInt64)
    ) {
        let low = sum.0.addingReportingOverflow(first)
        let middle = adding(sum.1, second, carry: low.overflow)
        let high = adding(sum.2, third, carry: middle.carry)
        sum = (low.partialValue, middle.sum, high.sum, adding(sum.3, fourth, carry: high.carry).sum)
    }

    private static func adding(_ first: UInt64, _ second: UInt64, carry: Bool) -> (sum: UInt64, carry: Bool) {
        let partial = first.addingReportingOverflow(second)
        let whole = partial.partialValue.addingReportingOverflow(carry ? 1 : 0)
        return (whole.partialValue, partial.overflow || whole.overflow)
    }
}
