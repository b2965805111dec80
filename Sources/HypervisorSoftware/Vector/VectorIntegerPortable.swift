// SPDX-License-Identifier: Apache-2.0
// Integer vector arithmetic lane by lane, for hosts that are not x86-64, and to compare with. Intel SDM volume 2.

/// The result of an operation from `paddb` to `rsqrtss`; `d` is the old destination.
///
/// RCP and RSQRT are correctly rounded here, where an x86 processor has 12 bits.
package func vectorArithmeticPortable(
    _ operation: VectorOperation, _ d: Vector128, _ s: Vector128, imm: UInt8
) -> Vector128 {
    switch operation {
    case .paddb: lanes(d, s, UInt8.self) { $0 &+ $1 }
    case .paddw: lanes(d, s, UInt16.self) { $0 &+ $1 }
    case .paddd: lanes(d, s, UInt32.self) { $0 &+ $1 }
    case .paddq: lanes(d, s, UInt64.self) { $0 &+ $1 }
    case .psubb: lanes(d, s, UInt8.self) { $0 &- $1 }
    case .psubw: lanes(d, s, UInt16.self) { $0 &- $1 }
    case .psubd: lanes(d, s, UInt32.self) { $0 &- $1 }
    case .psubq: lanes(d, s, UInt64.self) { $0 &- $1 }
    case .paddsb: lanes(d, s, Int8.self) { Int8(clamping: Int32($0) + Int32($1)) }
    case .paddsw: lanes(d, s, Int16.self) { Int16(clamping: Int32($0) + Int32($1)) }
    case .paddusb: lanes(d, s, UInt8.self) { UInt8(clamping: Int32($0) + Int32($1)) }
    case .paddusw: lanes(d, s, UInt16.self) { UInt16(clamping: Int32($0) + Int32($1)) }
    case .psubsb: lanes(d, s, Int8.self) { Int8(clamping: Int32($0) - Int32($1)) }
    case .psubsw: lanes(d, s, Int16.self) { Int16(clamping: Int32($0) - Int32($1)) }
    case .psubusb: lanes(d, s, UInt8.self) { UInt8(clamping: Int32($0) - Int32($1)) }
    case .psubusw: lanes(d, s, UInt16.self) { UInt16(clamping: Int32($0) - Int32($1)) }
    case .pmullw: lanes(d, s, UInt16.self) { $0 &* $1 }
    case .pmulhw: lanes(d, s, Int16.self) { $0.multipliedFullWidth(by: $1).high }
    case .pmulhuw: lanes(d, s, UInt16.self) { $0.multipliedFullWidth(by: $1).high }
    case .pmulhrsw:
        lanes(d, s, Int16.self) { Int16(truncatingIfNeeded: (((Int32($0) * Int32($1)) >> 14) + 1) >> 1) }
    case .pmulld: lanes(d, s, UInt32.self) { $0 &* $1 }
    case .pmuludq: lanes(d, s, UInt64.self) { ($0 & 0xffff_ffff) &* ($1 & 0xffff_ffff) }
    case .pmuldq:
        lanes(d, s, Int64.self) { Int64(Int32(truncatingIfNeeded: $0)) &* Int64(Int32(truncatingIfNeeded: $1)) }
    case .pmaddwd: multipliedPairs(d, s, Int16.self, Int16.self, to: Int32.self) { Int32(truncatingIfNeeded: $0) }
    case .pmaddubsw: multipliedPairs(d, s, UInt8.self, Int8.self, to: Int16.self) { Int16(clamping: $0) }
    case .psadbw: Vector128(low: sumOfDifferences(d.low, s.low), high: sumOfDifferences(d.high, s.high))
    case .mpsadbw: slidingDifferences(d, s, imm)
    case .pavgb: lanes(d, s, UInt8.self) { UInt8((UInt32($0) + UInt32($1) + 1) >> 1) }
    case .pavgw: lanes(d, s, UInt16.self) { UInt16((UInt32($0) + UInt32($1) + 1) >> 1) }
    case .pminub: lanes(d, s, UInt8.self) { min($0, $1) }
    case .pminsb: lanes(d, s, Int8.self) { min($0, $1) }
    case .pminuw: lanes(d, s, UInt16.self) { min($0, $1) }
    case .pminsw: lanes(d, s, Int16.self) { min($0, $1) }
    case .pminud: lanes(d, s, UInt32.self) { min($0, $1) }
    case .pminsd: lanes(d, s, Int32.self) { min($0, $1) }
    case .pmaxub: lanes(d, s, UInt8.self) { max($0, $1) }
    case .pmaxsb: lanes(d, s, Int8.self) { max($0, $1) }
    case .pmaxuw: lanes(d, s, UInt16.self) { max($0, $1) }
    case .pmaxsw: lanes(d, s, Int16.self) { max($0, $1) }
    case .pmaxud: lanes(d, s, UInt32.self) { max($0, $1) }
    case .pmaxsd: lanes(d, s, Int32.self) { max($0, $1) }
    case .pcmpeqb: lanes(d, s, Int8.self) { $0 == $1 ? -1 : 0 }
    case .pcmpeqw: lanes(d, s, Int16.self) { $0 == $1 ? -1 : 0 }
    case .pcmpeqd: lanes(d, s, Int32.self) { $0 == $1 ? -1 : 0 }
    case .pcmpeqq: lanes(d, s, Int64.self) { $0 == $1 ? -1 : 0 }
    case .pcmpgtb: lanes(d, s, Int8.self) { $0 > $1 ? -1 : 0 }
    case .pcmpgtw: lanes(d, s, Int16.self) { $0 > $1 ? -1 : 0 }
    case .pcmpgtd: lanes(d, s, Int32.self) { $0 > $1 ? -1 : 0 }
    case .pcmpgtq: lanes(d, s, Int64.self) { $0 > $1 ? -1 : 0 }
    case .packsswb: packed(d, s, Int16.self, to: Int8.self)
    case .packuswb: packed(d, s, Int16.self, to: UInt8.self)
    case .packssdw: packed(d, s, Int32.self, to: Int16.self)
    case .packusdw: packed(d, s, Int32.self, to: UInt16.self)
    case .pshufb: shuffledBytes(d, s)
    case .phaddw: horizontal(d, s, Int16.self) { $0 &+ $1 }
    case .phaddd: horizontal(d, s, Int32.self) { $0 &+ $1 }
    case .phaddsw: horizontal(d, s, Int16.self) { Int16(clamping: Int32($0) + Int32($1)) }
    case .phsubw: horizontal(d, s, Int16.self) { $0 &- $1 }
    case .phsubd: horizontal(d, s, Int32.self) { $0 &- $1 }
    case .phsubsw: horizontal(d, s, Int16.self) { Int16(clamping: Int32($0) - Int32($1)) }
    case .psignb: lanes(d, s, Int8.self) { $0 &* $1.signum() }
    case .psignw: lanes(d, s, Int16.self) { $0 &* $1.signum() }
    case .psignd: lanes(d, s, Int32.self) { $0 &* $1.signum() }
    case .pabsb: lanes(d, s, UInt8.self) { Int8(bitPattern: $1).magnitude }
    case .pabsw: lanes(d, s, UInt16.self) { Int16(bitPattern: $1).magnitude }
    case .pabsd: lanes(d, s, UInt32.self) { Int32(bitPattern: $1).magnitude }
    case .psllw: shifted(d, s.low, UInt16.self) { $0 << $1 }
    case .pslld: shifted(d, s.low, UInt32.self) { $0 << $1 }
    case .psllq: shifted(d, s.low, UInt64.self) { $0 << $1 }
    case .psrlw: shifted(d, s.low, UInt16.self) { $0 >> $1 }
    case .psrld: shifted(d, s.low, UInt32.self) { $0 >> $1 }
    case .psrlq: shifted(d, s.low, UInt64.self) { $0 >> $1 }
    case .psraw: shifted(d, s.low, Int16.self) { $0 >> $1 }
    case .psrad: shifted(d, s.low, Int32.self) { $0 >> $1 }
    case .pmovsxbw: extended(s, Int8.self, to: Int16.self)
    case .pmovsxbd: extended(s, Int8.self, to: Int32.self)
    case .pmovsxbq: extended(s, Int8.self, to: Int64.self)
    case .pmovsxwd: extended(s, Int16.self, to: Int32.self)
    case .pmovsxwq: extended(s, Int16.self, to: Int64.self)
    case .pmovsxdq: extended(s, Int32.self, to: Int64.self)
    case .pmovzxbw: extended(s, UInt8.self, to: UInt16.self)
    case .pmovzxbd: extended(s, UInt8.self, to: UInt32.self)
    case .pmovzxbq: extended(s, UInt8.self, to: UInt64.self)
    case .pmovzxwd: extended(s, UInt16.self, to: UInt32.self)
    case .pmovzxwq: extended(s, UInt16.self, to: UInt64.self)
    case .pmovzxdq: extended(s, UInt32.self, to: UInt64.self)
    case .phminposuw: smallestWord(s)
    case .rcpps: lanes(d, s, UInt32.self) { (1 / Float(bitPattern: $1)).bitPattern }
    case .rsqrtps: lanes(d, s, UInt32.self) { (1 / Float(bitPattern: $1).squareRoot()).bitPattern }
    case .rcpss: d.replacingLow32(UInt64((1 / Float(bitPattern: s.lane(0))).bitPattern))
    case .rsqrtss: d.replacingLow32(UInt64((1 / Float(bitPattern: s.lane(0)).squareRoot()).bitPattern))
    default: d
    }
}

