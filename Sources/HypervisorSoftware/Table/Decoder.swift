// SPDX-License-Identifier: Apache-2.0
// Bytes to decoded instructions. Intel SDM volume 2, chapter 2.

/// Up to 16 bytes of code, little-endian.
struct CodeWindow: Equatable {
    var low: UInt64
    var high: UInt64
    /// Bytes that could be fetched.
    var available: Int

    func byte(_ position: Int) -> UInt8 {
        let word = position < 8 ? low : high
        return UInt8(truncatingIfNeeded: word >> UInt64((position & 7) * 8))
    }
}

/// What the bytes turned out to be.
enum DecodeResult {
    /// An instruction; `endsBlock` when control does not simply go on behind it.
    case instruction(DecodedInstruction, endsBlock: Bool)
    /// More bytes are needed than the window has.
    case incomplete
    /// Longer than 15 bytes: #GP.
    case tooLong
}

/// Decodes one instruction at a time from a window of bytes.
struct Decoder {
    private let window: CodeWindow
    private let mode: CodeMode
    private var position = 0
    private var overran = false

    private var rex: UInt8 = 0
    private var operandPrefix = false
    private var addressPrefix = false
    private var repPrefix: UInt8 = 0
    private var lockPrefix = false
    private var segmentOverride: UInt8?
    private var modRM: UInt8 = 0

    private init(_ window: CodeWindow, _ mode: CodeMode) {
        self.window = window
        self.mode = mode
    }

    /// Decodes the instruction at the start of `window`, which lies at `pageOffset` in its page.
    static func decode(_ window: CodeWindow, _ mode: CodeMode, pageOffset: UInt16) -> DecodeResult {
        var decoder = Decoder(window, mode)
        return decoder.decode(pageOffset)
    }

    private mutating func next() -> UInt8 {
        guard position < window.available else {
            overran = true
            return 0
        }
        position += 1
        return window.byte(position - 1)
    }

    private mutating func next(bytes count: Int) -> UInt64 {
        var value: UInt64 = 0
        for shift in 0..<count { value |= UInt64(next()) << UInt64(shift * 8) }
        return value
    }

    private mutating func nextSigned(bytes count: Int) -> UInt64 {
        let shift = Int64(64 - count * 8)
        return UInt64(bitPattern: Int64(bitPattern: next(bytes: count) << UInt64(shift)) >> shift)
    }

    private mutating func decode(_ pageOffset: UInt16) -> DecodeResult {
        var opcode = prefixes()
        var map = OpcodeMap.primary
        if opcode == 0x0f {
            opcode = next()
            map = .map0F
            if opcode == 0x38 {
                opcode = next()
                map = .map0F38
            } else if opcode == 0x3a {
                opcode = next()
                map = .map0F3A
            }
        }
        var result = DecodedInstruction(handler: .invalid)
        result.pageOffset = pageOffset
        var endsBlock = true
        if map == .primary, opcode & 0xf8 == 0xd8 {
            modRM = next()
            endsBlock = !x87(&result, opcode)
        } else if let form = select(map, opcode) {
            endsBlock = !integer(&result, form, opcode)
        } else if map != .primary {
            endsBlock = !vector(&result, map, opcode)
        }
        if overran { return position >= 15 ? .tooLong : .incomplete }
        if position > 15 { return .tooLong }
        result.length = UInt8(position)
        if lockPrefix, !result.traits.contains(.lock) {
            result.handler = .invalid
            endsBlock = true
        }
        finishAddresses(&result)
        return .instruction(result, endsBlock: endsBlock)
    }

    /// Reads prefixes; the byte after them.
    private mutating func prefixes() -> UInt8 {
        while true {
            let byte = next()
            if overran { return 0x90 }
            switch byte {
            case 0x66: operandPrefix = true
            case 0x67: addressPrefix = true
            case 0xf2, 0xf3: repPrefix = byte
            case 0xf0: lockPrefix = true
            case 0x2e, 0x36, 0x3e, 0x26:
                // ES, CS, SS and DS overrides mean nothing in 64-bit mode, not even instead of FS.
                if mode != .bits64 { segmentOverride = byte >> 3 & 3 }
            case 0x64: segmentOverride = SegmentIndex.fs
            case 0x65: segmentOverride = SegmentIndex.gs
            case 0x40...0x4f where mode == .bits64:
                rex = byte
                let following = next()
                if isPrefix(following) {
                    // REX counts only directly before the opcode.
                    rex = 0
                    position -= 1
                    continue
                }
                return following
            default: return byte
            }
        }
    }

