// SPDX-License-Identifier: Apache-2.0
// Vector operations that move, select and combine bits without arithmetic. Intel SDM volume 2.

/// The result of an operation from `pand` to `insertps` on all 128 bits; `d` is the old destination.
///
/// BLENDV operations take their selector in `mask` (XMM0).
package func vectorRearrangement(
    _ operation: VectorOperation, _ d: Vector128, _ s: Vector128, imm: UInt8, mask: Vector128 = .zero
) -> Vector128 {
    switch operation {
    case .pand, .andps, .andpd: Vector128(low: d.low & s.low, high: d.high & s.high)
    case .pandn, .andnps, .andnpd: Vector128(low: ~d.low & s.low, high: ~d.high & s.high)
    case .por, .orps, .orpd: Vector128(low: d.low | s.low, high: d.high | s.high)
    case .pxor, .xorps, .xorpd: Vector128(low: d.low ^ s.low, high: d.high ^ s.high)
    case .movsldup: Vector128(low: twice(s.low), high: twice(s.high))
    case .movshdup: Vector128(low: twice(s.low >> 32), high: twice(s.high >> 32))
    case .movddup: Vector128(low: s.low, high: s.low)
    case .punpcklqdq, .unpcklpd: Vector128(low: d.low, high: s.low)
    case .punpckhqdq, .unpckhpd: Vector128(low: d.high, high: s.high)
    case .punpckldq, .unpcklps: Vector128(low: pair(d.low, s.low), high: pair(d.low >> 32, s.low >> 32))
    case .punpckhdq, .unpckhps: Vector128(low: pair(d.high, s.high), high: pair(d.high >> 32, s.high >> 32))
    case .pshufd:
        Vector128(
            low: pair(lane32(s, imm), lane32(s, imm >> 2)), high: pair(lane32(s, imm >> 4), lane32(s, imm >> 6)))
    case .shufps:
        Vector128(
            low: pair(lane32(d, imm), lane32(d, imm >> 2)), high: pair(lane32(s, imm >> 4), lane32(s, imm >> 6)))
    case .shufpd: Vector128(low: imm & 1 == 0 ? d.low : d.high, high: imm & 2 == 0 ? s.low : s.high)
    case .pshuflw, .pshufw: Vector128(low: shuffledWords(s.low, imm), high: s.high)
    case .pshufhw: Vector128(low: s.low, high: shuffledWords(s.high, imm))
    case .palignr: aligned(d, s, imm)
    case .pslldq: Vector128(d.bits << (Int(imm) &* 8))
    case .psrldq: Vector128(d.bits >> (Int(imm) &* 8))
    case .blendps: select(d, s, pairMask(imm), pairMask(imm >> 2))
    case .blendpd: select(d, s, imm & 1 == 0 ? 0 : .max, imm & 2 == 0 ? 0 : .max)
    case .pblendw: select(d, s, wordMask(imm), wordMask(imm >> 4))
    case .pblendvb: select(d, s, signs8(mask.low), signs8(mask.high))
    case .blendvps: select(d, s, signs32(mask.low), signs32(mask.high))
    case .blendvpd:
        select(
            d, s, UInt64(bitPattern: Int64(bitPattern: mask.low) >> 63),
            UInt64(bitPattern: Int64(bitPattern: mask.high) >> 63))
    case .insertps: inserted(d, s, imm)
    default: bytewiseUnpack(operation, d, s)
    }
}

/// MOVMSKPS, MOVMSKPD and PMOVMSKB: the sign bits of the lanes.
package func vectorSigns(_ operation: VectorOperation, _ s: Vector128) -> UInt64 {
    switch operation {
    case .movmskps: (s.low >> 31 & 1) | (s.low >> 62 & 2) | (s.high >> 29 & 4) | (s.high >> 60 & 8)
    case .movmskpd: s.low >> 63 | (s.high >> 63) << 1
    default: gather8(s.low) | gather8(s.high) << 8
    }
}

/// The sign bits of eight bytes, as one byte: the multiplication brings bit 8n to bit 56 + n.
@inline(__always)
private func gather8(_ value: UInt64) -> UInt64 {
    ((value & 0x8080_8080_8080_8080) >> 7 &* 0x0102_0408_1020_4080) >> 56
}

@inline(__always)
private func twice(_ value: UInt64) -> UInt64 { pair(value, value) }

/// The low halves of two values, side by side.
@inline(__always)
private func pair(_ low: UInt64, _ high: UInt64) -> UInt64 { low & 0xffff_ffff | high &<< 32 }

