// SPDX-License-Identifier: Apache-2.0
// x87 loads and stores: between memory formats and extended precision. Intel SDM volume 1, 4.8 and 8.1.8.

internal import CHost

extension X87Source {
    /// An integer; every 64-bit integer is exact in extended precision.
    @inline(__always)
    init(_ integer: Int64) {
        guard integer != 0 else {
            self.init(value: .zero)
            return
        }
        let magnitude = integer.magnitude
        let shift = UInt64(magnitude.leadingZeroBitCount)
        let exponent = UInt16(truncatingIfNeeded: 16383 + 63 &- shift)
        self.init(
            value: X87Register(mantissa: magnitude &<< shift, exponent: integer < 0 ? exponent | 0x8000 : exponent))
    }

    /// Single precision. A signalling NaN stays one.
    @inline(__always)
    init(real32 bits: UInt32) {
        self.init(
            sign: UInt16(truncatingIfNeeded: bits &>> 16 & 0x8000),
            exponent: UInt16(truncatingIfNeeded: bits &>> 23 & 0xff),
            fraction: UInt64(bits & 0x7f_ffff) &<< 40, bias: 127, special: 0xff)
    }

    /// Double precision. A signalling NaN stays one.
    @inline(__always)
    init(real64 bits: UInt64) {
        self.init(
            sign: UInt16(truncatingIfNeeded: bits &>> 48 & 0x8000),
            exponent: UInt16(truncatingIfNeeded: bits &>> 52 & 0x7ff),
            fraction: (bits & 0xf_ffff_ffff_ffff) &<< 11, bias: 1023, special: 0x7ff)
    }

    /// `fraction` has its first bit at bit 62.
    @inline(__always)
    private init(sign: UInt16, exponent: UInt16, fraction: UInt64, bias: UInt16, special: UInt16) {
        if exponent == special {
            self.init(value: X87Register(mantissa: 1 << 63 | fraction, exponent: sign | 0x7fff))
        } else if exponent != 0 {
            self.init(value: X87Register(mantissa: 1 << 63 | fraction, exponent: sign | (exponent &+ 16383 &- bias)))
        } else if fraction == 0 {
            self.init(value: X87Register(mantissa: 0, exponent: sign))
        } else {
            let shift = UInt64(fraction.leadingZeroBitCount)
            self.init(
                value: X87Register(
                    mantissa: fraction &<< shift,
                    exponent: sign | (16383 &- bias &+ 1 &- UInt16(truncatingIfNeeded: shift))),
                wasDenormal: true)
        }
    }

    /// Packed decimal: 18 digits in `low` and the low byte of `high`, the sign in bit 15 of `high`.
    init(decimal low: UInt64, _ high: UInt16) {
        var magnitude: UInt64 = 0
        for digit in [UInt64(high >> 4 & 15), UInt64(high & 15)] { magnitude = magnitude &* 10 &+ digit }
        for position in stride(from: UInt64(60), through: 0, by: -4) {
            magnitude = magnitude &* 10 &+ (low >> position & 15)
        }
        self.init(Int64(bitPattern: magnitude))
        value.exponent = value.exponent & 0x7fff | high & 0x8000
    }
}

/// Constants of FLD1 and its kin: the significand cut off at 64 bits, and whether rounding to nearest adds one
/// (nil when it is exact).
enum X87Constant {
    case one, log2Ten, log2E, pi, log10Two, lnTwo, zero

    /// The constant under the rounding of `control`.
    func value(control: UInt16) -> X87Register {
        let (mantissa, exponent, roundsUp): (UInt64, UInt16, Bool?) =
            switch self {
            case .one: (1 << 63, 0x3fff, nil)
            case .zero: (0, 0, nil)
            case .log2Ten: (0xd49a_784b_cd1b_8afe, 0x4000, false)
            case .log2E: (0xb8aa_3b29_5c17_f0bb, 0x3fff, true)
            case .pi: (0xc90f_daa2_2168_c234, 0x4000, true)
            case .log10Two: (0x9a20_9a84_fbcf_f798, 0x3ffd, true)
            case .lnTwo: (0xb172_17f7_d1cf_79ab, 0x3ffe, true)
            }
        guard let roundsUp else { return X87Register(mantissa: mantissa, exponent: exponent) }
        let carry: Bool =
            switch control >> 10 & 3 {
            case 0: roundsUp
            case 2: true
            default: false
            }
        return X87Register(mantissa: carry ? mantissa + 1 : mantissa, exponent: exponent)
    }
}

