// SPDX-License-Identifier: Apache-2.0
// Integer instructions as the same instructions of the host. Intel SDM volume 2.

extension BlockTranslator {
    /// Translates an instruction of the integer group; `live` are the flags that are seen after it.
    mutating func translateInteger(_ i: DecodedInstruction, _ live: Flags) {
        guard let operation = Operation(rawValue: i.operation) else { return }
        let use = FlagUse.integer(operation, i)
        // Flags from before that must be in the host's when the instruction runs.
        var needed = use.changes ? use.reads.union(live.subtracting(use.replaces)) : use.reads
        let replay = use.changes ? FlagReplay(i, hasCarry: flags.hasCarryInContext) : nil
        if replay?.takesCarry == true { needed = [] }
        switch operation {
        case .div, .idiv: divide(operation, i)
        case .push: push(i)
        case .pop: pop(i)
        case .pushf: pushFlags()
        case .leave: leaveFrame()
        case .lea: loadAddress(i)
        case .cld, .std:
            giveUpHostFlags()
            code.load(.first, .context(ContextLayout.core))
            changeFlag(.direction, to: operation == .std)
        case _ where operation.testsBit && i.isInBitString: testBit(operation, i, needed)
        default:
            if i.isMemory {
                // CMPXCHG16B is the one that wants alignment.
                let memory = access(
                    i, size: Self.accessSize(operation, i), Self.memoryUse(operation, i),
                    aligned: operation == .cmpxchg8b && i.operandSize == 8)
                if !needed.isEmpty { restoreFlags(needed) }
                memoryForm(operation, i, memory)
            } else {
                if !needed.isEmpty { restoreFlags(needed) }
                registerForm(operation, i)
            }
        }
        if use.changes {
            let lacksCarry = replay?.takesCarry == true && (!flags.inHost || flags.hostLacksCarry)
            flags = FlagState(inHost: true, hostLacksCarry: lacksCarry, inContext: false, replay: replay)
        }
    }

    static func accessSize(_ operation: Operation, _ i: DecodedInstruction) -> Int32 {
        switch operation {
        case .movzx8, .movsx8, .setcc: 1
        case .movzx16, .movsx16: 2
        case .movsxd: i.operandSize == 8 ? 4 : Int32(i.operandSize)
        case .cmpxchg8b: Int32(i.operandSize) * 2
        default: Int32(i.operandSize)
        }
    }

    static func memoryUse(_ operation: Operation, _ i: DecodedInstruction) -> MemoryUse {
        if i.shape == Form.regRM.rawValue { return .read }
        return switch operation {
        case .cmp, .test, .movzx8, .movzx16, .movsx8, .movsx16, .movsxd, .cmov, .mul, .imul, .imul2, .imul3, .bt, .bsf,
            .bsr, .popcnt, .crc32:
            .read
        default: .write
        }
    }

    // MARK: Encoding

    /// An instruction whose opcode for bytes is `opcode`, and for other sizes the one after it.
    mutating func sized(
        _ opcode: UInt8, _ size: UInt8, _ map: OpcodeMap = .primary, reg: UInt8, rm: HostOperand, isHigh: Bool = false
    ) {
        code.instruction(
            prefix: size == 2 ? 0x66 : 0, wide: size == 8, map, size == 1 ? opcode : opcode + 1, reg: reg, rm: rm,
            isByte: size == 1 && !isHigh)
    }

    /// An instruction with one opcode for 16, 32 and 64 bits.
    private mutating func wordSized(_ opcode: UInt8, _ size: UInt8, _ map: OpcodeMap, reg: UInt8, rm: HostOperand) {
        code.instruction(prefix: size == 2 ? 0x66 : 0, wide: size == 8, map, opcode, reg: reg, rm: rm)
    }

    mutating func immediate(_ value: UInt64, _ size: UInt8) {
        switch size {
        case 1: code.byte(UInt8(truncatingIfNeeded: value))
        case 2: code.word(UInt16(truncatingIfNeeded: value))
        default: code.doubleWord(Int32(truncatingIfNeeded: value))
        }
    }

