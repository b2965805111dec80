// SPDX-License-Identifier: Apache-2.0
// Runs decoded SSE instructions: operands of XMM registers and memory. Intel SDM volume 2.

extension Core {
    /// Runs the vector instruction `i`: its operation is a `VectorOperation`, its shape a `VectorOperands`.
    mutating func executeVector(_ i: DecodedInstruction) throws(Fault) {
        guard let operation = VectorOperation(rawValue: i.operation), let shape = VectorOperands(rawValue: i.shape)
        else { throw .invalidOpcode }
        switch shape {
        case .xmmXmm128, .xmmXmm128Immediate, .xmmMemory128:
            try checkVectorAvailable(mmx: false)
            try executeXMM(operation, i, i.isMemory ? try loadAligned(i) : self[xmm: i.rm])
        case .xmmXmm128Unaligned, .xmmXmm128UnalignedImmediate, .xmmMemory128Unaligned, .xmmXmmRegister:
            try checkVectorAvailable(mmx: false)
            if shape == .xmmXmmRegister { return try storeMasked(i, self[xmm: i.reg], self[xmm: i.rm]) }
            try executeXMM(operation, i, i.isMemory ? try load128(at: effectiveAddress(i)) : self[xmm: i.rm])
        case .xmmXmm64, .xmmXmm64Immediate, .xmmMemory64:
            try checkVectorAvailable(mmx: false)
            let source = i.isMemory ? Vector128(low: try load(UInt64.self, at: effectiveAddress(i))) : self[xmm: i.rm]
            try executeXMM(operation, i, source)
        case .xmmXmm32, .xmmXmm32Immediate:
            try checkVectorAvailable(mmx: false)
            if i.isMemory {
                let source = Vector128(low: UInt64(try load(UInt32.self, at: effectiveAddress(i))))
                // A memory operand of INSERTPS is a single lane: bits 6 and 7 do not select.
                let immediate = UInt8(truncatingIfNeeded: i.immediate)
                try executeXMM(operation, i, source, imm: operation == .insertps ? immediate & 0x3f : immediate)
            } else {
                try executeXMM(operation, i, self[xmm: i.rm])
            }
        case .xmmXmm16:
            try checkVectorAvailable(mmx: false)
            let source =
                i.isMemory ? Vector128(low: UInt64(try load(UInt16.self, at: effectiveAddress(i)))) : self[xmm: i.rm]
            try executeXMM(operation, i, source)
        case .storeXmm128, .storeXmm128Unaligned, .storeXmm128Memory:
            try checkVectorAvailable(mmx: false)
            guard i.isMemory else {
                self[xmm: i.rm] = self[xmm: i.reg]
                return
            }
            let address = effectiveAddress(i)
            if shape != .storeXmm128Unaligned, address & 15 != 0 { throw .generalProtection(0) }
            try store128(self[xmm: i.reg], at: address)
        case .storeXmm64, .storeXmm64Memory:
            try checkVectorAvailable(mmx: false)
            try storeXMM64(operation, i)
        case .storeXmm32:
            try checkVectorAvailable(mmx: false)
            if i.isMemory {
                try store(UInt32(truncatingIfNeeded: self[xmm: i.reg].low), at: effectiveAddress(i))
            } else {
                self[xmm: i.rm] = self[xmm: i.rm].replacingLow32(self[xmm: i.reg].low)
            }
        case .shiftXmmImmediate:
            try checkVectorAvailable(mmx: false)
            let count = UInt8(truncatingIfNeeded: i.immediate)
            self[xmm: i.rm] = vectorInteger(operation, self[xmm: i.rm], Vector128(low: UInt64(count)), imm: count)
        case .mmMm64, .mmMm64Immediate, .mmMm32, .mmMmRegister, .mmGeneral32, .mmGeneral64, .mmGeneral16Immediate,
            .mmXmm64, .mmXmm128, .mmXmmRegister, .storeMm64, .storeMm64Memory, .storeGeneral32Mm, .storeGeneral64Mm,
            .shiftMmImmediate, .general32MmRegister, .general32MmRegisterImmediate, .none:
            try checkVectorAvailable(mmx: true)
            try executeMMX(operation, shape, i)
        case .storeMemoryGeneral32: try store(UInt32(truncatingIfNeeded: self[gpr: i.reg]), at: effectiveAddress(i))
        case .storeMemoryGeneral64: try store(self[gpr: i.reg], at: effectiveAddress(i))
        default:
            try checkVectorAvailable(mmx: false)
            try executeVectorTransfer(operation, shape, i)
        }
    }

    /// A 16-byte memory operand that must be aligned.
    @inline(__always)
    private mutating func loadAligned(_ i: DecodedInstruction) throws(Fault) -> Vector128 {
        let address = effectiveAddress(i)
        if address & 15 != 0 { throw .generalProtection(0) }
        return try load128(at: address)
    }

