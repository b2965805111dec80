// SPDX-License-Identifier: Apache-2.0
// Runs decoded instructions of the MMX registers, which are the mantissas of the x87 registers. Intel SDM volume 1, 9.

extension Core {
    /// An instruction with at least one MMX operand, or EMMS.
    @inline(never)
    mutating func executeMMX(
        _ operation: VectorOperation, _ shape: VectorOperands, _ i: DecodedInstruction
    ) throws(Fault) {
        switch shape {
        case .mmMm64, .mmMm64Immediate:
            try toMMX(operation, i, i.isMemory ? try load(UInt64.self, at: effectiveAddress(i)) : x87[mmx: i.rm])
        case .mmMm32:
            let source = i.isMemory ? UInt64(try load(UInt32.self, at: effectiveAddress(i))) : x87[mmx: i.rm]
            try toMMX(operation, i, source)
        case .mmGeneral32: try toMMX(operation, i, UInt64(try readRM(i, UInt32.self)))
        case .mmGeneral64: try toMMX(operation, i, try readRM(i, UInt64.self))
        case .mmGeneral16Immediate:
            var value = Vector128(low: x87[mmx: i.reg])
            value.setLane(Int(i.immediate & 3), try readRM(i, UInt16.self))
            write(i.reg, value.low)
        case .mmXmm64, .mmXmm128, .mmXmmRegister:
            try checkVectorAvailable(mmx: false)
            try fromXMM(operation, shape, i)
        case .mmMmRegister:
            // The registers become MMX registers even when the store faults, as on AMD.
            x87.enterMMX()
            try storeMasked(i, Vector128(low: x87[mmx: i.reg]), Vector128(low: x87[mmx: i.rm]))
        case .storeMm64, .storeMm64Memory:
            guard i.isMemory else { return write(i.rm, x87[mmx: i.reg]) }
            try store(x87[mmx: i.reg], at: effectiveAddress(i))
            x87.enterMMX()
        case .storeGeneral32Mm:
            try writeRM(i, UInt32(truncatingIfNeeded: x87[mmx: i.reg]))
            x87.enterMMX()
        case .storeGeneral64Mm:
            try writeRM(i, x87[mmx: i.reg])
            x87.enterMMX()
        case .shiftMmImmediate:
            let count = UInt8(truncatingIfNeeded: i.immediate)
            write(i.rm, vectorIntegerMMX(operation, x87[mmx: i.rm], UInt64(count), imm: count))
        case .general32MmRegister:
            self[gpr: i.reg] = vectorSigns(operation, Vector128(low: x87[mmx: i.rm]))
            x87.enterMMX()
        case .general32MmRegisterImmediate:
            self[gpr: i.reg] = x87[mmx: i.rm] &>> ((i.immediate & 3) &* 16) & 0xffff
            x87.enterMMX()
        case .none: x87.leaveMMX()
        default: throw .invalidOpcode
        }
    }

    /// Writes an MMX register.
    @inline(__always)
    private mutating func write(_ n: UInt8, _ value: UInt64) {
        x87.enterMMX()
        x87[mmx: n] = value
    }

    /// An instruction whose destination is the MMX register in ModRM.reg.
    private mutating func toMMX(_ operation: VectorOperation, _ i: DecodedInstruction, _ s: UInt64) throws(Fault) {
        if operation == .movq || operation == .movd { return write(i.reg, s) }
        let imm = UInt8(truncatingIfNeeded: i.immediate)
        write(i.reg, vectorIntegerMMX(operation, x87[mmx: i.reg], s, imm: imm))
    }

    /// MOVDQ2Q and the conversions to two integers.
    private mutating func fromXMM(
        _ operation: VectorOperation, _ shape: VectorOperands, _ i: DecodedInstruction
    ) throws(Fault) {
        let source: Vector128
        if !i.isMemory {
            source = self[xmm: i.rm]
        } else if shape == .mmXmm128 {
            let address = effectiveAddress(i)
            if address & 15 != 0 { throw .generalProtection(0) }
            source = try load128(at: address)
        } else {
            source = Vector128(low: try load(UInt64.self, at: effectiveAddress(i)))
        }
        let conversion: VectorOperation
        switch operation {
        case .cvtps2pi: conversion = .cvtps2dq
        case .cvttps2pi: conversion = .cvttps2dq
        case .cvtpd2pi: conversion = .cvtpd2dq
        case .cvttpd2pi: conversion = .cvttpd2dq
        default: return write(i.reg, source.low)
        }
        let operand = shape == .mmXmm64 ? Vector128(low: source.low) : source
        // The change of the registers is not undone by a floating-point exception.
        x87.enterMMX()
        let result = vectorFloat(conversion, .zero, operand, imm: 0, control: MXCSR.control(mxcsr))
        write(i.reg, try checked(result).low)
    }
}
