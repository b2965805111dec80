// SPDX-License-Identifier: Apache-2.0
// Integer instructions that do not change control flow, for every operand form. Intel SDM volume 2.

extension Core {
    /// Executes an instruction of the integer group.
    @inline(never)
    mutating func executeInteger(_ i: DecodedInstruction) throws(Fault) {
        switch i.operandSize {
        case 1: try execute(i, UInt8.self)
        case 2: try execute(i, UInt16.self)
        case 4: try execute(i, UInt32.self)
        default: try execute(i, UInt64.self)
        }
    }

    private mutating func execute<T: MemoryWord>(_ i: DecodedInstruction, _ type: T.Type) throws(Fault) {
        guard let operation = Operation(rawValue: i.operation) else { throw .invalidOpcode }
        switch operation {
        case .add, .or, .adc, .sbb, .and, .sub, .xor, .cmp, .test: try arithmetic(operation, i, type)
        case .mov: try move(i, type)
        case .rol, .ror, .rcl, .rcr, .shl, .shr, .sal, .sar: try shift(operation, i, type)
        case .inc:
            let value = try readRMForWrite(i, type)
            var new = flags
            try writeRM(i, new.increment(value))
            flags = new
        case .dec:
            let value = try readRMForWrite(i, type)
            var new = flags
            try writeRM(i, new.decrement(value))
            flags = new
        case .not: try writeRM(i, ~(try readRMForWrite(i, type)))
        case .neg:
            let value = try readRMForWrite(i, type)
            var new = flags
            try writeRM(i, new.subtract(0, value))
            flags = new
        case .lea: setRegister(i.reg, T(truncatingIfNeeded: effectiveOffset(i)))
        case .movzx8: setRegister(i.reg, T(truncatingIfNeeded: try readRM(i, UInt8.self)))
        case .movzx16: setRegister(i.reg, T(truncatingIfNeeded: try readRM(i, UInt16.self)))
        case .movsx8: setRegister(i.reg, T(truncatingIfNeeded: signExtended(try readRM(i, UInt8.self))))
        case .movsx16: setRegister(i.reg, T(truncatingIfNeeded: signExtended(try readRM(i, UInt16.self))))
        case .movsxd:
            // Without REX.W the source has the operand's own width.
            if T.bitWidth == 64 {
                setRegister(i.reg, T(truncatingIfNeeded: signExtended(try readRM(i, UInt32.self))))
            } else {
                setRegister(i.reg, try readRM(i, type))
            }
        case .xchg:
            let old = try readRMForWrite(i, type)
            let new = register(i.reg, type)
            try writeRM(i, new)
            setRegister(i.reg, old)
        case .xadd:
            let value = try readRMForWrite(i, type)
            let addend = register(i.reg, type)
            var new = flags
            let sum = new.add(value, addend)
            if i.isMemory {
                try writeRM(i, sum)
                setRegister(i.reg, value)
            } else {
                setRegister(i.reg, value)
                setRegister(i.rm, sum)
            }
            flags = new
        case .cmpxchg: try compareAndExchange(i, type)
        case .cmpxchg8b: try compareAndExchangePair(i)
        case .cmov:
            let value = try readRM(i, type)
            // A 32-bit destination loses its upper half even when the condition does not hold.
            setRegister(i.reg, flags.holds(UInt8(truncatingIfNeeded: i.immediate)) ? value : register(i.reg, type))
        case .setcc: try writeRM(i, UInt8(flags.holds(i.reg & 15) ? 1 : 0))
        case .bswap: byteSwap(i)
        case .mul, .imul, .imul2, .imul3, .div, .idiv: try multiplyOrDivide(operation, i, type)
        case .shld, .shrd: try shiftDouble(operation, i, type)
        case .bt, .bts, .btr, .btc: try bitTest(operation, i, type)
        case .bsf, .bsr, .popcnt, .crc32: try scan(operation, i, type)
        case .cbw, .cwd: convert(operation, i)
        case .movFromSegment:
            if i.reg & 7 > SegmentIndex.gs { throw .invalidOpcode }
            let selector = segments[Int(i.reg & 7)].selector
            // In memory it is always 16 bits.
            if i.isMemory { try writeRM(i, selector) } else { setRegister(i.rm, T(truncatingIfNeeded: selector)) }
        case .movs, .cmps, .stos, .lods, .scas: try string(operation, i, type)
        case .push, .pop, .pushf, .pusha, .popa, .enter, .leave, .pushSegment: try stack(operation, i)
        case .daa, .das, .aaa, .aas, .aam, .aad, .salc, .bound, .arpl: try legacy(operation, i)
        default: try miscellaneous(operation, i)
        }
    }

