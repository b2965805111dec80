// SPDX-License-Identifier: Apache-2.0
// MOVS, CMPS, STOS, LODS and SCAS upwards, repeated where all elements lie in one page. Intel SDM volume 2, 4.3.

extension BlockTranslator {
    private static var source: HostRegister { .rsi }
    private static var destination: HostRegister { .rdi }

    /// Elements that SCAS and CMPS may look at here. The interpreter looks at many together, hosts at one after the other.
    private static let longestSearch: Int32 = 96

    /// Translates a string instruction. The interpreter does what goes downwards, into another page, or to a device.
    mutating func translateString(_ i: DecodedInstruction) {
        guard let operation = Operation(rawValue: i.operation) else { return }
        let use = FlagUse.string(i)
        let repeats = !i.traits.isDisjoint(with: [.rep, .repne])
        if losesFlags || use.changes && repeats {
            saveFlags()
            flags.replay = nil
        }
        giveUpHostFlags()
        code.load(.first, .context(ContextLayout.core))
        code.instruction(
            wide: false, 0xf7, reg: 0,
            rm: .memory(HostMemory(.first, Int32(routines.core.systemFlags))))  // TEST
        code.doubleWord(Int32(truncatingIfNeeded: Flags.direction.rawValue))
        interpretAside(code.jump(if: HostCondition.notEqual))
        if repeats { repeated(operation, i) } else { single(operation, i) }
        if use.changes { flags = FlagState(inHost: true, inContext: false) }
    }

    /// Makes an element at RSI or RDI reachable by the second register.
    private mutating func element(_ register: HostRegister, _ size: UInt8, _ use: MemoryUse) {
        code.move(.second, register)
        interpretAside(lookUpPage(size: Int32(size), use, aligned: false))
    }

    private mutating func single(_ operation: Operation, _ i: DecodedInstruction) {
        let size = i.operandSize
        let (first, rax) = (HostRegister.first.rawValue, HostRegister.rax.rawValue)
        let readsSource = operation == .movs || operation == .lods || operation == .cmps
        let hasDestination = operation != .lods
        if readsSource {
            element(Self.source, size, .read)
            if hasDestination {
                sized(0x8a, size, reg: first, rm: .memory(HostMemory(.second)))
                code.store(.first, .context(ContextLayout.temporary))
            }
        }
        if hasDestination {
            element(Self.destination, size, operation == .movs || operation == .stos ? .write : .read)
            if readsSource { code.load(.first, .context(ContextLayout.temporary)) }
        }
        if readsSource { code.address(Self.source, HostMemory(Self.source, Int32(size))) }
        if hasDestination { code.address(Self.destination, HostMemory(Self.destination, Int32(size))) }
        let memory = HostOperand.memory(HostMemory(.second))
        switch operation {
        case .movs: sized(0x88, size, reg: first, rm: memory)
        case .stos: sized(0x88, size, reg: rax, rm: memory)
        case .lods: sized(0x8a, size, reg: rax, rm: memory)
        case .scas: sized(0x3a, size, reg: rax, rm: memory)
        default: sized(0x3a, size, reg: first, rm: memory)  // CMPS
        }
    }

    /// The host's own instruction on the host's addresses. What it takes from the time slice, the interpreter takes, too.
    private mutating func repeated(_ operation: Operation, _ i: DecodedInstruction) {
        let size = i.operandSize
        let hasSource = operation == .movs || operation == .cmps
        let writes = operation == .movs || operation == .stos
        let (first, second) = (HostRegister.first.rawValue, HostRegister.second.rawValue)
        code.arithmetic(7, wide: true, .register(.rcx), writes ? 4096 : Self.longestSearch)
        interpretAside(code.jump(if: HostCondition.above))
        if hasSource { checkRoom(Self.source, size) }
        checkRoom(Self.destination, size)
        if hasSource {
            element(Self.source, size, .read)
            code.store(.second, .context(ContextLayout.otherTemporary))
        }
        element(Self.destination, size, writes ? .write : .read)
        if writes {
            code.instruction(wide: false, 0x8b, reg: first, rm: .register(.rcx))
            code.instruction(wide: false, 0xc1, reg: 5, rm: .number(first))  // SHR
            code.byte(UInt8(5 - size.trailingZeroBitCount))
            code.instruction(wide: false, 0x29, reg: first, rm: .context(ContextLayout.budget))
        }
        // The second register and the temporary become the distances from the host's addresses to the guest's.
        code.move(.first, Self.destination)
        code.instruction(wide: true, 0x2b, reg: first, rm: .number(second))
        code.move(Self.destination, .second)
        code.move(.second, .first)
        if hasSource {
            code.move(.first, Self.source)
            code.instruction(wide: true, 0x2b, reg: first, rm: .context(ContextLayout.otherTemporary))
            code.store(.first, .context(ContextLayout.temporary))
            code.load(Self.source, .context(ContextLayout.otherTemporary))
        }
        if !writes { restoreFlags() }
        if size == 2 { code.byte(0x66) }
        code.byte(i.traits.contains(.rep) ? 0xf3 : 0xf2)
        if size == 8 { code.byte(0x48) }
        let opcode: UInt8 = operation == .movs ? 0xa4 : operation == .cmps ? 0xa6 : operation == .stos ? 0xaa : 0xae
        code.byte(size == 1 ? opcode : opcode + 1)
        code.address(Self.destination, HostMemory(Self.destination, index: .second))
        if hasSource {
            code.load(.first, .context(ContextLayout.temporary))
            code.address(Self.source, HostMemory(Self.source, index: .first))
        }
    }

    /// The interpreter runs the instruction if RCX elements from the address in `register` on reach into the next page.
    private mutating func checkRoom(_ register: HostRegister, _ size: UInt8) {
        let first = HostRegister.first.rawValue
        code.instruction(wide: false, 0x8b, reg: first, rm: .register(register))
        code.arithmetic(4, wide: false, .number(first), 4095)
        code.address(.first, HostMemory(.first, index: .rcx, scale: UInt8(size.trailingZeroBitCount), 0))
        code.arithmetic(7, wide: true, .number(first), 4096)
        interpretAside(code.jump(if: HostCondition.above))
    }
}