/// `body` on each lane of `T`.
@inline(__always)
private func lanes<T: FixedWidthInteger>(
    _ d: Vector128, _ s: Vector128, _ type: T.Type, _ body: (T, T) -> T
) -> Vector128 {
    var result = Vector128.zero
    for n in 0..<128 / T.bitWidth { result.setLane(n, body(d.lane(n), s.lane(n))) }
    return result
}

/// `body` on each lane and a count that is never more than the lane's width.
@inline(__always)
private func shifted<T: FixedWidthInteger>(
    _ d: Vector128, _ count: UInt64, _ type: T.Type, _ body: (T, Int) -> T
) -> Vector128 {
    lanes(d, d, type) { lane, _ in body(lane, Int(min(count, UInt64(T.bitWidth)))) }
}

/// `body` on neighbouring lanes: those of `d` make the low half.
@inline(__always)
private func horizontal<T: FixedWidthInteger>(
    _ d: Vector128, _ s: Vector128, _ type: T.Type, _ body: (T, T) -> T
) -> Vector128 {
    var result = Vector128.zero
    let half = 64 / T.bitWidth
    for n in 0..<half {
        result.setLane(n, body(d.lane(2 * n), d.lane(2 * n + 1)))
        result.setLane(half + n, body(s.lane(2 * n), s.lane(2 * n + 1)))
    }
    return result
}