/// Formats that FST, FIST, FISTTP and FBSTP convert to.
enum X87StoreFormat {
    case real32, real64, real80
    case integer16, integer32, integer64
    case truncated16, truncated32, truncated64
    case decimal
}

/// A store that has been computed but not done: memory may still fault.
struct X87Store {
    var low: UInt64 = 0
    var high: UInt16 = 0
    /// Exceptions, SF and C1.
    var flags: UInt16 = 0
    /// An unmasked exception: memory stays as it is and nothing is popped.
    var isBlocked = false
}

extension X87 {
    /// Pushes what a load instruction read from memory or makes itself.
    @inline(__always)
    mutating func load(_ source: X87Source, raisesConversion: Bool = true) {
        var value = source.value
        guard !isValid(7) else {
            if stackFault(isOverflow: true) { push(.indefinite) }
            return
        }
        var flags: UInt16 = 0
        if raisesConversion {
            if source.wasDenormal { flags = X87Status.denormal.rawValue }
            if value.isNaN, value.mantissa & 1 << 62 == 0 {
                flags = X87Status.invalid.rawValue
                value.mantissa |= 1 << 62
            }
        }
        record(flags)
        if !isBlocked(flags) { push(value) }
    }

    /// FLD ST(i).
    mutating func load(register index: UInt8) {
        let source = source(index)
        if source.isEmpty {
            if stackFault() { push(.indefinite) }
        } else {
            load(source, raisesConversion: false)
        }
    }

    /// FST ST(i) and FSTP ST(i).
    mutating func store(register index: UInt8, pops: Bool) {
        if isValid(0) {
            record(0)
            self[st: index] = self[st: 0]
        } else {
            guard stackFault() else { return }
            self[st: index] = .indefinite
        }
        if pops { pop() }
    }

    /// Converts ST(0) to `format`; `finish` completes the instruction once memory has the value.
    @inline(__always)
    func prepareStore(_ format: X87StoreFormat) -> X87Store {
        guard isValid(0) else { return emptyStore(format) }
        let a = chost_x87_register(self[st: 0])
        let sticky = status.rawValue & X87Status.exceptions.rawValue
        let stored: chost_x87_stored
        switch format {
        case .real32: stored = chost_x87_store_real32(a, control, sticky)
        case .real64: stored = chost_x87_store_real64(a, control, sticky)
        case .real80: return X87Store(low: a.mantissa, high: a.exponent)
        case .integer16: stored = chost_x87_store_integer16(a, control, sticky)
        case .integer32: stored = chost_x87_store_integer32(a, control, sticky)
        case .integer64: stored = chost_x87_store_integer64(a, control, sticky)
        case .truncated16: stored = chost_x87_store_truncated16(a, control, sticky)
        case .truncated32: stored = chost_x87_store_truncated32(a, control, sticky)
        case .truncated64: stored = chost_x87_store_truncated64(a, control, sticky)
        case .decimal: stored = chost_x87_store_decimal(a, control, sticky)
        }
        let stopping: X87Status = [.invalid, .denormal, .overflow, .underflow]
        return X87Store(
            low: stored.low, high: stored.high, flags: stored.status,
            isBlocked: stored.status & ~control & stopping.rawValue != 0)
    }

    /// What an empty ST(0) stores.
    private func emptyStore(_ format: X87StoreFormat) -> X87Store {
        let (low, high): (UInt64, UInt16) =
            switch format {
            case .real32: (0xffc0_0000, 0)
            case .real64: (0xfff8_0000_0000_0000, 0)
            case .real80, .decimal: (0xc000_0000_0000_0000, 0xffff)
            case .integer16, .truncated16: (0x8000, 0)
            case .integer32, .truncated32: (0x8000_0000, 0)
            case .integer64, .truncated64: (0x8000_0000_0000_0000, 0)
            }
        let flags: X87Status = [.invalid, .stackFault]
        return X87Store(low: low, high: high, flags: flags.rawValue, isBlocked: isBlocked(flags.rawValue))
    }

    @inline(__always)
    mutating func finish(_ store: X87Store, pops: Bool) {
        record(store.flags)
        if pops && !store.isBlocked { pop() }
    }
}
