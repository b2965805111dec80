// SPDX-License-Identifier: Apache-2.0
// String programs: searches as C libraries do them with SSE, and the repeated string instructions.

import CBench

/// Finds bytes 16 at a time, as strlen, memchr and strcspn do, in strings of 1 to 1000 bytes at any alignment.
enum Strings {
    static func run(scale: Int) -> Outcome {
        guard let pages = Pages(count: 64) else { return .refused }
        var numbers = Numbers(seed: 14)
        var strings: [(start: Int, length: Int)] = []
        var position = 0
        while position < (pages.count - 1) * Pages.size {
            let length = 1 + numbers.next(below: 1000 >> (strings.count % 10))
            for offset in 0..<length {
                // SAFETY: strings begin a page before the end and are shorter than a page.
                unsafe pages.bytes[position + offset] = UInt8(97 + numbers.next(below: 26))
            }
            strings.append((position, length))
            position += length + 1
        }
        var checksum: UInt64 = 0
        var errors = 0
        var stopwatch = Stopwatch()
        for _ in 0..<scale * 96 {
            for string in strings {
                let length = find(pages, from: string.start, 0)
                if length != string.length { errors += 1 }
                let letter = find(pages, from: string.start, UInt8(ascii: "q"))
                let stop = findAny(pages, from: string.start, ["z", "x", "\0", "\n"])
                checksum = checksum &* 7 &+ UInt64(min(letter, length) &* 3 &+ stop)
            }
        }
        stopwatch.stop()
        return Outcome(stopwatch, checksum, isRight: errors == 0)
    }

    /// The distance to the first byte `value`; the last page has only zeros.
    private static func find(_ pages: borrowing Pages, from start: Int, _ value: UInt8) -> Int {
        let limit = pages.count * Pages.size - 16
        var position = start
        while position <= limit {
            // SAFETY: 16 bytes at or before the limit.
            let matches = unsafe equal_bytes(pages.start + position, value)
            if matches != 0 { return position - start + matches.trailingZeroBitCount }
            position += 16
        }
        return limit
    }

    private static func findAny(_ pages: borrowing Pages, from start: Int, _ values: [4 of Unicode.Scalar]) -> Int {
        var set: UInt32 = 0
        for index in values.indices { set |= values[index].value << UInt32(index * 8) }
        let limit = pages.count * Pages.size - 16
        var position = start
        while position <= limit {
            // SAFETY: 16 bytes at or before the limit.
            let index = unsafe first_of_four(pages.start + position, set)
            if index < 16 { return position - start + Int(index) }
            position += 16
        }
        return limit
    }
}

/// `rep movs` up and down and `rep stos`, of 1 byte to 64 KiB.
enum RepeatedMoves {
    static func run(scale: Int) -> Outcome {
        guard let source = Pages(count: 32), let target = Pages(count: 32) else { return .refused }
        source.fill(seed: 15)
        var numbers = Numbers(seed: 16)
        let moves = (0..<128).map { index in
            (size: 8 + numbers.next(below: 8 << (index % 14)), offset: numbers.next(below: 4096))
        }
        var checksum: UInt64 = 0
        var errors = 0
        var stopwatch = Stopwatch()
        for round in 0..<scale * 40 {
            for move in moves {
                // SAFETY: the largest size and offset are 65,544 and 4,095 bytes; regions have 131,072.
                let to = unsafe target.start + move.offset
                let from = unsafe source.start + (move.offset ^ 1234)
                unsafe rep_movsb(to, from, move.size)
                checksum = unsafe folded(checksum, load_64(to + move.size - 8))
                unsafe rep_movsq(to, from + 1, move.size / 8)
                unsafe rep_stosb(to, UInt8(truncatingIfNeeded: round), move.size / 2)
                checksum = unsafe folded(checksum, load_64(to + move.size / 2 - 4))
                unsafe rep_movsb_down(to + move.size, from + move.size, move.size / 4)
                if unsafe load_64(to + move.size - 8) != expectedEnd(from, to, move.size) { errors += 1 }
                unsafe rep_stosq(to, checksum, move.size / 8)
            }
        }
        stopwatch.stop()
        for index in 0..<target.count * Pages.size { checksum = unsafe folded(checksum, UInt64(target.bytes[index])) }
        return Outcome(stopwatch, checksum, isRight: errors == 0)
    }

    /// The last eight bytes after a move of the last quarter, which may be fewer than eight.
    private static func expectedEnd(
        _ from: UnsafeMutableRawPointer, _ to: UnsafeMutableRawPointer, _ size: Int
    ) -> UInt64 {
        guard size / 4 < 8 else { return unsafe load_64(from + size - 8) }
        return unsafe load_64(to + size - 8)
    }
}

/// `repne scas` and `repe cmps` over 1 byte to 16 KiB.
enum RepeatedScans {
    static func run(scale: Int) -> Outcome {
        guard let first = Pages(count: 8), let second = Pages(count: 8) else { return .refused }
        var numbers = Numbers(seed: 17)
        let scans = (0..<64).map { index in
            (distance: numbers.next(below: 4 << (index % 13)), offset: numbers.next(below: 4096))
        }
        var checksum: UInt64 = 0
        var errors = 0
        var stopwatch = Stopwatch()
        for _ in 0..<scale * 40 {
            for scan in scans {
                // SAFETY: the largest distance and offset are 16,383 and 4,095; regions have 32,768 bytes.
                let place = unsafe second.start + scan.offset + scan.distance
                unsafe rep_stosb(place, 1, 1)
                let scanned = unsafe repne_scasb(second.start + scan.offset, 1, scan.distance + 1)
                let compared = unsafe repe_cmpsb(
                    first.start + scan.offset, second.start + scan.offset, scan.distance + 2)
                if scanned != scan.distance || compared != scan.distance { errors += 1 }
                unsafe rep_stosb(place, 0, 1)
                let none = unsafe repne_scasb(second.start + scan.offset, 1, scan.distance)
                if none != scan.distance { errors += 1 }
                checksum = folded(checksum, UInt64(scanned &* 3 &+ compared))
            }
        }
        stopwatch.stop()
        return Outcome(stopwatch, checksum, isRight: errors == 0)
    }
}