/// Lanes of `d` then `s`, saturated to half their width.
@inline(__always)
private func packed<Wide: FixedWidthInteger, Narrow: FixedWidthInteger>(
    _ d: Vector128, _ s: Vector128, _ wide: Wide.Type, to narrow: Narrow.Type
) -> Vector128 {
    var result = Vector128.zero
    let half = 128 / Wide.bitWidth
    for n in 0..<half {
        result.setLane(n, Narrow(clamping: d.lane(n, as: wide)))
        result.setLane(half + n, Narrow(clamping: s.lane(n, as: wide)))
    }
    return result
}

/// The low lanes of `s`, extended to fill the register.
@inline(__always)
private func extended<Narrow: FixedWidthInteger, Wide: FixedWidthInteger>(
    _ s: Vector128, _ narrow: Narrow.Type, to wide: Wide.Type
) -> Vector128 {
    var result = Vector128.zero
    for n in 0..<128 / Wide.bitWidth { result.setLane(n, Wide(truncatingIfNeeded: s.lane(n, as: narrow))) }
    return result
}

/// Sums of the products of neighbouring lanes.
@inline(__always)
private func multipliedPairs<A: FixedWidthInteger, B: FixedWidthInteger, Sum: FixedWidthInteger>(
    _ d: Vector128, _ s: Vector128, _ a: A.Type, _ b: B.Type, to sum: Sum.Type, _ narrowed: (Int64) -> Sum
) -> Vector128 {
    var result = Vector128.zero
    for n in 0..<128 / Sum.bitWidth {
        let first = Int64(d.lane(2 * n, as: a)) * Int64(s.lane(2 * n, as: b))
        let second = Int64(d.lane(2 * n + 1, as: a)) * Int64(s.lane(2 * n + 1, as: b))
        result.setLane(n, narrowed(first + second))
    }
    return result
}

@inline(__always)
private func difference(_ a: UInt8, _ b: UInt8) -> UInt64 { UInt64(a > b ? a - b : b - a) }

private func sumOfDifferences(_ d: UInt64, _ s: UInt64) -> UInt64 {
    var sum: UInt64 = 0
    for n in 0..<8 {
        sum += difference(Vector128(low: d).lane(n), Vector128(low: s).lane(n))
    }
    return sum
}

/// MPSADBW.
private func slidingDifferences(_ d: Vector128, _ s: Vector128, _ imm: UInt8) -> Vector128 {
    let start = Int(imm & 4)
    let block = Int(imm & 3) * 4
    var result = Vector128.zero
    for n in 0..<8 {
        var sum: UInt64 = 0
        for k in 0..<4 { sum += difference(d.lane(start + n + k), s.lane(block + k)) }
        result.setLane(n, UInt16(truncatingIfNeeded: sum))
    }
    return result
}

private func shuffledBytes(_ d: Vector128, _ s: Vector128) -> Vector128 {
    lanes(d, s, UInt8.self) { _, selector in selector & 0x80 != 0 ? 0 : d.lane(Int(selector & 15)) }
}

/// PHMINPOSUW: the smallest word and where it is first.
private func smallestWord(_ s: Vector128) -> Vector128 {
    var smallest: UInt16 = s.lane(0)
    var position: UInt64 = 0
    for n in 1..<8 where s.lane(n, as: UInt16.self) < smallest {
        smallest = s.lane(n)
        position = UInt64(n)
    }
    return Vector128(low: UInt64(smallest) | position << 16)
}
