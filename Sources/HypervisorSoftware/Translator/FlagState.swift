// SPDX-License-Identifier: Apache-2.0
// Where the guest's status flags are between two translated instructions, and how to make them again.

/// Where the status flags are. Often nowhere but in the registers that they were computed from.
struct FlagState {
    /// In the host's flags, which may lack CF.
    var inHost = false
    var hostLacksCarry = false
    /// In the context.
    var inContext = true
    /// What makes them again from the guest's registers.
    var replay: FlagReplay?

    /// Whether the context has CF.
    var hasCarryInContext: Bool { inContext || replay?.takesCarry == true }
}

/// How things are at one place of a block's code.
struct BlockState {
    var flags = FlagState()
    /// The block has made sure that the vector registers are loaded.
    var vectorsLoaded = false
    /// The block has made sure that the x87 unit is in the host's.
    var x87Loaded = false
    /// The context has the page of the x87 unit's last instruction, because it is the block's.
    var x87PageNoted = false
    /// What the context should have of that instruction besides, and has not.
    var x87Record: Int32?
    /// The block has made sure that its next page is the one that it was translated with.
    var knowsNextPage = false

    /// Whether code that begins like this may be entered when things are as in `other`.
    /// - Parameter needsFlags: whether somebody may see the flags then.
    func isMet(by other: BlockState, needsFlags: Bool) -> Bool {
        guard other.vectorsLoaded || !vectorsLoaded, other.x87Loaded || !x87Loaded,
            other.x87PageNoted || !x87PageNoted, other.x87Record == x87Record,
            other.knowsNextPage || !knowsNextPage
        else { return false }
        if !needsFlags { return true }
        if flags.inContext { return other.flags.inContext }
        guard let replay = flags.replay, let another = other.flags.replay else { return false }
        return replay.isSame(as: another)
    }
}

/// An instruction whose flags the guest's registers after it still tell.
struct FlagReplay {
    private enum Method {
        /// The instruction itself: it changes nothing else.
        case again
        /// A test of the result with itself.
        case test
        /// The operation on the value that was there before, which the result and the other operand tell.
        case undo
        /// The same of INC and DEC, which leave CF as it is: the context has it.
        case step
        /// NEG twice, of the result.
        case negate
    }

    private let instruction: DecodedInstruction
    private let method: Method

    /// Nil for instructions of the integer group whose flags are lost with their operands.
    /// - Parameter hasCarry: whether the context has CF before the instruction.
    init?(_ i: DecodedInstruction, hasCarry: Bool) {
        // The result of a logical operation tells its flags, whatever the other operand was.
        guard !i.isMemory || i.shape == Form.regRM.rawValue, (i.reg | i.rm) & RegisterIndex.highByte == 0 else {
            return nil
        }
        instruction = i
        switch Operation(rawValue: i.operation) {
        case .and, .or, .xor: method = .test
        case _ where i.isMemory: return nil
        case .cmp, .test: method = .again
        case .add, .sub:
            guard i.operandSize >= 4 else { return nil }
            if i.hasSource {
                guard i.reg & 15 != i.rm & 15 else { return nil }
            } else if Int32(exactly: Int64(bitPattern: i.immediate)) ?? .min == .min {
                return nil
            }
            method = .undo
        case .inc, .dec:
            guard hasCarry, i.operandSize >= 4 else { return nil }
            method = .step
        case .neg:
            guard i.operandSize >= 4 else { return nil }
            method = .negate
        default: return nil
        }
    }

    private var destination: UInt8 { instruction.destination }

    /// The registers that must not have changed, a bit for each.
    var registers: UInt16 {
        let result: UInt16 = 1 << UInt16(destination & 15)
        guard method == .again || method == .undo, instruction.hasSource else { return result }
        return result | 1 << UInt16(instruction.source & 15)
    }

    /// Whether CF is taken from the context.
    var takesCarry: Bool { method == .step }

    /// Whether both are the same instruction of a block.
    func isSame(as other: FlagReplay) -> Bool { instruction.pageOffset == other.instruction.pageOffset }

    /// Writes the code that sets the host's flags. Uses the first register.
    func write(_ block: inout BlockTranslator) {
        block.held = nil
        let size = instruction.operandSize
        let first = HostRegister.first.rawValue
        switch method {
        case .again: block.registerForm(Operation(rawValue: instruction.operation) ?? .cmp, instruction)
        case .test:
            block.sized(0x84, size, reg: block.begin(destination, .first), rm: block.source(destination))
        case .step:
            // BT of 16 bits, as many as were stored: a wider load would wait for the store.
            block.code.instruction(
                prefix: 0x66, wide: false, .map0F, 0xba, reg: 4, rm: .context(ContextLayout.flags))
            block.code.byte(8)
            let isUp = Operation(rawValue: instruction.operation) == .inc
            let host = HostRegister(rawValue: block.begin(destination, .first)) ?? .first
            block.code.address(.first, HostMemory(host, isUp ? -1 : 1))
            block.code.instruction(wide: size == 8, 0xff, reg: isUp ? 0 : 1, rm: .number(first))
        case .negate:
            block.code.instruction(wide: true, 0x8b, reg: first, rm: block.source(destination))
            for _ in 0..<2 { block.code.instruction(wide: size == 8, 0xf7, reg: 3, rm: .number(first)) }
        case .undo:
            let isSum = Operation(rawValue: instruction.operation) == .add
            let wide = size == 8
            let (add, subtract, compare): (UInt8, UInt8, UInt8) = (0, 5, 7)
            if instruction.hasSource {
                let other = block.source(instruction.source)
                block.code.instruction(wide: wide, 0x8b, reg: first, rm: block.source(destination))
                block.code.instruction(wide: wide, (isSum ? subtract : add) * 8 + 3, reg: first, rm: other)
                block.code.instruction(wide: wide, (isSum ? add : compare) * 8 + 3, reg: first, rm: other)
            } else {
                let value = Int32(truncatingIfNeeded: instruction.immediate)
                let host = HostRegister(rawValue: block.begin(destination, .first)) ?? .first
                block.code.address(.first, HostMemory(host, isSum ? -value : value))
                block.code.arithmetic(isSum ? add : compare, wide: wide, .number(first), value)
            }
        }
    }
}