    /// A guest register that is read, as an operand: where it is.
    func source(_ register: UInt8) -> HostOperand {
        if register & RegisterIndex.highByte != 0 { return .number(register & 3 + 4) }
        switch GuestHome.of(register) {
        case .register(let host): return .register(host)
        case .slot(let place): return held == register ? .register(.first) : .context(place)
        }
    }

    /// The number of a host register with the guest register's value, loaded into `scratch` if it must be.
    mutating func begin(_ register: UInt8, _ scratch: HostRegister, reads: Bool = true) -> UInt8 {
        if register & RegisterIndex.highByte != 0 { return register & 3 + 4 }
        switch GuestHome.of(register) {
        case .register(let host): return host.rawValue
        case .slot(let place):
            if reads, scratch != .first || held != register {
                code.load(scratch, .context(place))
                if scratch == .first { held = register }
            }
            return scratch.rawValue
        }
    }

    /// After `begin`: the guest register's new value goes where it belongs.
    mutating func end(_ register: UInt8, _ scratch: HostRegister) {
        if register & RegisterIndex.highByte != 0 { return }
        guard case .slot(let place) = GuestHome.of(register) else { return }
        code.store(scratch, .context(place))
        if scratch == .first {
            held = register
        } else if held == register {
            held = nil
        }
    }

    /// Writes an instruction that does not change the first register.
    private mutating func keepingHeld(_ write: (inout BlockTranslator) -> Void) {
        let held = held
        write(&self)
        self.held = held
    }

    // MARK: Register forms

    mutating func registerForm(_ operation: Operation, _ i: DecodedInstruction) {
        let size = i.operandSize
        let isHigh = (i.reg | i.rm) & RegisterIndex.highByte != 0
        let number = UInt8(truncatingIfNeeded: operation.rawValue)
        switch operation {
        case .cmp, .test:
            let destination = i.shape == Form.regRM.rawValue ? i.reg : i.rm
            let host = begin(destination, .first)
            keepingHeld { block in
                switch (operation, Form(rawValue: i.shape)) {
                case (.cmp, .rmReg), (.cmp, .regRM):
                    let other = i.shape == Form.regRM.rawValue ? i.rm : i.reg
                    block.sized(0x3a, size, reg: host, rm: block.source(other), isHigh: isHigh)
                case (.cmp, _): block.arithmeticImmediate(number, i, .number(host), isHigh: isHigh)
                case (_, .rmReg): block.sized(0x84, size, reg: host, rm: block.source(i.reg), isHigh: isHigh)
                default:
                    block.sized(0xf6, size, reg: 0, rm: .number(host), isHigh: isHigh)
                    block.immediate(i.immediate, size)
                }
            }
        case .add, .or, .adc, .sbb, .and, .sub, .xor:
            let toReg = i.shape == Form.regRM.rawValue
            let destination = toReg ? i.reg : i.rm
            let host = begin(destination, .first)
            if i.shape == Form.rmReg.rawValue || toReg {
                sized(number * 8 + 2, size, reg: host, rm: source(toReg ? i.rm : i.reg), isHigh: isHigh)
            } else {
                arithmeticImmediate(number, i, .number(host), isHigh: isHigh)
            }
            end(destination, .first)
        case .mov: move(i, isHigh: isHigh)
        case .rol, .ror, .rcl, .rcr, .shl, .shr, .sal, .sar:
            let host = begin(i.rm, .first)
            shift(operation, i, .number(host), isHigh: isHigh)
            end(i.rm, .first)
        case .inc, .dec, .not, .neg:
            let host = begin(i.rm, .first)
            unary(operation, size, .number(host), isHigh: isHigh)
            end(i.rm, .first)
        case .mul, .imul: unary(operation, size, source(i.rm), isHigh: isHigh)
        case .xchg, .xadd:
            let first = begin(i.rm, .first)
            let second = begin(i.reg, .second)
            if operation == .xchg {
                sized(0x86, size, reg: second, rm: .number(first), isHigh: isHigh)
            } else {
                sized(0xc0, size, .map0F, reg: second, rm: .number(first))
            }
            end(i.reg, .second)
            end(i.rm, .first)
        case .cmpxchg, .bts, .btr, .btc, .shld, .shrd:
            let host = begin(i.rm, .first)
            registerIntoRM(operation, i, .number(host), i.needsRegister ? begin(i.reg, .second) : 0)
            end(i.rm, .first)
        case .bt:
            // Not in the context: a bit offset reaches beyond a memory operand.
            let host = begin(i.rm, .first)
            registerIntoRM(operation, i, .number(host), i.needsRegister ? begin(i.reg, .second) : 0)
        case .setcc:
            let host = begin(i.rm, .first)
            code.instruction(
                wide: false, .map0F, 0x90 | i.reg & 15, reg: 0, rm: .number(host),
                isByte: i.rm & RegisterIndex.highByte == 0)
            end(i.rm, .first)
        case .bswap:
            let host = begin(i.rm, .first)
            if size == 8 || host >= 8 { code.byte((size == 8 ? 0x48 : 0x40) | host >> 3) }
            code.byte(0x0f)
            code.byte(0xc8 | host & 7)
            end(i.rm, .first)
        case .movFromSegment:
            let host = begin(i.rm, .second, reads: size == 2)
            code.load(.first, .context(ContextLayout.core))
            // The selector comes first.
            let memory = HostOperand.memory(HostMemory(.first, Int32(routines.core.segment(i.reg & 7))))
            if size == 2 {
                code.instruction(prefix: 0x66, wide: false, 0x8b, reg: host, rm: memory)
            } else {
                code.instruction(wide: false, .map0F, 0xb7, reg: host, rm: memory)  // MOVZX
            }
            end(i.rm, .second)
        case .cbw, .cwd:
            if size != 4 { code.byte(size == 2 ? 0x66 : 0x48) }
            code.byte(operation == .cbw ? 0x98 : 0x99)
        case .stc: code.byte(0xf9)
        case .clc: code.byte(0xf8)
        case .cmc: code.byte(0xf5)
        case .lahf: code.byte(0x9f)
        case .sahf: code.byte(0x9e)
        default: intoRegister(operation, i, nil, isHigh: isHigh)
        }
    }

