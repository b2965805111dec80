// SPDX-License-Identifier: Apache-2.0
// MUL, IMUL, DIV, IDIV and the bit instructions. Intel SDM volume 2.

extension Core {
    mutating func multiplyOrDivide<T: MemoryWord>(
        _ operation: Operation, _ i: DecodedInstruction, _ type: T.Type
    ) throws(Fault) {
        let source = try readRM(i, type)
        switch operation {
        case .mul:
            let product = register(RegisterIndex.rax, type).multipliedFullWidth(by: source)
            let low = T(truncatingIfNeeded: product.low)
            setWide(high: product.high, low: low)
            flags.set(low, carry: product.high != 0, overflow: product.high != 0)
        case .imul:
            let (high, low, lost) = signedProduct(register(RegisterIndex.rax, type), source)
            setWide(high: high, low: low)
            flags.set(low, carry: lost, overflow: lost)
        case .imul2, .imul3:
            let other = operation == .imul2 ? register(i.reg, type) : T(truncatingIfNeeded: i.immediate)
            let (_, low, lost) = signedProduct(source, other)
            setRegister(i.reg, low)
            flags.set(low, carry: lost, overflow: lost)
        case .div: try divide(source)
        default: try divideSigned(source)
        }
    }

    /// Both halves of a product of signed numbers, and whether the low half lost something.
    @inline(__always)
    func signedProduct<T: MemoryWord>(_ a: T, _ b: T) -> (high: T, low: T, lost: Bool) {
        let x = Int64(bitPattern: signExtended(a))
        let y = Int64(bitPattern: signExtended(b))
        let product = x.multipliedFullWidth(by: y)
        if T.bitWidth == 64 {
            let low = T(truncatingIfNeeded: product.low)
            let high = T(truncatingIfNeeded: product.high)
            return (high, low, product.high != Int64(bitPattern: product.low) >> 63)
        }
        let whole = Int64(bitPattern: product.low)
        let low = T(truncatingIfNeeded: whole)
        return (T(truncatingIfNeeded: whole >> Int64(T.bitWidth)), low, Int64(bitPattern: signExtended(low)) != whole)
    }

    /// Writes AX, or DX:AX, EDX:EAX, RDX:RAX.
    private mutating func setWide<T: MemoryWord>(high: T, low: T) {
        if T.bitWidth == 8 {
            setRegister(RegisterIndex.rax, UInt16(truncatingIfNeeded: high) << 8 | UInt16(truncatingIfNeeded: low))
        } else {
            setRegister(RegisterIndex.rax, low)
            setRegister(RegisterIndex.rdx, high)
        }
    }

    private mutating func divide<T: MemoryWord>(_ divisor: T) throws(Fault) {
        let high: T
        let low = register(RegisterIndex.rax, T.self)
        if T.bitWidth == 8 {
            high = T(truncatingIfNeeded: register(RegisterIndex.rax, UInt16.self) >> 8)
        } else {
            high = register(RegisterIndex.rdx, T.self)
        }
        if high >= divisor { throw .divideError }
        if T.bitWidth == 64 {
            let (quotient, remainder) = UInt64(truncatingIfNeeded: divisor).dividingFullWidth(
                (UInt64(truncatingIfNeeded: high), UInt64(truncatingIfNeeded: low)))
            setWide(high: T(truncatingIfNeeded: remainder), low: T(truncatingIfNeeded: quotient))
            return
        }
        let dividend = UInt64(truncatingIfNeeded: high) << UInt64(T.bitWidth) | UInt64(truncatingIfNeeded: low)
        let (quotient, remainder) = dividend.quotientAndRemainder(dividingBy: UInt64(truncatingIfNeeded: divisor))
        setWide(high: T(truncatingIfNeeded: remainder), low: T(truncatingIfNeeded: quotient))
    }

    private mutating func divideSigned<T: MemoryWord>(_ divisor: T) throws(Fault) {
        if divisor == 0 { throw .divideError }
        let low = UInt64(truncatingIfNeeded: register(RegisterIndex.rax, T.self))
        let dividend: Int128
        if T.bitWidth == 8 {
            dividend = Int128(Int16(bitPattern: register(RegisterIndex.rax, UInt16.self)))
        } else {
            let high = Int128(Int64(bitPattern: signExtended(register(RegisterIndex.rdx, T.self))))
            dividend = high << Int128(T.bitWidth) | Int128(low)
        }
        let by = Int128(Int64(bitPattern: signExtended(divisor)))
        let (quotient, overflow) = dividend.dividedReportingOverflow(by: by)
        let limit = Int128(1) << Int128(T.bitWidth - 1)
        if overflow || quotient >= limit || quotient < -limit { throw .divideError }
        let remainder = dividend &- quotient &* by
        setWide(high: T(truncatingIfNeeded: remainder), low: T(truncatingIfNeeded: quotient))
    }

    /// BT, BTS, BTR, BTC. A register bit offset reaches memory beyond the operand.
    mutating func bitTest<T: MemoryWord>(
        _ operation: Operation, _ i: DecodedInstruction, _ type: T.Type
    ) throws(Fault) {
        let byRegister = i.shape == Form.rmReg.rawValue
        let offset = byRegister ? signExtended(register(i.reg, type)) : i.immediate
        let bit = T(truncatingIfNeeded: offset & UInt64(T.bitWidth &- 1))
        let mask: T = 1 << bit
        let value: T
        var address: UInt64 = 0
        if i.isMemory {
            let words = UInt64(bitPattern: Int64(bitPattern: offset) >> Int64(T.bitWidth.trailingZeroBitCount))
            address = effectiveAddress(i, moved: byRegister ? words &* UInt64(MemoryLayout<T>.size) : 0)
            value = operation == .bt ? try load(type, at: address) : try loadForWrite(type, at: address)
        } else {
            value = register(i.rm, type)
        }
        if operation != .bt {
            let result =
                switch operation {
                case .bts: value | mask
                case .btr: value & ~mask
                default: value ^ mask
                }
            if i.isMemory { try store(result, at: address) } else { setRegister(i.rm, result) }
        }
        flags.setCarryOverflow(carry: value & mask != 0, overflow: flags.overflow)
    }

    /// BSF, BSR, POPCNT and CRC32.
    mutating func scan<T: MemoryWord>(_ operation: Operation, _ i: DecodedInstruction, _ type: T.Type) throws(Fault) {
        let value = try readRM(i, type)
        switch operation {
        case .popcnt:
            let count = T(truncatingIfNeeded: value.nonzeroBitCount)
            setRegister(i.reg, count)
            setFlags(cf: false, pf: false, af: false, zf: value == 0, sf: false, of: false)
        case .crc32:
            var crc = register(i.reg, UInt32.self)
            for position in 0..<MemoryLayout<T>.size {
                crc ^= UInt32(truncatingIfNeeded: value >> T(truncatingIfNeeded: position * 8)) & 0xff
                for _ in 0..<8 { crc = crc & 1 != 0 ? crc >> 1 ^ 0x82f6_3b78 : crc >> 1 }
            }
            setRegister(i.reg, crc)
        default:
            // A zero source leaves the destination alone, as AMD documents and Intel does.
            if value != 0 {
                let position =
                    operation == .bsf ? value.trailingZeroBitCount : T.bitWidth - 1 - value.leadingZeroBitCount
                setRegister(i.reg, T(truncatingIfNeeded: position))
            }
            var status = Flags(rawValue: flags.bits)
            if value == 0 { status.insert(.zero) } else { status.remove(.zero) }
            flags.bits = status.rawValue
        }
    }
}
