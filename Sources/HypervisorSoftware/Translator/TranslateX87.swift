// SPDX-License-Identifier: Apache-2.0
// x87 instructions as themselves, on the guest's x87 unit in the host's. Intel SDM volume 1, chapter 8.

extension BlockTranslator {
    /// Translates an x87 instruction.
    ///
    /// All exceptions are masked while the guest's unit is in the host's, so none of them faults.
    mutating func translateX87(_ i: DecodedInstruction) {
        guard let operation = X87Operation(rawValue: i.operation) else { return }
        loadX87()
        if operation == .wait { return }
        let opcode = 0xd8 | UInt8(truncatingIfNeeded: i.immediate >> 8 & 7)
        let modRM = UInt8(truncatingIfNeeded: i.immediate)
        if i.isMemory {
            if operation == .loadControl { giveUpHostFlags() }
            let memory = access(i, size: Self.x87Size(i), operation.storesToMemory ? .write : .read)
            if operation == .loadControl { return loadControl(memory) }
            code.instruction(wide: false, opcode, reg: modRM >> 3 & 7, rm: .memory(memory))
            if operation.isRecorded {
                makeAddress(i, .first)
                code.store(.first, .context(ContextLayout.x87Data))
            }
        } else {
            keepFlags()
            if operation.readsFlags { restoreFlags() }
            code.byte(opcode)
            code.byte(modRM)
            if operation.usesFlags, !operation.readsFlags {
                flags = FlagState(inHost: true, inContext: false)
            }
        }
        if operation.isRecorded { record(i) }
    }

    /// Bytes of the memory operand.
    static func x87Size(_ i: DecodedInstruction) -> Int32 {
        let opcode = 0xd8 | UInt8(truncatingIfNeeded: i.immediate >> 8 & 7)
        return Int32(X87Form.lookup(opcode: opcode, modRM: UInt8(truncatingIfNeeded: i.immediate))?.memory.size ?? 0)
    }

    /// FLDCW: the interpreter takes a control word that does not mask all exceptions.
    private mutating func loadControl(_ memory: HostMemory) {
        leaveInstead(charging: true)
        let masks = Int32(X87Status.exceptions.rawValue)
        let first = HostRegister.first.rawValue
        code.instruction(wide: false, .map0F, 0xb7, reg: first, rm: .memory(memory))  // MOVZX
        code.instruction(wide: false, 0x89, reg: first, rm: .context(ContextLayout.temporary))
        code.arithmetic(4, wide: false, .number(first), masks)
        code.arithmetic(7, wide: false, .number(first), masks)
        leaveAside(code.jump(if: HostCondition.notEqual), charging: true)
        code.instruction(wide: false, 0xd9, reg: 5, rm: .context(ContextLayout.temporary))
    }

    /// Notes `i` as the last instruction of the unit: in the context once somebody can see it.
    private mutating func record(_ i: DecodedInstruction) {
        if !state.x87PageNoted {
            code.load(.first, .context(ContextLayout.pageBase))
            code.store(.first, .context(ContextLayout.x87Page))
            state.x87PageNoted = true
        }
        state.x87Record = Int32(i.pageOffset) | Int32(truncatingIfNeeded: i.immediate & 0x7ff) << 16
    }

    /// To be called where somebody can see the last instruction of the x87 unit. Changes no flag.
    mutating func storeX87Record() {
        guard let record = state.x87Record else { return }
        code.instruction(wide: false, 0xc7, reg: 0, rm: .context(ContextLayout.x87Recorded))
        code.doubleWord(record)
        state.x87Record = nil
    }

    /// Makes sure, once in a block, that the guest's x87 unit is in the host's.
    mutating func loadX87() {
        guard !x87Loaded else { return }
        x87Loaded = true
        state.x87PageNoted = false
        load(ContextLayout.x87Loaded, allowed: ContextLayout.x87Allowed, routines.loadX87)
    }
}

extension DecodedInstruction {
    /// Whether the interpreter uses the x87 unit to run it.
    var usesX87: Bool {
        switch handler {
        case .x87: true
        case .vector:
            VectorOperation(rawValue: operation) == .emms || VectorOperands(rawValue: shape)?.isMMX ?? true
        default: Operation(rawValue: operation) == .fxsave
        }
    }
}

extension X87Operation {
    var storesToMemory: Bool {
        switch self {
        case .storeReal32, .storePopReal32, .storeReal64, .storePopReal64, .storePopReal80, .storeInteger16,
            .storePopInteger16, .storeInteger32, .storePopInteger32, .storePopInteger64, .storeTruncated16,
            .storeTruncated32, .storeTruncated64, .storePopDecimal, .storeControl, .storeStatus:
            true
        default: false
        }
    }

    /// FCMOVcc.
    fileprivate var readsFlags: Bool {
        rawValue >= Self.moveBelow.rawValue && rawValue <= Self.moveNotUnordered.rawValue
    }
}

extension X87Memory {
    /// Bytes, of those whose size does not depend on the mode.
    fileprivate var size: Int {
        switch self {
        case .none, .environment, .state: 0
        case .integer16, .word: 2
        case .real32, .integer32: 4
        case .real64, .integer64: 8
        case .real80, .decimal: 10
        }
    }
}