    private mutating func arithmeticImmediate(
        _ number: UInt8, _ i: DecodedInstruction, _ rm: HostOperand, isHigh: Bool = false
    ) {
        let value = Int64(bitPattern: i.immediate)
        if i.operandSize > 1, Int8(exactly: value) != nil {
            sized(0x82, i.operandSize, reg: number, rm: rm)
            immediate(i.immediate, 1)
        } else {
            sized(0x80, i.operandSize, reg: number, rm: rm, isHigh: isHigh)
            immediate(i.immediate, i.operandSize)
        }
    }

    private mutating func move(_ i: DecodedInstruction, isHigh: Bool) {
        let size = i.operandSize
        let toReg = i.shape == Form.regRM.rawValue
        let destination = toReg ? i.reg : i.rm
        if i.shape == Form.rmReg.rawValue || toReg {
            let from = toReg ? i.rm : i.reg
            switch (size, GuestHome.of(destination)) {
            case (8, .slot): end(destination, HostRegister(rawValue: begin(from, .first)) ?? .first)
            default:
                let host = begin(destination, .second, reads: size < 4)
                sized(0x8a, size, reg: host, rm: source(from), isHigh: isHigh)
                end(destination, .second)
            }
            return
        }
        if size >= 4 {
            let value = size == 8 ? i.immediate : i.immediate & 0xffff_ffff
            if case .slot(let place) = GuestHome.of(destination), let short = Int32(exactly: Int64(bitPattern: value)) {
                code.instruction(wide: true, 0xc7, reg: 0, rm: .context(place))
                code.doubleWord(short)
                if held == destination { held = nil }
                return
            }
            let host = begin(destination, .first, reads: false)
            code.moveImmediate(HostRegister(rawValue: host) ?? .first, value)
        } else {
            let host = begin(destination, .first)
            sized(0xc6, size, reg: 0, rm: .number(host), isHigh: isHigh)
            immediate(i.immediate, size)
        }
        end(destination, .first)
    }