/// Lane `n & 3`.
@inline(__always)
private func lane32(_ value: Vector128, _ n: UInt8) -> UInt64 {
    (n & 2 == 0 ? value.low : value.high) &>> (UInt64(n & 1) &* 32)
}

@inline(__always)
private func shuffledWords(_ value: UInt64, _ imm: UInt8) -> UInt64 {
    let order = UInt64(imm)
    let first = value &>> ((order & 3) &* 16) & 0xffff
    let second = value &>> ((order >> 2 & 3) &* 16) & 0xffff
    let third = value &>> ((order >> 4 & 3) &* 16) & 0xffff
    let fourth = value &>> ((order >> 6) &* 16)
    return first | second << 16 | third << 32 | fourth << 48
}

/// The low half of `d` above `s`, moved down by `bytes`.
@inline(__always)
private func aligned(_ d: Vector128, _ s: Vector128, _ bytes: UInt8) -> Vector128 {
    let position = Int(bytes) &* 8
    // Smart shifts: by 128 or more they give 0, by a negative amount they go the other way.
    return Vector128(s.bits >> position | d.bits << (128 &- position))
}

/// Bits of `s` where the masks are set, else of `d`.
@inline(__always)
private func select(_ d: Vector128, _ s: Vector128, _ low: UInt64, _ high: UInt64) -> Vector128 {
    Vector128(low: d.low ^ ((d.low ^ s.low) & low), high: d.high ^ ((d.high ^ s.high) & high))
}

/// Bits 0 and 1 spread over two 32-bit lanes.
@inline(__always)
private func pairMask(_ bits: UInt8) -> UInt64 {
    let value = UInt64(bits)
    return (value & 1 | (value & 2) << 31) &* 0xffff_ffff
}

/// Bits 0 to 3 spread over four 16-bit lanes.
@inline(__always)
private func wordMask(_ bits: UInt8) -> UInt64 {
    let value = UInt64(bits)
    return (value & 1 | (value & 2) << 15 | (value & 4) << 30 | (value & 8) << 45) &* 0xffff
}

/// The sign bit of each byte spread over the byte.
@inline(__always)
private func signs8(_ value: UInt64) -> UInt64 { (value >> 7 & 0x0101_0101_0101_0101) &* 0xff }

/// The sign bit of each 32-bit lane spread over the lane.
@inline(__always)
private func signs32(_ value: UInt64) -> UInt64 { (value >> 31 & 0x0000_0001_0000_0001) &* 0xffff_ffff }

/// INSERTPS: a memory operand comes in lane 0, with bits 6 and 7 of the immediate clear.
private func inserted(_ d: Vector128, _ s: Vector128, _ imm: UInt8) -> Vector128 {
    var result = d
    result.setLane(Int(imm >> 4 & 3), UInt32(truncatingIfNeeded: lane32(s, imm >> 6)))
    return select(result, .zero, pairMask(imm), pairMask(imm >> 2))
}

/// PUNPCK with lanes of 8 and 16 bits.
@inline(__always)
private func bytewiseUnpack(_ operation: VectorOperation, _ d: Vector128, _ s: Vector128) -> Vector128 {
    switch operation {
    case .punpcklbw: Vector128(low: interleaved8(d.low, s.low), high: interleaved8(d.low >> 32, s.low >> 32))
    case .punpckhbw: Vector128(low: interleaved8(d.high, s.high), high: interleaved8(d.high >> 32, s.high >> 32))
    case .punpcklwd: Vector128(low: interleaved16(d.low, s.low), high: interleaved16(d.low >> 32, s.low >> 32))
    case .punpckhwd: Vector128(low: interleaved16(d.high, s.high), high: interleaved16(d.high >> 32, s.high >> 32))
    default: d
    }
}

/// The low two 16-bit lanes of both operands, in turn.
@inline(__always)
private func interleaved16(_ d: UInt64, _ s: UInt64) -> UInt64 {
    func spread(_ value: UInt64) -> UInt64 { (value & 0xffff) | (value & 0xffff_0000) << 16 }
    return spread(d) | spread(s) << 16
}

/// The low four bytes of both operands, in turn.
@inline(__always)
private func interleaved8(_ d: UInt64, _ s: UInt64) -> UInt64 {
    func spread(_ value: UInt64) -> UInt64 {
        let words = (value & 0xffff) | (value & 0xffff_0000) << 16
        return (words | words << 8) & 0x00ff_00ff_00ff_00ff
    }
    return spread(d) | spread(s) << 8
}
