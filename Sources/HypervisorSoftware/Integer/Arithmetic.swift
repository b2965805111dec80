// SPDX-License-Identifier: Apache-2.0
// Arithmetic, logic and shifts with their flags, for every operand width. Intel SDM volume 2.

extension LazyFlags {
    @inline(__always)
    mutating func add<T: MemoryWord>(_ a: T, _ b: T) -> T {
        let (sum, carry) = a.addingReportingOverflow(b)
        set(sum, operands: a, b, carry: carry)
        return sum
    }

    @inline(__always)
    mutating func addWithCarry<T: MemoryWord>(_ a: T, _ b: T) -> T {
        let (part, first) = a.addingReportingOverflow(b)
        let (sum, second) = part.addingReportingOverflow(carry ? 1 : 0)
        set(sum, operands: a, b, carry: first || second)
        return sum
    }

    @inline(__always)
    mutating func subtract<T: MemoryWord>(_ a: T, _ b: T) -> T {
        let (difference, borrow) = a.subtractingReportingOverflow(b)
        set(difference, operands: a, b, carry: borrow)
        return difference
    }

    @inline(__always)
    mutating func subtractWithBorrow<T: MemoryWord>(_ a: T, _ b: T) -> T {
        let (part, first) = a.subtractingReportingOverflow(b)
        let (difference, second) = part.subtractingReportingOverflow(carry ? 1 : 0)
        set(difference, operands: a, b, carry: first || second)
        return difference
    }

    /// INC keeps CF.
    @inline(__always)
    mutating func increment<T: MemoryWord>(_ a: T) -> T {
        let sum = a &+ 1
        setKeepingCarry(sum, overflow: sum == (1 as T) &<< T(T.bitWidth &- 1), auxiliary: sum & 15 == 0)
        return sum
    }

    /// DEC keeps CF.
    @inline(__always)
    mutating func decrement<T: MemoryWord>(_ a: T) -> T {
        let difference = a &- 1
        setKeepingCarry(difference, overflow: a == (1 as T) &<< T(T.bitWidth &- 1), auxiliary: difference & 15 == 15)
        return difference
    }

    @inline(__always)
    mutating func or<T: MemoryWord>(_ a: T, _ b: T) -> T { logical(a | b) }

    @inline(__always)
    mutating func and<T: MemoryWord>(_ a: T, _ b: T) -> T { logical(a & b) }

    @inline(__always)
    mutating func xor<T: MemoryWord>(_ a: T, _ b: T) -> T { logical(a ^ b) }

    @inline(__always)
    private mutating func logical<T: MemoryWord>(_ value: T) -> T {
        setLogical(value)
        return value
    }

    /// SHL, SHR, SAR and the rotates by `count`, already masked to 5 or 6 bits; a count of 0 changes nothing.
    mutating func shift<T: MemoryWord>(_ operation: Operation, _ value: T, _ count: UInt8) -> T {
        if count == 0 { return value }
        switch operation {
        case .shl, .sal: return shiftLeft(value, count)
        case .shr: return shiftRight(value, count)
        case .sar: return shiftArithmetic(value, count)
        case .rol: return rotateLeft(value, count)
        case .ror: return rotateRight(value, count)
        case .rcl: return rotateThroughCarryLeft(value, count)
        default: return rotateThroughCarryRight(value, count)
        }
    }

    @inline(__always)
    mutating func shiftLeft<T: MemoryWord>(_ value: T, _ count: UInt8) -> T {
        let width = UInt8(truncatingIfNeeded: T.bitWidth)
        // Only operands below 32 bits are shifted by their width or more.
        let isWhole = T.bitWidth < 32 && count >= width
        let result = isWhole ? 0 : value &<< T(truncatingIfNeeded: count)
        let out = count <= width && (value &>> T(truncatingIfNeeded: width &- count)) & 1 != 0
        set(result, carry: out, overflow: out != Self.top(result))
        return result
    }

    @inline(__always)
    mutating func shiftRight<T: MemoryWord>(_ value: T, _ count: UInt8) -> T {
        let width = UInt8(truncatingIfNeeded: T.bitWidth)
        let last = T.bitWidth < 32 && count > width ? 0 : value &>> T(truncatingIfNeeded: count &- 1)
        let result = last &>> 1
        set(result, carry: last & 1 != 0, overflow: Self.top(value))
        return result
    }