    /// The second operand of a two-operand instruction.
    @inline(__always)
    private mutating func source<T: MemoryWord>(_ i: DecodedInstruction, _ type: T.Type) throws(Fault) -> T {
        switch Form(rawValue: i.shape) {
        case .rmReg: register(i.reg, type)
        case .regRM: try readRM(i, type)
        default: T(truncatingIfNeeded: i.immediate)
        }
    }

    private mutating func arithmetic<T: MemoryWord>(
        _ operation: Operation, _ i: DecodedInstruction, _ type: T.Type
    ) throws(Fault) {
        let source = try source(i, type)
        let toRegister = i.shape == Form.regRM.rawValue
        let writes = operation != .cmp && operation != .test
        let value =
            toRegister
            ? register(i.reg, type) : writes ? try readRMForWrite(i, type) : try readRM(i, type)
        var new = flags
        let result: T
        switch operation {
        case .add: result = new.add(value, source)
        case .adc: result = new.addWithCarry(value, source)
        case .sub, .cmp: result = new.subtract(value, source)
        case .sbb: result = new.subtractWithBorrow(value, source)
        case .or:
            result = value | source
            new.setLogical(result)
        case .xor:
            result = value ^ source
            new.setLogical(result)
        default:
            result = value & source
            new.setLogical(result)
        }
        if writes {
            if toRegister { setRegister(i.reg, result) } else { try writeRM(i, result) }
        }
        flags = new
    }

    private mutating func move<T: MemoryWord>(_ i: DecodedInstruction, _ type: T.Type) throws(Fault) {
        let source = try source(i, type)
        if i.shape == Form.regRM.rawValue { setRegister(i.reg, source) } else { try writeRM(i, source) }
    }

    private mutating func shift<T: MemoryWord>(
        _ operation: Operation, _ i: DecodedInstruction, _ type: T.Type
    ) throws(Fault) {
        let raw: UInt8
        switch Form(rawValue: i.shape) {
        case .rmOne: raw = 1
        case .rmCL: raw = register(RegisterIndex.rcx, UInt8.self)
        default: raw = UInt8(truncatingIfNeeded: i.immediate)
        }
        let value = try readRMForWrite(i, type)
        var new = flags
        let result = new.shift(operation, value, raw & (T.bitWidth == 64 ? 63 : 31))
        try writeRM(i, result)
        flags = new
    }

    private mutating func shiftDouble<T: MemoryWord>(
        _ operation: Operation, _ i: DecodedInstruction, _ type: T.Type
    ) throws(Fault) {
        let raw =
            i.shape == Form.rmRegCL.rawValue
            ? register(RegisterIndex.rcx, UInt8.self) : UInt8(truncatingIfNeeded: i.immediate)
        let count = raw & (T.bitWidth == 64 ? 63 : 31)
        let value = try readRMForWrite(i, type)
        if count == 0 {
            try writeRM(i, value)
            return
        }
        let filler = register(i.reg, type)
        var new = flags
        let result =
            operation == .shld
            ? new.shiftDoubleLeft(value, filler, count) : new.shiftDoubleRight(value, filler, count)
        try writeRM(i, result)
        flags = new
    }