    // MARK: Memory forms

    private mutating func memoryForm(_ operation: Operation, _ i: DecodedInstruction, _ memory: HostMemory) {
        let size = i.operandSize
        let rm = HostOperand.memory(memory)
        let number = UInt8(truncatingIfNeeded: operation.rawValue)
        switch operation {
        case .add, .or, .adc, .sbb, .and, .sub, .xor, .cmp:
            switch Form(rawValue: i.shape) {
            case .rmReg:
                let host = begin(i.reg, .first)
                keepingHeld { $0.sized(number * 8, size, reg: host, rm: rm) }
            case .regRM:
                let host = begin(i.reg, .first)
                sized(number * 8 + 2, size, reg: host, rm: rm)
                if operation != .cmp { end(i.reg, .first) }
            default: arithmeticImmediate(number, i, rm)
            }
        case .test:
            if i.shape == Form.rmReg.rawValue {
                sized(0x84, size, reg: begin(i.reg, .first), rm: rm)
            } else {
                sized(0xf6, size, reg: 0, rm: rm)
                immediate(i.immediate, size)
            }
        case .mov:
            switch Form(rawValue: i.shape) {
            case .rmReg:
                let host = begin(i.reg, .first)
                keepingHeld { $0.sized(0x88, size, reg: host, rm: rm) }
            case .regRM:
                let host = begin(i.reg, .first, reads: size < 4)
                sized(0x8a, size, reg: host, rm: rm)
                end(i.reg, .first)
            default:
                sized(0xc6, size, reg: 0, rm: rm)
                immediate(i.immediate, size)
            }
        case .rol, .ror, .rcl, .rcr, .shl, .shr, .sal, .sar: shift(operation, i, rm)
        case .inc, .dec, .not, .neg, .mul, .imul: unary(operation, size, rm)
        case .xchg:
            sized(0x86, size, reg: begin(i.reg, .first), rm: rm)
            end(i.reg, .first)
        case .xadd:
            sized(0xc0, size, .map0F, reg: begin(i.reg, .first), rm: rm)
            end(i.reg, .first)
        case .cmpxchg, .bt, .bts, .btr, .btc, .shld, .shrd:
            registerIntoRM(operation, i, rm, i.needsRegister ? begin(i.reg, .first) : 0)
        case .cmpxchg8b: code.instruction(wide: size == 8, .map0F, 0xc7, reg: 1, rm: rm)
        case .setcc: code.instruction(wide: false, .map0F, 0x90 | i.reg & 15, reg: 0, rm: rm)
        default: intoRegister(operation, i, rm)
        }
    }

    /// Writes the store `i` (`onlyWrites`) to where the second register leads.
    mutating func writeThrough(_ i: DecodedInstruction) {
        let memory = HostMemory(.second)
        if i.handler == .vector { storeVector(i, memory) } else { memoryForm(.mov, i, memory) }
    }

    // MARK: Both

    private mutating func shift(
        _ operation: Operation, _ i: DecodedInstruction, _ rm: HostOperand, isHigh: Bool = false
    ) {
        let number = UInt8(truncatingIfNeeded: operation.rawValue - Operation.rol.rawValue)
        switch Form(rawValue: i.shape) {
        case .rmOne: sized(0xd0, i.operandSize, reg: number, rm: rm, isHigh: isHigh)
        case .rmCL: sized(0xd2, i.operandSize, reg: number, rm: rm, isHigh: isHigh)
        default:
            sized(0xc0, i.operandSize, reg: number, rm: rm, isHigh: isHigh)
            code.byte(UInt8(truncatingIfNeeded: i.immediate))
        }
    }

