// SPDX-License-Identifier: Apache-2.0
// RFLAGS: bit names, and the six status flags kept lazily as what they follow from. SDM volume 1, 3.4.3.

/// RFLAGS bits.
package struct Flags: OptionSet {
    package let rawValue: UInt64
    package init(rawValue: UInt64) { self.rawValue = rawValue }

    package static let carry = Flags(rawValue: 1 << 0)  // CF
    package static let parity = Flags(rawValue: 1 << 2)  // PF
    package static let auxiliary = Flags(rawValue: 1 << 4)  // AF
    package static let zero = Flags(rawValue: 1 << 6)  // ZF
    package static let sign = Flags(rawValue: 1 << 7)  // SF
    package static let trap = Flags(rawValue: 1 << 8)  // TF
    package static let interrupt = Flags(rawValue: 1 << 9)  // IF
    package static let direction = Flags(rawValue: 1 << 10)  // DF
    package static let overflow = Flags(rawValue: 1 << 11)  // OF
    package static let ioPrivilege = Flags(rawValue: 3 << 12)  // IOPL
    package static let nestedTask = Flags(rawValue: 1 << 14)  // NT
    package static let resume = Flags(rawValue: 1 << 16)  // RF
    package static let virtual8086 = Flags(rawValue: 1 << 17)  // VM
    package static let alignmentCheck = Flags(rawValue: 1 << 18)  // AC
    package static let identification = Flags(rawValue: 1 << 21)  // ID

    package static let status: Flags = [.carry, .parity, .auxiliary, .zero, .sign, .overflow]
    /// What POPF and IRET can write at all.
    static let writable: Flags = [
        .status, .trap, .interrupt, .direction, .ioPrivilege, .nestedTask, .alignmentCheck, .identification,
    ]
}

/// The status flags before anybody asks for them.
///
/// `result` is the sign-extended result of the last flag-setting operation: ZF, SF and PF come from it. `mixed` is the
/// exclusive-or of its operands, sign-extended, so that `mixed ^ result` has the carry into each bit: AF is its bit 4,
/// and OF is whether the carry into the top bit differs from the carry out of it, which is bit 0 of `extra`. Flags that
/// were written directly and that no result has (zero and negative, zero and odd) are corrected by bit 1 of `extra`, the
/// sign, and its bits 8 to 15, the byte that parity is taken of.
struct LazyFlags {
    var result: UInt64 = 1
    private var mixed: UInt64 = 1
    private var extra: UInt64 = 0

    private static let signBit: UInt64 = 1 << 63
    private static let auxiliaryBit: UInt64 = 1 << 4

    /// Result, operands and carry of an addition or subtraction on `T`.
    @inline(__always)
    mutating func set<T: FixedWidthInteger & UnsignedInteger>(_ value: T, operands first: T, _ second: T, carry: Bool) {
        result = signExtended(value)
        mixed = signExtended(first ^ second)
        extra = carry ? 1 : 0
    }

    /// Result of a logical operation: CF, OF and AF are clear.
    @inline(__always)
    mutating func setLogical<T: FixedWidthInteger & UnsignedInteger>(_ value: T) {
        result = signExtended(value)
        mixed = result
        extra = 0
    }

    /// ZF, SF and PF from `value`; CF, OF and AF as given.
    @inline(__always)
    mutating func set<T: FixedWidthInteger & UnsignedInteger>(
        _ value: T, carry: Bool, overflow: Bool, auxiliary: Bool = false
    ) {
        set(value, carry: carry ? 1 : 0, overflow: overflow ? 1 : 0, auxiliary: auxiliary ? 1 : 0)
    }

    /// As above with flags of 0 or 1, and without branches: what a guest computes is hard to predict.
    @inline(__always)
    private mutating func set<T: FixedWidthInteger & UnsignedInteger>(
        _ value: T, carry: UInt64, overflow: UInt64, auxiliary: UInt64
    ) {
        result = signExtended(value)
        mixed = result ^ ((carry ^ overflow) &<< 63) ^ (auxiliary &<< 4)
        extra = carry
    }