    private mutating func compareAndExchange<T: MemoryWord>(_ i: DecodedInstruction, _ type: T.Type) throws(Fault) {
        let value = try readRMForWrite(i, type)
        let accumulator = register(RegisterIndex.rax, type)
        var new = flags
        _ = new.subtract(accumulator, value)
        if accumulator == value {
            try writeRM(i, register(i.reg, type))
        } else {
            // The destination is written either way; a 32-bit accumulator loses its upper half only here.
            if i.isMemory { try writeRM(i, value) }
            setRegister(RegisterIndex.rax, value)
        }
        flags = new
    }

    /// CMPXCHG8B and CMPXCHG16B.
    private mutating func compareAndExchangePair(_ i: DecodedInstruction) throws(Fault) {
        let address = effectiveAddress(i)
        let equal: Bool
        if i.operandSize == 8 {
            if address & 15 != 0 { throw .generalProtection(0) }
            try checkWritable(address, 16, accessSet)
            let value = try load128(at: address)
            equal = value.low == self[gpr: RegisterIndex.rax] && value.high == self[gpr: RegisterIndex.rdx]
            let new = Vector128(low: self[gpr: RegisterIndex.rbx], high: self[gpr: RegisterIndex.rcx])
            try store128(equal ? new : value, at: address)
            if !equal {
                self[gpr: RegisterIndex.rax] = value.low
                self[gpr: RegisterIndex.rdx] = value.high
            }
        } else {
            let value = try loadForWrite(UInt64.self, at: address)
            let expected =
                UInt64(register(RegisterIndex.rax, UInt32.self))
                | UInt64(register(RegisterIndex.rdx, UInt32.self)) << 32
            equal = value == expected
            let new =
                UInt64(register(RegisterIndex.rbx, UInt32.self))
                | UInt64(register(RegisterIndex.rcx, UInt32.self)) << 32
            try store(equal ? new : value, at: address)
            if !equal {
                setRegister(RegisterIndex.rax, UInt32(truncatingIfNeeded: value))
                setRegister(RegisterIndex.rdx, UInt32(truncatingIfNeeded: value >> 32))
            }
        }
        var status = Flags(rawValue: flags.bits)
        if equal { status.insert(.zero) } else { status.remove(.zero) }
        flags.bits = status.rawValue
    }

    private mutating func byteSwap(_ i: DecodedInstruction) {
        switch i.operandSize {
        case 8: self[gpr: i.rm] = self[gpr: i.rm].byteSwapped
        case 4: setRegister(i.rm, register(i.rm, UInt32.self).byteSwapped)
        default: setRegister(i.rm, UInt16(0))  // undefined in the manual; processors clear it
        }
    }

    /// CBW, CWDE, CDQE and CWD, CDQ, CQO.
    private mutating func convert(_ operation: Operation, _ i: DecodedInstruction) {
        let rax = self[gpr: RegisterIndex.rax]
        switch (operation, i.operandSize) {
        case (.cbw, 2):
            setRegister(RegisterIndex.rax, UInt16(truncatingIfNeeded: signExtended(UInt8(truncatingIfNeeded: rax))))
        case (.cbw, 4):
            setRegister(RegisterIndex.rax, UInt32(truncatingIfNeeded: signExtended(UInt16(truncatingIfNeeded: rax))))
        case (.cbw, _): self[gpr: RegisterIndex.rax] = signExtended(UInt32(truncatingIfNeeded: rax))
        case (_, 2): setRegister(RegisterIndex.rdx, rax & 0x8000 != 0 ? UInt16.max : 0)
        case (_, 4): setRegister(RegisterIndex.rdx, rax & 0x8000_0000 != 0 ? UInt32.max : 0)
        default: self[gpr: RegisterIndex.rdx] = rax >> 63 != 0 ? .max : 0
        }
    }
}
