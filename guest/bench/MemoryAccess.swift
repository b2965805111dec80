// SPDX-License-Identifier: Apache-2.0
// Memory programs: a chain of pointers, copies, and strides that touch another page each time.

import CBench

/// Follows a random cycle through 4 MiB: each load waits for the one before.
enum Chase {
    private static let nodes = 65536
    private static let nodeSize = 64

    static func run(scale: Int) -> Outcome {
        guard let pages = Pages(count: nodes * nodeSize / Pages.size) else { return .refused }
        // Sattolo's shuffle makes one cycle of all.
        var order = (0..<nodes).map { $0 }
        var numbers = Numbers(seed: 8)
        for last in stride(from: nodes - 1, to: 0, by: -1) { order.swapAt(last, numbers.next(below: last)) }
        for index in 0..<nodes {
            let next = order[(index + 1) % nodes] * nodeSize
            // SAFETY: nodes are inside of the mapping.
            unsafe store_64(pages.start + order[index] * nodeSize, UInt64(next))
        }
        let first = UInt64(order[0] * nodeSize)
        var position = first
        var checksum: UInt64 = 0
        var stopwatch = Stopwatch()
        for _ in 0..<scale * 6 {
            for _ in 0..<nodes {
                // SAFETY: every node holds the offset of another.
                position = unsafe load_64(pages.start + Int(position))
                checksum = checksum &* 5 &+ position
            }
        }
        stopwatch.stop()
        return Outcome(stopwatch, checksum, isRight: position == first)
    }
}

/// Copies with SSE loads and stores, of many sizes, aligned and not.
enum Copy {
    private static let regionPages = 128

    static func run(scale: Int) -> Outcome {
        guard let source = Pages(count: regionPages), let target = Pages(count: regionPages) else { return .refused }
        source.fill(seed: 9)
        var numbers = Numbers(seed: 10)
        // Small copies are as frequent as large ones.
        let copies = (0..<256).map { index in
            (
                size: 8 + numbers.next(below: 64 << (index % 11)), from: numbers.next(below: 4096),
                to: numbers.next(below: 4096)
            )
        }
        var checksum: UInt64 = 0
        var stopwatch = Stopwatch()
        for _ in 0..<scale * 72 {
            for copy in copies {
                // SAFETY: the largest copy and offset are 65,544 and 4,095 bytes; regions have 524,288.
                unsafe perform(target.start + copy.to, source.start + copy.from, copy.size)
                checksum = unsafe folded(checksum, load_64(target.start + copy.to + copy.size - 8))
            }
        }
        stopwatch.stop()
        var isRight = true
        for copy in copies {
            unsafe perform(target.start + copy.to, source.start + copy.from, copy.size)
            for offset in 0..<copy.size
            where unsafe target.bytes[copy.to + offset] != source.bytes[copy.from + offset] { isRight = false }
        }
        return Outcome(stopwatch, checksum, isRight: isRight)
    }

    /// Copies at least eight bytes; the last piece may overlap the one before.
    private static func perform(_ to: UnsafeMutableRawPointer, _ from: UnsafeMutableRawPointer, _ size: Int) {
        var offset = 0
        while offset + 64 <= size {
            // SAFETY: the caller's regions have `size` bytes.
            unsafe copy_64_bytes(to + offset, from + offset)
            offset += 64
        }
        while offset + 8 <= size {
            unsafe copy_8_bytes(to + offset, from + offset)
            offset += 8
        }
        unsafe copy_8_bytes(to + size - 8, from + size - 8)
    }
}

/// Adds to a word in each page of 32 MiB in turn: no access is to the page of the one before.
enum Stride {
    private static let pageCount = 8192
    private static let step = Pages.size + 72

    static func run(scale: Int) -> Outcome {
        guard let pages = Pages(count: pageCount) else { return .refused }
        let length = pageCount * Pages.size
        for page in 0..<pageCount {
            // SAFETY: inside of the mapping.
            unsafe store_64(pages.start + page * Pages.size, 0)
        }
        let rounds = scale * 400_000
        var offset = 0
        var checksum: UInt64 = 0
        var stopwatch = Stopwatch()
        for _ in 0..<rounds {
            // SAFETY: `offset` is below the length, and a multiple of eight as length and step are.
            let value = unsafe load_64(pages.start + offset) &+ 1
            unsafe store_64(pages.start + offset, value)
            checksum = checksum &* 3 &+ value
            offset += step
            if offset >= length { offset -= length }
        }
        stopwatch.stop()
        var sum: UInt64 = 0
        for index in 0..<length / 8 { unsafe sum &+= load_64(pages.start + index * 8) }
        return Outcome(stopwatch, checksum, isRight: sum == UInt64(rounds))
    }
}