    /// An instruction whose destination is the XMM register in ModRM.reg; `s` is its source.
    @inline(__always)
    private mutating func executeXMM(_ operation: VectorOperation, _ i: DecodedInstruction, _ s: Vector128)
        throws(Fault)
    {
        try executeXMM(operation, i, s, imm: UInt8(truncatingIfNeeded: i.immediate))
    }

    private mutating func executeXMM(
        _ operation: VectorOperation, _ i: DecodedInstruction, _ s: Vector128, imm: UInt8
    ) throws(Fault) {
        if operation.usesMXCSR {
            try executeFloat(operation, i, s, imm)
        } else if operation.rawValue >= VectorOperation.pand.rawValue {
            self[xmm: i.reg] = vectorInteger(operation, self[xmm: i.reg], s, imm: imm, mask: self[xmm: 0])
        } else {
            moveToXMM(operation, i, s, imm)
        }
    }

    /// Moves, and comparisons that do not write to ModRM.reg.
    @inline(__always)
    private mutating func moveToXMM(
        _ operation: VectorOperation, _ i: DecodedInstruction, _ s: Vector128, _ imm: UInt8
    ) {
        switch operation {
        case .movss: self[xmm: i.reg] = i.isMemory ? s : self[xmm: i.reg].replacingLow32(s.low)
        case .movsd: self[xmm: i.reg] = i.isMemory ? s : Vector128(low: s.low, high: self[xmm: i.reg].high)
        case .movq: self[xmm: i.reg] = Vector128(low: s.low)
        // The register forms are MOVHLPS and MOVLHPS.
        case .movlps, .movlpd:
            self[xmm: i.reg] = Vector128(low: i.isMemory ? s.low : s.high, high: self[xmm: i.reg].high)
        case .movhps, .movhpd: self[xmm: i.reg] = Vector128(low: self[xmm: i.reg].low, high: s.low)
        case .ptest:
            let d = self[xmm: i.reg]
            setFlags(
                cf: ~d.low & s.low | ~d.high & s.high == 0, pf: false, af: false,
                zf: d.low & s.low | d.high & s.high == 0, sf: false, of: false)
        case .pcmpestrm, .pcmpestri, .pcmpistrm, .pcmpistri: compareStrings(operation, i, s, imm)
        default: self[xmm: i.reg] = s
        }
    }

    private mutating func compareStrings(
        _ operation: VectorOperation, _ i: DecodedInstruction, _ s: Vector128, _ imm: UInt8
    ) {
        let d = self[xmm: i.reg]
        let lengths: (Int, Int)
        if operation == .pcmpestrm || operation == .pcmpestri {
            let isWide = i.operandSize == 8
            lengths = (
                VectorStringComparison.explicitLength(self[gpr: RegisterIndex.rax], isWide: isWide, imm: imm),
                VectorStringComparison.explicitLength(self[gpr: RegisterIndex.rdx], isWide: isWide, imm: imm)
            )
        } else {
            lengths = (
                VectorStringComparison.implicitLength(d, imm: imm), VectorStringComparison.implicitLength(s, imm: imm)
            )
        }
        let result = VectorStringComparison(d, lengths.0, s, lengths.1, imm: imm)
        if operation == .pcmpestrm || operation == .pcmpistrm {
            self[xmm: 0] = result.mask
        } else {
            self[gpr: RegisterIndex.rcx] = result.index
        }
        setFlags(
            cf: result.matches != 0, pf: false, af: false, zf: result.secondEnds, sf: result.firstEnds,
            of: result.matches & 1 != 0)
    }

    /// MOVSD, MOVQ, MOVLPS and MOVHPS to r/m.
    @inline(__always)
    private mutating func storeXMM64(_ operation: VectorOperation, _ i: DecodedInstruction) throws(Fault) {
        let source = self[xmm: i.reg]
        if i.isMemory {
            let isHigh = operation == .movhps || operation == .movhpd
            try store(isHigh ? source.high : source.low, at: effectiveAddress(i))
        } else {
            self[xmm: i.rm] = Vector128(low: source.low, high: operation == .movq ? 0 : self[xmm: i.rm].high)
        }
    }

    /// MASKMOVDQU and MASKMOVQ: bytes of `value` whose selector has its top bit set go to DS:rDI.
    mutating func storeMasked(_ i: DecodedInstruction, _ value: Vector128, _ selector: Vector128) throws(Fault) {
        let selected = vectorSigns(.pmovmskb, selector)
        guard selected != 0 else { return }
        let address = effectiveAddress(i)
        let first = selected.trailingZeroBitCount
        let last = 63 - selected.leadingZeroBitCount
        // Nothing is written when one of the bytes cannot be.
        try checkWritable(address &+ UInt64(first), last - first + 1, accessSet)
        for n in first...last where selected >> UInt64(n) & 1 != 0 {
            try store(value.lane(n, as: UInt8.self), at: address &+ UInt64(n))
        }
    }
}