    private func isPrefix(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65: true
        case 0x40...0x4f: true
        default: false
        }
    }

    private var rexW: Bool { rex & 8 != 0 }
    private var regField: UInt8 { modRM >> 3 & 7 }
    private var rmField: UInt8 { modRM & 7 }
    private var isRegisterForm: Bool { modRM >= 0xc0 }

    /// The table's row for an opcode, after reading ModRM if it has one.
    private mutating func select(_ map: OpcodeMap, _ opcode: UInt8) -> InstructionForm? {
        let lookup = FormLookup.shared
        let positions = lookup.positions(map, opcode)
        guard !positions.isEmpty else { return nil }
        let start = position
        let hasModRM = lookup[positions.lowerBound].hasModRM
        if hasModRM { modRM = next() }
        var best: InstructionForm?
        for candidate in positions {
            let form = lookup[candidate]
            if !fits(form) { continue }
            // A row that asks for more wins over a general one.
            guard let current = best else {
                best = form
                continue
            }
            if form.selector >= 0 || !form.traits.isDisjoint(with: [.prefixF3, .prefixF2, .prefix66]) {
                best = form
            } else if current.selector < 0, current.traits.isDisjoint(with: [.prefixF3, .prefixF2, .prefix66]) {
                best = form
            }
        }
        if best == nil { position = start }
        return best
    }

    private func fits(_ form: InstructionForm) -> Bool {
        let traits = form.traits
        if traits.contains(.not64), mode == .bits64 { return false }
        if traits.contains(.only64), mode != .bits64 { return false }
        if traits.contains(.prefixF3), repPrefix != 0xf3 { return false }
        if traits.contains(.prefixF2), repPrefix != 0xf2 { return false }
        if traits.contains(.prefix66), !operandPrefix { return false }
        if traits.contains(.noPrefix), repPrefix != 0 || operandPrefix { return false }
        guard form.hasModRM else { return true }
        if form.group >= 0, regField != UInt8(form.group) { return false }
        if form.selector >= 0, !isRegisterForm || rmField != UInt8(form.selector) { return false }
        if traits.contains(.ignoresMode) { return true }
        if traits.contains(.memoryOnly), isRegisterForm { return false }
        if traits.contains(.registerOnly), !isRegisterForm { return false }
        return true
    }

    private func operandSize(_ rule: SizeRule) -> UInt8 {
        switch rule {
        case .byte: 1
        case .fixed16: 2
        case .doubleWord: rexW ? 8 : 4
        case .register: mode == .bits64 ? 8 : 4
        case .table: mode == .bits64 ? 8 : operandSize(.word)
        case .word:
            switch mode {
            case .bits64: rexW ? 8 : operandPrefix ? 2 : 4
            case .bits32: operandPrefix ? 2 : 4
            case .bits16: operandPrefix ? 4 : 2
            }
        case .stack:
            switch mode {
            case .bits64: operandPrefix ? 2 : 8
            case .bits32: operandPrefix ? 2 : 4
            case .bits16: operandPrefix ? 4 : 2
            }
        case .near:
            switch mode {
            case .bits64: 8
            case .bits32: operandPrefix ? 2 : 4
            case .bits16: operandPrefix ? 4 : 2
            }
        }
    }

    /// A register operand of `size` bytes: without REX, byte registers 4 to 7 are AH to BH.
    private func byteAware(_ register: UInt8, _ size: UInt8) -> UInt8 {
        size == 1 && rex == 0 && register >= 4 && register < 8 ? RegisterIndex.highByte | (register - 4) : register
    }

    /// Fills in a row's operands. Returns whether the block goes on behind it.
    private mutating func integer(_ result: inout DecodedInstruction, _ form: InstructionForm, _ opcode: UInt8) -> Bool
    {
        var size = operandSize(form.size)
        if opcode == 0x90, form.map == .primary, rex & 1 != 0 { return exchangeR8(&result, size) }
        result.operation = form.operation.rawValue
        result.shape = form.form.rawValue
        if form.hasModRM {
            result.reg = regField | (rex & 4) << 1
            if isRegisterForm || form.traits.contains(.ignoresMode) {
                result.rm = rmField | (rex & 1) << 3
            } else {
                memoryOperand(&result)
            }
            var rmSize = size
            switch form.operation {
            case .movzx8, .movsx8: rmSize = 1
            case .crc32 where form.size == .byte:
                rmSize = 1
                size = 1
            default: break
            }
            if form.operation == .setcc || form.operation == .cmov { result.reg = opcode & 15 | regField << 4 }
            if form.operation == .cmov { cmovOperands(&result, opcode) }
            if size == 1, form.group < 0, form.operation != .setcc, form.operation != .crc32 {
                result.reg = byteAware(result.reg, 1)
            }
            if !result.isMemory { result.rm = byteAware(result.rm, rmSize) }
        } else {
            plainOperands(&result, form, opcode, size)
        }
        result.operandSize = size
        if form.operation == .crc32 { result.immediate = rexW ? 8 : 4 }
        immediate(&result, form, opcode, size)
        if repPrefix == 0xf3 { result.traits.insert(.rep) }
        if repPrefix == 0xf2 { result.traits.insert(.repne) }
        if lockPrefix, form.traits.contains(.lockable), result.isMemory { result.traits.insert(.lock) }
        if addressPrefix || mode != .bits64 { markAddressSize(&result) }
        result.handler = Handler.select(form, &result)
        return !form.traits.contains(.endsBlock)
    }

    /// CMOVcc keeps its condition in the immediate, because both registers are operands.
    private func cmovOperands(_ result: inout DecodedInstruction, _ opcode: UInt8) {
        result.reg = regField | (rex & 4) << 1
        result.immediate = UInt64(opcode & 15)
    }

    private func exchangeR8(_ result: inout DecodedInstruction, _ size: UInt8) -> Bool {
        result.operation = Operation.xchg.rawValue
        result.shape = Form.rmReg.rawValue
        result.rm = 8
        result.reg = RegisterIndex.rax
        result.operandSize = size
        result.handler = .integer
        return true
    }

    private mutating func plainOperands(
        _ result: inout DecodedInstruction, _ form: InstructionForm, _ opcode: UInt8, _ size: UInt8
    ) {
        let register = opcode & 7 | (rex & 1) << 3
        switch form.form {
        case .opcodeRegister, .opcodeRegisterImmediate:
            result.rm = byteAware(register, size)
        case .accumulatorRegister:
            result.rm = register
            result.reg = RegisterIndex.rax
            result.shape = Form.rmReg.rawValue
        case .accumulatorMemory, .memoryAccumulator:
            absoluteOperand(&result)
            result.reg = RegisterIndex.rax
            result.shape = (form.form == .accumulatorMemory ? Form.regRM : Form.rmReg).rawValue
        case .accumulatorImmediate:
            result.rm = RegisterIndex.rax
            result.shape = Form.rmImmediate.rawValue
        case .relative:
            result.reg = opcode & 15
        default:
            // PUSH and POP of a segment register name it in the opcode.
            result.reg = opcode >> 3 & 7
            if let override = segmentOverride {
                result.segment = override
            } else if mode != .bits64 {
                result.segment = SegmentIndex.ds
            }
        }
        if form.form == .opcodeRegisterImmediate { result.shape = Form.rmImmediate.rawValue }
    }

    private mutating func immediate(
        _ result: inout DecodedInstruction, _ form: InstructionForm, _ opcode: UInt8, _ size: UInt8
    ) {
        switch form.immediate {
        case .none: break
        case .byte: result.immediate = next(bytes: 1)
        case .signedByte: result.immediate = nextSigned(bytes: 1)
        case .word:
            let count = size == 2 ? 2 : 4
            result.immediate = nextSigned(bytes: count)
        case .full: result.immediate = next(bytes: Int(size))
        case .fixed16: result.immediate = next(bytes: 2)
        case .enter: result.immediate = next(bytes: 3)
        }
        if form.form == .farPointer {
            let offset = next(bytes: size == 2 ? 2 : 4)
            result.immediate = offset | next(bytes: 2) << 32
        }
        if form.operation == .loadFarPointer { result.immediate = UInt64(Self.farPointerSegment(opcode)) }
        if form.form == .relative {
            // The offset of the target from the page base: see `DecodedInstruction.immediate`.
            let target = result.immediate &+ UInt64(result.pageOffset) &+ UInt64(position)
            result.immediate = target
            if target < 4096 { result.traits.insert(.samePage) }
        }
    }

    /// The segment register that LES, LDS, LSS, LFS or LGS loads.
    private static func farPointerSegment(_ opcode: UInt8) -> UInt8 {
        switch opcode {
        case 0xc4: SegmentIndex.es
        case 0xc5: SegmentIndex.ds
        case 0xb2: SegmentIndex.ss
        case 0xb4: SegmentIndex.fs
        default: SegmentIndex.gs
        }
    }

    private mutating func x87(_ result: inout DecodedInstruction, _ opcode: UInt8) -> Bool {
        if isRegisterForm { result.rm = rmField } else { memoryOperand(&result) }
        guard let form = X87Form.lookup(opcode: opcode, modRM: modRM) else { return false }
        result.operation = form.operation.rawValue
        result.shape = form.memory.rawValue
        result.immediate = UInt64(opcode & 7) << 8 | UInt64(modRM)
        result.reg = regField
        result.operandSize = operandSize(.word) == 2 ? 2 : 4
        result.handler = .x87
        if addressPrefix || mode != .bits64 { markAddressSize(&result) }
        return true
    }

    private mutating func vector(_ result: inout DecodedInstruction, _ map: OpcodeMap, _ opcode: UInt8) -> Bool {
        let prefix: MandatoryPrefix =
            repPrefix == 0xf3 ? .xF3 : repPrefix == 0xf2 ? .xF2 : operandPrefix ? .x66 : .none
        // Every vector instruction but EMMS has a ModRM byte.
        if map != .map0F || opcode != 0x77 { modRM = next() } else { modRM = 0xc0 }
        guard let form = VectorTable.shared.form(map, opcode, prefix, reg: regField),
            form.allows(isMemory: !isRegisterForm)
        else { return false }
        let operands = rexW ? form.operands.widened : form.operands
        result.reg = regField | (rex & 4) << 1
        if isRegisterForm { result.rm = rmField | (rex & 1) << 3 } else { memoryOperand(&result) }
        if operands == .mmMmRegister || operands == .xmmXmmRegister {
            // MASKMOVQ and MASKMOVDQU write to DS:rDI beside their two registers.
            result.base = RegisterIndex.rdi
            chooseSegment(&result, SegmentIndex.ds)
        }
        result.operation = form.operation.rawValue
        result.shape = operands.rawValue
        result.operandSize = rexW ? 8 : 4
        if operands.layout.hasImmediate { result.immediate = next(bytes: 1) }
        result.handler = .vector
        if addressPrefix || mode != .bits64 { markAddressSize(&result) }
        return true
    }

    /// Reads SIB and displacement of a memory operand.
    private mutating func memoryOperand(_ result: inout DecodedInstruction) {
        result.traits.insert(.memory)
        if mode == .bits16 && !addressPrefix || mode == .bits32 && addressPrefix {
            memoryOperand16(&result)
            return
        }
        let displacementKind = modRM >> 6
        var defaultSegment = SegmentIndex.ds
        var base = rmField
        var hasBase = true
        if base == 4 {
            let sib = next()
            let index = sib >> 3 & 7 | (rex & 2) << 2
            if index != 4 {
                result.index = index
                result.scale = sib >> 6
            }
            base = sib & 7
            if base == 5, displacementKind == 0 { hasBase = false }
            if !hasBase { result.displacement = Int32(truncatingIfNeeded: nextSigned(bytes: 4)) }
        } else if base == 5, displacementKind == 0 {
            hasBase = false
            result.displacement = Int32(truncatingIfNeeded: nextSigned(bytes: 4))
            if mode == .bits64 { result.base = RegisterIndex.pageBase }
        }
        if hasBase {
            result.base = base | (rex & 1) << 3
            if result.base == RegisterIndex.rsp || result.base == RegisterIndex.rbp { defaultSegment = SegmentIndex.ss }
            if displacementKind == 1 { result.displacement = Int32(truncatingIfNeeded: nextSigned(bytes: 1)) }
            if displacementKind == 2 { result.displacement = Int32(truncatingIfNeeded: nextSigned(bytes: 4)) }
        }
        chooseSegment(&result, defaultSegment)
    }

    /// 16-bit addressing. SDM volume 2, table 2-1.
    private mutating func memoryOperand16(_ result: inout DecodedInstruction) {
        let bases: (UInt8, UInt8) =
            switch rmField {
            case 0: (RegisterIndex.rbx, RegisterIndex.rsi)
            case 1: (RegisterIndex.rbx, RegisterIndex.rdi)
            case 2: (RegisterIndex.rbp, RegisterIndex.rsi)
            case 3: (RegisterIndex.rbp, RegisterIndex.rdi)
            case 4: (RegisterIndex.zero, RegisterIndex.rsi)
            case 5: (RegisterIndex.zero, RegisterIndex.rdi)
            case 6: (RegisterIndex.rbp, RegisterIndex.zero)
            default: (RegisterIndex.rbx, RegisterIndex.zero)
            }
        (result.base, result.index) = bases
        switch modRM >> 6 {
        case 0 where rmField == 6:
            result.base = RegisterIndex.zero
            result.displacement = Int32(truncatingIfNeeded: next(bytes: 2))
        case 1: result.displacement = Int32(truncatingIfNeeded: nextSigned(bytes: 1))
        case 2: result.displacement = Int32(truncatingIfNeeded: nextSigned(bytes: 2))
        default: break
        }
        chooseSegment(&result, result.base == RegisterIndex.rbp ? SegmentIndex.ss : SegmentIndex.ds)
    }

    /// MOV with an absolute address; in 64-bit mode it can have 64 bits, kept in the immediate.
    private mutating func absoluteOperand(_ result: inout DecodedInstruction) {
        result.traits.insert(.memory)
        let bytes = mode == .bits64 ? (addressPrefix ? 4 : 8) : (mode == .bits16) != addressPrefix ? 2 : 4
        let address = next(bytes: bytes)
        if bytes == 8 {
            result.immediate = address
            result.displacement = Int32(truncatingIfNeeded: address)
            if UInt64(bitPattern: Int64(result.displacement)) != address { result.base = RegisterIndex.absolute }
        } else {
            result.displacement = Int32(truncatingIfNeeded: address)
        }
        chooseSegment(&result, SegmentIndex.ds)
    }

    private func chooseSegment(_ result: inout DecodedInstruction, _ defaultSegment: UInt8) {
        if let override = segmentOverride {
            result.segment = override
        } else if mode != .bits64 {
            result.segment = defaultSegment
        }
    }

    private func markAddressSize(_ result: inout DecodedInstruction) {
        result.traits.insert(.legacyAddress)
        switch (mode, addressPrefix) {
        case (.bits16, false), (.bits32, true): result.traits.insert(.address16)
        case (.bits64, false): break
        default: result.traits.insert(.address32)
        }
    }

    /// RIP-relative displacements become offsets from the page base.
    private func finishAddresses(_ result: inout DecodedInstruction) {
        guard result.isMemory, result.base == RegisterIndex.pageBase else { return }
        let (sum, overflow) = result.displacement.addingReportingOverflow(Int32(result.pageOffset) + Int32(position))
        result.displacement = sum
        // 2 GiB from here plus less than a page: step over the wrap with the pseudo register that holds 2^32.
        if overflow { result.index = RegisterIndex.fourGiB }
    }
}
