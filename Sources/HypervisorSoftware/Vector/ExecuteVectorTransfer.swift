// SPDX-License-Identifier: Apache-2.0
// Runs decoded SSE instructions that move between XMM and other registers, and those of MXCSR. Intel SDM volume 2.

extension Core {
    /// Instructions with one XMM operand and one of another kind.
    @inline(never)
    mutating func executeVectorTransfer(
        _ operation: VectorOperation, _ shape: VectorOperands, _ i: DecodedInstruction
    ) throws(Fault) {
        switch shape {
        case .xmmGeneral32: try toXMM(operation, i, UInt64(try readRM(i, UInt32.self)), isWide: false)
        case .xmmGeneral64: try toXMM(operation, i, try readRM(i, UInt64.self), isWide: true)
        case .xmmGeneral8Immediate:
            let value = i.isMemory ? try load(UInt8.self, at: effectiveAddress(i)) : byteRegister(i.rm)
            self[xmm: i.reg].setLane(Int(i.immediate & 15), value)
        case .xmmGeneral16Immediate:
            let value = try readRM(i, UInt16.self)
            self[xmm: i.reg].setLane(Int(i.immediate & 7), value)
        case .xmmGeneral32Immediate:
            let value = try readRM(i, UInt32.self)
            self[xmm: i.reg].setLane(Int(i.immediate & 3), value)
        case .xmmGeneral64Immediate:
            let value = try readRM(i, UInt64.self)
            self[xmm: i.reg].setLane(Int(i.immediate & 1), value)
        case .xmmMm64, .xmmMmRegister: try fromMMX(operation, i)
        case .general32Xmm32, .general64Xmm32:
            let source = i.isMemory ? Vector128(low: UInt64(try readRM(i, UInt32.self))) : self[xmm: i.rm]
            try toGeneral(operation, i, source, isWide: shape == .general64Xmm32)
        case .general32Xmm64, .general64Xmm64:
            let source = i.isMemory ? Vector128(low: try readRM(i, UInt64.self)) : self[xmm: i.rm]
            try toGeneral(operation, i, source, isWide: shape == .general64Xmm64)
        case .general32XmmRegister: self[gpr: i.reg] = vectorSigns(operation, self[xmm: i.rm])
        case .general32XmmRegisterImmediate:
            self[gpr: i.reg] = UInt64(self[xmm: i.rm].lane(Int(i.immediate & 7), as: UInt16.self))
        case .storeGeneral32Xmm: try writeRM(i, UInt32(truncatingIfNeeded: self[xmm: i.reg].low))
        case .storeGeneral64Xmm: try writeRM(i, self[xmm: i.reg].low)
        case .storeGeneral8XmmImmediate:
            try extract(i, self[xmm: i.reg].lane(Int(i.immediate & 15), as: UInt8.self))
        case .storeGeneral16XmmImmediate:
            try extract(i, self[xmm: i.reg].lane(Int(i.immediate & 7), as: UInt16.self))
        case .storeGeneral32XmmImmediate, .storeSingleXmmImmediate:
            try extract(i, self[xmm: i.reg].lane(Int(i.immediate & 3), as: UInt32.self))
        case .storeGeneral64XmmImmediate:
            try extract(i, self[xmm: i.reg].lane(Int(i.immediate & 1), as: UInt64.self))
        case .loadMemory32:
            let value = try load(UInt32.self, at: effectiveAddress(i))
            if value & ~MXCSR.writable != 0 { throw .generalProtection(0) }
            mxcsr = value
        case .storeMemory32: try store(mxcsr, at: effectiveAddress(i))
        default: throw .invalidOpcode
        }
    }

    /// The low byte of a register: never AH, whatever the prefixes.
    private mutating func byteRegister(_ n: UInt8) -> UInt8 { UInt8(truncatingIfNeeded: general[Int(n & 15)]) }

    /// MOVD, MOVQ, CVTSI2SS and CVTSI2SD.
    private mutating func toXMM(
        _ operation: VectorOperation, _ i: DecodedInstruction, _ value: UInt64, isWide: Bool
    ) throws(Fault) {
        guard operation.usesMXCSR else {
            self[xmm: i.reg] = Vector128(low: value)
            return
        }
        self[xmm: i.reg] = try checked(
            vectorFromInteger(operation, isWide: isWide, self[xmm: i.reg], value, control: MXCSR.control(mxcsr)))
    }

    private mutating func toGeneral(
        _ operation: VectorOperation, _ i: DecodedInstruction, _ source: Vector128, isWide: Bool
    ) throws(Fault) {
        let result = vectorToInteger(operation, isWide: isWide, source, control: MXCSR.control(mxcsr))
        self[gpr: i.reg] = try checked(result).low
    }

    /// A lane to r/m: a register takes it zero-extended.
    @inline(__always)
    private mutating func extract<T: MemoryWord>(_ i: DecodedInstruction, _ value: T) throws(Fault) {
        if i.isMemory {
            try store(value, at: effectiveAddress(i))
        } else {
            self[gpr: i.rm] = UInt64(truncatingIfNeeded: value)
        }
    }

    /// MOVQ2DQ, CVTPI2PS and CVTPI2PD. Only a register operand makes the x87 registers MMX registers.
    private mutating func fromMMX(_ operation: VectorOperation, _ i: DecodedInstruction) throws(Fault) {
        if !i.isMemory { try checkVectorAvailable(mmx: true) }
        let source = i.isMemory ? try load(UInt64.self, at: effectiveAddress(i)) : x87[mmx: i.rm]
        if !i.isMemory { x87.enterMMX() }
        let result: Vector128
        switch operation {
        case .movq2dq: result = Vector128(low: source)
        case .cvtpi2ps:
            let converted = vectorFloat(
                .cvtdq2ps, .zero, Vector128(low: source), imm: 0, control: MXCSR.control(mxcsr))
            result = Vector128(low: try checked(converted).low, high: self[xmm: i.reg].high)
        default:
            result = vectorFloat(.cvtdq2pd, .zero, Vector128(low: source), imm: 0, control: MXCSR.control(mxcsr)).value
        }
        self[xmm: i.reg] = result
    }
}