    private mutating func unary(_ operation: Operation, _ size: UInt8, _ rm: HostOperand, isHigh: Bool = false) {
        switch operation {
        case .inc: sized(0xfe, size, reg: 0, rm: rm, isHigh: isHigh)
        case .dec: sized(0xfe, size, reg: 1, rm: rm, isHigh: isHigh)
        case .not: sized(0xf6, size, reg: 2, rm: rm, isHigh: isHigh)
        case .neg: sized(0xf6, size, reg: 3, rm: rm, isHigh: isHigh)
        case .mul: sized(0xf6, size, reg: 4, rm: rm, isHigh: isHigh)
        default: sized(0xf6, size, reg: 5, rm: rm, isHigh: isHigh)  // IMUL
        }
    }

    /// Instructions that change r/m with the help of a register or an immediate.
    private mutating func registerIntoRM(
        _ operation: Operation, _ i: DecodedInstruction, _ rm: HostOperand, _ reg: UInt8
    ) {
        let size = i.operandSize
        let bits: [Operation] = [.bt, .bts, .btr, .btc]
        if let number = bits.firstIndex(of: operation) {
            if i.needsRegister {
                wordSized(0xa3 + UInt8(number) * 8, size, .map0F, reg: reg, rm: rm)
            } else {
                wordSized(0xba, size, .map0F, reg: UInt8(number) + 4, rm: rm)
                code.byte(UInt8(truncatingIfNeeded: i.immediate))
            }
            return
        }
        if operation == .cmpxchg {
            sized(0xb0, size, .map0F, reg: reg, rm: rm)
            return
        }
        let opcode: UInt8 = operation == .shld ? 0xa4 : 0xac
        if i.shape == Form.rmRegCL.rawValue {
            wordSized(opcode + 1, size, .map0F, reg: reg, rm: rm)
        } else {
            wordSized(opcode, size, .map0F, reg: reg, rm: rm)
            code.byte(UInt8(truncatingIfNeeded: i.immediate))
        }
    }

    /// BT and its relatives at a bit of a string in memory, whose offset is in a register.
    private mutating func testBit(_ operation: Operation, _ i: DecodedInstruction, _ needed: Flags) {
        let size = i.operandSize
        let first = HostRegister.first.rawValue
        giveUpHostFlags()
        makeAddress(i, .second)
        // The word that has the bit.
        switch size {
        case 2: code.instruction(wide: true, .map0F, 0xbf, reg: first, rm: source(i.reg))  // MOVSX
        case 4: code.instruction(wide: true, 0x63, reg: first, rm: source(i.reg))  // MOVSXD
        default: code.instruction(wide: true, 0x8b, reg: first, rm: source(i.reg))
        }
        let scale = UInt8(size.trailingZeroBitCount)
        code.instruction(wide: true, 0xc1, reg: 7, rm: .number(first))  // SAR
        code.byte(scale + 3)
        code.address(.second, HostMemory(.second, index: .first, scale: scale))
        interpretAside(lookUpPage(size: Int32(size), operation == .bt ? .read : .write, aligned: false))
        // The bit in it.
        code.instruction(wide: false, 0x8b, reg: first, rm: source(i.reg))
        code.arithmetic(4, wide: false, .number(first), Int32(size) * 8 - 1)
        code.store(.first, .context(ContextLayout.temporary))
        if !needed.isEmpty { restoreFlags(needed) }
        code.load(.first, .context(ContextLayout.temporary))
        registerIntoRM(operation, i, .memory(HostMemory(.second)), first)
    }

