// SPDX-License-Identifier: Apache-2.0
// PCMPESTRI, PCMPESTRM, PCMPISTRI and PCMPISTRM. Intel SDM volume 2, section 4.1.

/// The outcome of a string comparison before it goes to ECX or XMM0.
package struct VectorStringComparison: Equatable {
    /// IntRes2: one bit a lane.
    package let matches: UInt32
    /// 16 or 8.
    package let laneCount: Int
    /// The first operand has an end in it.
    package let firstEnds: Bool  // SF
    /// The second operand has an end in it.
    package let secondEnds: Bool  // ZF
    private let imm: UInt8

    /// Compares `first` (ModRM.reg) and `second` (r/m), of which so many lanes are valid.
    package init(_ first: Vector128, _ firstLength: Int, _ second: Vector128, _ secondLength: Int, imm: UInt8) {
        let laneCount = imm & 1 == 0 ? 16 : 8
        var result: UInt32
        switch imm >> 2 & 3 {
        case 0: result = Self.equalAny(first, firstLength, second, secondLength, imm)
        case 1: result = Self.ranges(first, firstLength, second, secondLength, imm)
        case 2: result = Self.equalEach(first, firstLength, second, secondLength, imm, laneCount)
        default: result = Self.equalOrdered(first, firstLength, second, secondLength, imm, laneCount)
        }
        if imm & 0x10 != 0 {
            // Negative polarity: all lanes, or the valid ones only.
            let lanes = imm & 0x20 == 0 ? laneCount : secondLength
            result ^= (1 << UInt32(lanes)) - 1
        }
        matches = result
        self.laneCount = laneCount
        firstEnds = firstLength < laneCount
        secondEnds = secondLength < laneCount
        self.imm = imm
    }

    /// The lanes before the first zero.
    package static func implicitLength(_ value: Vector128, imm: UInt8) -> Int {
        let laneCount = imm & 1 == 0 ? 16 : 8
        for n in 0..<laneCount where lane(value, n, imm) == 0 { return n }
        return laneCount
    }

    /// The length that RAX or RDX holds: its absolute value, at most the number of lanes.
    package static func explicitLength(_ register: UInt64, isWide: Bool, imm: UInt8) -> Int {
        let value = isWide ? Int64(bitPattern: register) : Int64(Int32(truncatingIfNeeded: register))
        return Int(min(value.magnitude, imm & 1 == 0 ? 16 : 8))
    }

    /// What goes to ECX.
    package var index: UInt64 {
        if matches == 0 { return UInt64(laneCount) }
        return UInt64(imm & 0x40 == 0 ? matches.trailingZeroBitCount : 31 - matches.leadingZeroBitCount)
    }

    /// What goes to XMM0: bits, or whole lanes.
    package var mask: Vector128 {
        guard imm & 0x40 != 0 else { return Vector128(low: UInt64(matches)) }
        var result = Vector128.zero
        for n in 0..<laneCount where matches >> UInt32(n) & 1 != 0 {
            if laneCount == 16 { result.setLane(n, UInt8.max) } else { result.setLane(n, UInt16.max) }
        }
        return result
    }

    /// Lane `n`, extended as the immediate says.
    @inline(__always)
    private static func lane(_ value: Vector128, _ n: Int, _ imm: UInt8) -> Int32 {
        switch imm & 3 {
        case 0: Int32(value.lane(n, as: UInt8.self))
        case 1: Int32(value.lane(n, as: UInt16.self))
        case 2: Int32(value.lane(n, as: Int8.self))
        default: Int32(value.lane(n, as: Int16.self))
        }
    }

    private static func equalAny(
        _ set: Vector128, _ setLength: Int, _ text: Vector128, _ textLength: Int, _ imm: UInt8
    ) -> UInt32 {
        var result: UInt32 = 0
        for j in 0..<textLength {
            let element = lane(text, j, imm)
            for i in 0..<setLength where lane(set, i, imm) == element {
                result |= 1 << UInt32(j)
                break
            }
        }
        return result
    }

    private static func ranges(
        _ bounds: Vector128, _ boundsLength: Int, _ text: Vector128, _ textLength: Int, _ imm: UInt8
    ) -> UInt32 {
        var result: UInt32 = 0
        for j in 0..<textLength {
            let element = lane(text, j, imm)
            // A lower bound without an upper one matches nothing.
            for i in 0..<boundsLength / 2
            where lane(bounds, 2 * i, imm) <= element && element <= lane(bounds, 2 * i + 1, imm) {
                result |= 1 << UInt32(j)
                break
            }
        }
        return result
    }

    /// Lanes beyond both ends are equal; beyond one end they are not.
    private static func equalEach(
        _ first: Vector128, _ firstLength: Int, _ second: Vector128, _ secondLength: Int, _ imm: UInt8,
        _ laneCount: Int
    ) -> UInt32 {
        var result: UInt32 = 0
        for n in 0..<laneCount {
            let isEqual =
                n < firstLength && n < secondLength
                ? lane(first, n, imm) == lane(second, n, imm) : n >= firstLength && n >= secondLength
            if isEqual { result |= 1 << UInt32(n) }
        }
        return result
    }

    /// Where `needle` begins in `text`, even if the register ends before the needle does.
    private static func equalOrdered(
        _ needle: Vector128, _ needleLength: Int, _ text: Vector128, _ textLength: Int, _ imm: UInt8,
        _ laneCount: Int
    ) -> UInt32 {
        var result: UInt32 = 0
        for j in 0..<laneCount {
            var isEqual = true
            for i in 0..<min(needleLength, laneCount - j)
            where j + i >= textLength || lane(needle, i, imm) != lane(text, j + i, imm) {
                isEqual = false
                break
            }
            if isEqual { result |= 1 << UInt32(j) }
        }
        return result
    }
}
