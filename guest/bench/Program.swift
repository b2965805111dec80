// SPDX-License-Identifier: Apache-2.0
// What the programs have in common: the list of them, their clock, numbers without a pattern, memory in pages.

import CBench
import CLibc

/// A program of the suite and the group in which its results are counted.
struct Program {
    let name: StaticString
    let group: StaticString
    /// Does the work as often as told; the time is that of the work without its preparation.
    let run: (Int) -> Outcome

    init(_ name: StaticString, _ group: StaticString, _ run: @escaping (Int) -> Outcome) {
        self.name = name
        self.group = group
        self.run = run
    }

    static var all: [Program] {
        [
            Program("sieve", "integer", Sieve.run), Program("quicksort", "integer", Quicksort.run),
            Program("recursion", "integer", Recursion.run), Program("dispatch", "integer", Dispatch.run),
            Program("sha256", "integer", HashChain.run), Program("division", "integer", Division.run),
            Program("bits", "integer", Bits.run),
            Program("chase", "memory", Chase.run), Program("copy", "memory", Copy.run),
            Program("stride", "memory", Stride.run),
            Program("getppid", "system", SystemCalls.run), Program("pipe", "system", PingPong.run),
            Program("fork", "system", Processes.run), Program("pagefault", "system", PageFaults.run),
            Program("mprotect", "system", Protection.run), Program("signal", "system", Signals.run),
            Program("codegen", "system", GeneratedCode.run), Program("patch", "system", PatchedCode.run),
            Program("nbody", "float", Bodies.run), Program("x87", "float", ExtendedPrecision.run),
            Program("matrix", "sse", Matrix.run), Program("packed", "sse", PackedIntegers.run),
            Program("strings", "string", Strings.run), Program("repmove", "string", RepeatedMoves.run),
            Program("repscan", "string", RepeatedScans.run),
        ]
    }

    func describe() {
        var line = Line(name)
        line.add(" ")
        line.add(group)
        line.write()
    }
}

/// How long the work took, a number that depends on every result, and whether all checks held.
struct Outcome {
    let nanoseconds: Int
    let checksum: UInt64
    let isRight: Bool

    init(_ stopwatch: Stopwatch, _ checksum: UInt64, isRight: Bool) {
        nanoseconds = stopwatch.nanoseconds
        self.checksum = checksum
        self.isRight = isRight
    }
}

struct Stopwatch {
    private let start = Stopwatch.now
    private(set) var nanoseconds = 0

    mutating func stop() { nanoseconds = Stopwatch.now - start }

    private static var now: Int {
        var time = timespec()
        // SAFETY: fills one `timespec`.
        _ = unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return Int(time.tv_sec) * 1_000_000_000 + Int(time.tv_nsec)
    }
}

/// xorshift64* (Vigna 2014), with a fixed seed for each use.
struct Numbers {
    private var state: UInt64

    init(seed: UInt64) { state = seed &* 0x9e37_79b9_7f4a_7c15 | 1 }

    mutating func next() -> UInt64 {
        state ^= state >> 12
        state ^= state << 25
        state ^= state >> 27
        return state &* 0x2545_f491_4f6c_dd1d
    }

    mutating func next(below limit: Int) -> Int { Int(next() >> 33) % limit }
}

/// Folds `value` into a checksum so that order counts.
func folded(_ checksum: UInt64, _ value: UInt64) -> UInt64 {
    let mixed = (checksum ^ value) &* 0x0000_0100_0000_01b3
    return mixed ^ mixed >> 29
}

/// Zeroed memory from the kernel in pages of 4 KiB, never larger ones: what is measured must not depend on the kernel's
/// taste for them.
@safe struct Pages: ~Copyable {
    static let size = 4096
    let start: UnsafeMutableRawPointer
    let count: Int

    init?(count: Int, protection: Int32 = PROT_READ | PROT_WRITE) {
        let length = count * Pages.size
        // SAFETY: a new mapping at an address of the kernel's choice.
        let mapped = unsafe mmap(nil, length, protection, MAP_PRIVATE | MAP_ANON, -1, 0)
        guard let mapped = unsafe mapped, UInt(bitPattern: mapped) != UInt.max else { return nil }
        // SAFETY: the mapping made above.
        _ = unsafe madvise(mapped, length, MADV_NOHUGEPAGE)
        unsafe start = mapped
        self.count = count
    }

    deinit {
        // SAFETY: nothing refers to the mapping after its owner.
        _ = unsafe munmap(start, count * Pages.size)
    }

    var bytes: UnsafeMutableBufferPointer<UInt8> {
        // SAFETY: all of the mapping, which lives as long as this value.
        unsafe UnsafeMutableRawBufferPointer(start: start, count: count * Pages.size).bindMemory(to: UInt8.self)
    }

    func fill(seed: UInt64) {
        var numbers = Numbers(seed: seed)
        for index in 0..<count * Pages.size / 8 {
            // SAFETY: the index is inside of the mapping.
            unsafe start.storeBytes(of: numbers.next(), toByteOffset: index * 8, as: UInt64.self)
        }
    }
}

extension Outcome {
    /// What a program reports that the kernel gave no memory or no pipe.
    static var refused: Outcome { Outcome(Stopwatch(), 0, isRight: false) }
}