    /// Instructions whose destination is the register in ModRM.reg, and whose source is `memory`, or a register.
    private mutating func intoRegister(
        _ operation: Operation, _ i: DecodedInstruction, _ memory: HostOperand?, isHigh: Bool = false
    ) {
        let size = i.operandSize
        let host = begin(i.reg, .first, reads: size < 4 || operation.readsDestination)
        // After `begin`, which may have changed where the source is.
        var rm = memory ?? source(i.rm)
        if isHigh, size != 4 || host >= 8 {
            // The instruction would need a REX prefix, with which there is no such register.
            code.store(HostRegister(rawValue: i.rm & 3) ?? .rax, .context(ContextLayout.temporary))
            rm = .context(ContextLayout.temporary + 1)
        }
        switch operation {
        case .movzx8:
            code.instruction(
                prefix: size == 2 ? 0x66 : 0, wide: size == 8, .map0F, 0xb6, reg: host, rm: rm,
                isByte: isByteRegister(rm, isHigh))
        case .movzx16: wordSized(0xb7, size, .map0F, reg: host, rm: rm)
        case .movsx8:
            code.instruction(
                prefix: size == 2 ? 0x66 : 0, wide: size == 8, .map0F, 0xbe, reg: host, rm: rm,
                isByte: isByteRegister(rm, isHigh))
        case .movsx16: wordSized(0xbf, size, .map0F, reg: host, rm: rm)
        case .movsxd: wordSized(0x63, size, .primary, reg: host, rm: rm)
        case .cmov: wordSized(0x40 | UInt8(truncatingIfNeeded: i.immediate & 15), size, .map0F, reg: host, rm: rm)
        case .imul2: wordSized(0xaf, size, .map0F, reg: host, rm: rm)
        case .imul3:
            wordSized(0x69, size, .primary, reg: host, rm: rm)
            immediate(i.immediate, max(size, 2))
        case .bsf: wordSized(0xbc, size, .map0F, reg: host, rm: rm)
        case .bsr: wordSized(0xbd, size, .map0F, reg: host, rm: rm)
        case .popcnt: code.instruction(prefix: 0xf3, wide: size == 8, .map0F, 0xb8, reg: host, rm: rm)
        default:  // CRC32
            code.instruction(
                prefix: 0xf2, wide: i.immediate == 8, .map0F38, size == 1 ? 0xf0 : 0xf1, reg: host, rm: rm,
                isByte: size == 1 && isByteRegister(rm, isHigh))
        }
        end(i.reg, .first)
    }

    private func isByteRegister(_ rm: HostOperand, _ isHigh: Bool) -> Bool {
        if case .number = rm { return !isHigh }
        return false
    }

    private mutating func loadAddress(_ i: DecodedInstruction) {
        if isSimple(i) {
            let host = begin(i.reg, .first, reads: false)
            var memory = HostMemory(nil, i.displacement)
            if i.base != RegisterIndex.zero { memory.base = GuestHome.of(i.base).register }
            if i.index != RegisterIndex.zero { memory.index = GuestHome.of(i.index).register }
            memory.scale = i.scale
            code.instruction(wide: i.operandSize == 8, 0x8d, reg: host, rm: .memory(memory))
        } else if i.operandSize == 8, case .register(let host) = GuestHome.of(i.reg), i.base != i.reg, i.index != i.reg
        {
            makeOffset(GuestAddress(i), host, spare: .second)
        } else {
            makeOffset(GuestAddress(i), .first, spare: .second)
            let host = begin(i.reg, .first, reads: false)
            if i.operandSize == 4 || host != HostRegister.first.rawValue {
                code.instruction(wide: i.operandSize == 8, 0x8b, reg: host, rm: .register(.first))
            }
        }
        end(i.reg, .first)
    }
}

extension DecodedInstruction {
    /// Of BT and its relatives, whether the bit may lie beyond the memory operand.
    var isInBitString: Bool { isMemory && shape == Form.rmReg.rawValue }

    /// Whether ModRM.reg is an operand, not an immediate.
    fileprivate var needsRegister: Bool { shape != Form.rmImmediate.rawValue }
}

extension Operation {
    /// BT, BTS, BTR and BTC.
    var testsBit: Bool {
        switch self {
        case .bt, .bts, .btr, .btc: true
        default: false
        }
    }

    /// Whether an instruction that writes ModRM.reg depends on what was there.
    fileprivate var readsDestination: Bool {
        switch self {
        case .cmov, .imul2, .bsf, .bsr, .crc32: true
        default: false
        }
    }
}