    @inline(__always)
    mutating func shiftArithmetic<T: MemoryWord>(_ value: T, _ count: UInt8) -> T {
        let wide = Int64(bitPattern: signExtended(value))
        let result = T(truncatingIfNeeded: wide >> Int64(count))
        let out = (wide >> Int64(count &- 1)) & 1 != 0
        set(result, carry: out, overflow: false)
        return result
    }

    mutating func rotateLeft<T: MemoryWord>(_ value: T, _ count: UInt8) -> T {
        let width = UInt8(truncatingIfNeeded: T.bitWidth)
        let places = T(truncatingIfNeeded: count & (width &- 1))
        let result = places == 0 ? value : value << places | value >> (T(truncatingIfNeeded: width) &- places)
        let out = result & 1 != 0
        setCarryOverflow(carry: out, overflow: out != Self.top(result))
        return result
    }

    mutating func rotateRight<T: MemoryWord>(_ value: T, _ count: UInt8) -> T {
        let width = UInt8(truncatingIfNeeded: T.bitWidth)
        let places = T(truncatingIfNeeded: count & (width &- 1))
        let result = places == 0 ? value : value >> places | value << (T(truncatingIfNeeded: width) &- places)
        let second = (result >> T(truncatingIfNeeded: width &- 2)) & 1 != 0
        setCarryOverflow(carry: Self.top(result), overflow: Self.top(result) != second)
        return result
    }

    private mutating func rotateThroughCarryLeft<T: MemoryWord>(_ value: T, _ count: UInt8) -> T {
        var result = value
        var bit = carry
        for _ in 0..<Int(count) % (T.bitWidth + 1) {
            let out = Self.top(result)
            result = result << 1 | (bit ? 1 : 0)
            bit = out
        }
        setCarryOverflow(carry: bit, overflow: bit != Self.top(result))
        return result
    }

    private mutating func rotateThroughCarryRight<T: MemoryWord>(_ value: T, _ count: UInt8) -> T {
        var result = value
        var bit = carry
        for _ in 0..<Int(count) % (T.bitWidth + 1) {
            let out = result & 1 != 0
            result = result >> 1 | (bit ? 1 << T(truncatingIfNeeded: T.bitWidth - 1) : 0)
            bit = out
        }
        let second = (result >> T(truncatingIfNeeded: T.bitWidth - 2)) & 1 != 0
        setCarryOverflow(carry: bit, overflow: Self.top(result) != second)
        return result
    }

    /// SHLD, count already masked and not 0.
    mutating func shiftDoubleLeft<T: MemoryWord>(_ value: T, _ filler: T, _ count: UInt8) -> T {
        let width = UInt8(truncatingIfNeeded: T.bitWidth)
        // 16-bit operands shifted by more than 16 are undefined; processors go on with the destination's own bits.
        if count > width {
            let places = count - width
            let result = filler << T(truncatingIfNeeded: places) | value >> T(truncatingIfNeeded: width - places)
            let out = (filler >> T(truncatingIfNeeded: width - places)) & 1 != 0
            set(result, carry: out, overflow: out != Self.top(result))
            return result
        }
        let result = value << T(truncatingIfNeeded: count) | filler >> T(truncatingIfNeeded: width - count)
        let out = (value >> T(truncatingIfNeeded: width - count)) & 1 != 0
        set(result, carry: out, overflow: Self.top(result) != Self.top(value))
        return result
    }

    /// SHRD, count already masked and not 0.
    mutating func shiftDoubleRight<T: MemoryWord>(_ value: T, _ filler: T, _ count: UInt8) -> T {
        let width = UInt8(truncatingIfNeeded: T.bitWidth)
        if count > width {
            let places = count - width
            let result = filler >> T(truncatingIfNeeded: places) | value << T(truncatingIfNeeded: width - places)
            let out = (filler >> T(truncatingIfNeeded: places - 1)) & 1 != 0
            set(result, carry: out, overflow: Self.top(result) != Self.top(filler))
            return result
        }
        let result = value >> T(truncatingIfNeeded: count) | filler << T(truncatingIfNeeded: width - count)
        let out = (value >> T(truncatingIfNeeded: count - 1)) & 1 != 0
        set(result, carry: out, overflow: Self.top(result) != Self.top(value))
        return result
    }

    @inline(__always)
    private static func top<T: MemoryWord>(_ value: T) -> Bool {
        (value &>> T(truncatingIfNeeded: T.bitWidth &- 1)) & 1 != 0
    }
}
