// SPDX-License-Identifier: Apache-2.0
// The value of an XMM register and its lanes. Intel SDM volume 1, chapter 10.

/// Bits 0 to 63 and bits 64 to 127 of an XMM register. MMX operands use `low` only.
package struct Vector128: Equatable, BitwiseCopyable, Sendable {
    package var low: UInt64
    package var high: UInt64

    @inline(__always)
    package init(low: UInt64, high: UInt64 = 0) {
        self.low = low
        self.high = high
    }

    package static let zero = Vector128(low: 0, high: 0)

    /// All 128 bits as one number.
    @inline(__always)
    package init(_ bits: UInt128) {
        low = UInt64(truncatingIfNeeded: bits)
        high = UInt64(truncatingIfNeeded: bits >> 64)
    }

    @inline(__always)
    package var bits: UInt128 { UInt128(high) << 64 | UInt128(low) }

    /// Lane `n` of lanes as wide as `T`; bits of `n` beyond the last lane are ignored.
    @inline(__always)
    package func lane<T: FixedWidthInteger>(_ n: Int, as type: T.Type = T.self) -> T {
        let position = UInt64(truncatingIfNeeded: n &* T.bitWidth)
        return T(truncatingIfNeeded: (position & 64 == 0 ? low : high) &>> position)
    }

    /// Replaces lane `n` of lanes as wide as `T`.
    @inline(__always)
    package mutating func setLane<T: FixedWidthInteger>(_ n: Int, _ value: T) {
        let position = UInt64(truncatingIfNeeded: n &* T.bitWidth)
        let ones = UInt64.max &>> UInt64(truncatingIfNeeded: 64 &- T.bitWidth)
        let mask = ones &<< position
        let bits = (UInt64(truncatingIfNeeded: value) & ones) &<< position
        if position & 64 == 0 {
            low = low & ~mask | bits
        } else {
            high = high & ~mask | bits
        }
    }

    /// The low 32 bits replaced.
    @inline(__always)
    package func replacingLow32(_ value: UInt64) -> Vector128 {
        Vector128(low: low & ~0xffff_ffff | value & 0xffff_ffff, high: high)
    }
}