    /// ZF, SF and PF from `value`; CF stays, OF and AF as given.
    @inline(__always)
    mutating func setKeepingCarry<T: FixedWidthInteger & UnsignedInteger>(
        _ value: T, overflow: Bool, auxiliary: Bool
    ) {
        set(value, carry: extra & 1, overflow: overflow ? 1 : 0, auxiliary: auxiliary ? 1 : 0)
    }

    var carry: Bool {
        @inline(__always) get { extra & 1 != 0 }
        set { setCarryOverflow(carry: newValue, overflow: overflow) }
    }
    var overflow: Bool {
        @inline(__always) get { ((mixed ^ result) &>> 63) ^ (extra & 1) != 0 }
    }
    var zero: Bool { @inline(__always) get { result == 0 } }
    var sign: Bool { @inline(__always) get { (result &>> 63) ^ (extra &>> 1 & 1) != 0 } }
    var auxiliary: Bool { (mixed ^ result) & Self.auxiliaryBit != 0 }
    var parity: Bool {
        @inline(__always) get {
            var byte = result ^ (extra &>> 8)
            byte ^= byte &>> 4
            // Bit n of the constant is the parity of n.
            return (0x9669 as UInt64) &>> (byte & 15) & 1 != 0
        }
    }
    /// SF differs from OF.
    var less: Bool { @inline(__always) get { ((mixed &>> 63) ^ extra ^ (extra &>> 1)) & 1 != 0 } }

    /// Changes CF and OF, keeps the rest.
    @inline(__always)
    mutating func setCarryOverflow(carry: Bool, overflow: Bool) {
        let carryBit: UInt64 = carry ? 1 : 0
        let overflowBit: UInt64 = overflow ? 1 : 0
        mixed = (mixed & ~Self.signBit) | ((result & Self.signBit) ^ ((carryBit ^ overflowBit) &<< 63))
        extra = (extra & ~1) | carryBit
    }

    /// The status bits as RFLAGS has them.
    var bits: UInt64 {
        get {
            let carries = mixed ^ result
            let carryBit = extra & 1
            let parityBit: UInt64 = parity ? 1 : 0
            let zeroBit: UInt64 = result == 0 ? 1 : 0
            let sign = (result &>> 63) ^ (extra &>> 1 & 1)
            return carryBit | parityBit &<< 2 | carries & Self.auxiliaryBit | zeroBit &<< 6 | sign &<< 7
                | ((carries &>> 63) ^ carryBit) &<< 11
        }
        set {
            let value = Flags(rawValue: newValue)
            if value.contains(.zero) {
                result = 0
                extra = (value.contains(.sign) ? 2 : 0) | (value.contains(.parity) ? 0 : 1 << 8)
            } else {
                result = (value.contains(.sign) ? Self.signBit : 0) | (value.contains(.parity) ? 3 : 1)
                extra = 0
            }
            mixed = result ^ (value.contains(.auxiliary) ? Self.auxiliaryBit : 0)
            setCarryOverflow(carry: value.contains(.carry), overflow: value.contains(.overflow))
        }
    }

    /// Condition `code` of Jcc, SETcc and CMOVcc, 0 to 15.
    @inline(__always)
    func holds(_ code: UInt8) -> Bool {
        let value: Bool
        switch code &>> 1 & 7 {
        case 0: value = overflow
        case 1: value = carry
        case 2: value = zero
        case 3: value = carry || zero
        case 4: value = sign
        case 5: value = parity
        case 6: value = less
        default: value = less || zero
        }
        return value != (code & 1 != 0)
    }
}

@inline(__always)
func signExtended<T: FixedWidthInteger & UnsignedInteger>(_ value: T) -> UInt64 {
    let shift = UInt64(64 &- T.bitWidth)
    return UInt64(bitPattern: Int64(bitPattern: UInt64(truncatingIfNeeded: value) &<< shift) &>> Int64(shift))
}
