// SPDX-License-Identifier: Apache-2.0
// What the interpreter's main switch goes by: the hot forms one by one, everything else by group.

/// Index of the interpreter's main switch.
enum Handler: UInt16 {
    // Block structure.
    case endOfBlock, blockInvalid, invalid
    // Groups.
    case integer, system, vector, x87
    // Control flow.
    case jcc, jmp, call, ret, jmpIndirect, callIndirect, loop
    // Moves. R register, M memory, I immediate; the destination first.
    case move32RR, move64RR, moveRI, move64RI
    case load8, load32, load64, store8, store32, store64
    case store8I, store32I, store64I
    case lea32, lea64
    case zero8R, zero8M, zero16M, signed32R, signed32M
    case push64, pop64
    // Arithmetic and logic, 32 and 64 bits.
    case add32RR, add64RR, add32RI, add64RI
    case sub32RR, sub64RR, sub32RI, sub64RI
    case and32RR, and64RR, and32RI, and64RI
    case or32RR, or64RR, xor32RR, xor64RR
    case cmp32RR, cmp64RR, cmp32RI, cmp64RI, cmp8RI
    case cmp32RM, cmp64RM, cmp8MI, cmp32MI, cmp64MI
    case test32RR, test64RR, test8RR, test8RI, test8MI
    case add32RM, add64RM
    case inc32, inc64, dec32, dec64
    case shl32I, shl64I, shr32I, shr64I
    case nop

    /// The handler for an instruction whose operands are decoded.
    static func select(_ form: InstructionForm, _ instruction: DecodedInstruction) -> Handler {
        if form.traits.contains(.system) { return .system }
        switch form.operation {
        case .jcc: return .jcc
        case .jmp: return .jmp
        case .call: return .call
        case .ret, .retImmediate: return .ret
        case .jmpIndirect: return .jmpIndirect
        case .callIndirect: return .callIndirect
        case .loop, .loope, .loopne, .jcxz: return .loop
        case .nop where form.form == .none || form.form == .rm: return .nop
        default: return hot(form, instruction) ?? .integer
        }
    }

    /// The handler of a form that is common enough for one of its own.
    private static func hot(_ form: InstructionForm, _ instruction: DecodedInstruction) -> Handler? {
        guard (instruction.reg | instruction.rm) & RegisterIndex.highByte == 0 else { return nil }
        let memory = instruction.isMemory
        let shape = Form(rawValue: instruction.shape) ?? .none
        switch (form.operation, shape, memory) {
        case (.mov, _, _): return move(shape, instruction.operandSize, memory)
        case (.lea, _, _): return sized(instruction.operandSize, .lea32, .lea64)
        case (.movzx8, _, false): return sized(instruction.operandSize, .zero8R, .zero8R)
        case (.movzx8, _, true): return sized(instruction.operandSize, .zero8M, .zero8M)
        case (.movzx16, _, true): return sized(instruction.operandSize, .zero16M, .zero16M)
        case (.movsxd, _, let memory): return instruction.operandSize == 8 ? (memory ? .signed32M : .signed32R) : nil
        case (.push, .opcodeRegister, false): return instruction.operandSize == 8 ? .push64 : nil
        case (.pop, .opcodeRegister, false): return instruction.operandSize == 8 ? .pop64 : nil
        case (.inc, _, false): return sized(instruction.operandSize, .inc32, .inc64)
        case (.dec, _, false): return sized(instruction.operandSize, .dec32, .dec64)
        case (.shl, .rmImmediate, false): return sized(instruction.operandSize, .shl32I, .shl64I)
        case (.shr, .rmImmediate, false): return sized(instruction.operandSize, .shr32I, .shr64I)
        default: return arithmetic(form.operation, shape, instruction.operandSize, memory)
        }
    }

    private static func sized(_ size: UInt8, _ four: Handler, _ eight: Handler) -> Handler? {
        size == 4 ? four : size == 8 ? eight : nil
    }

    private static func move(_ shape: Form, _ size: UInt8, _ memory: Bool) -> Handler? {
        switch (shape, memory, size) {
        case (.rmReg, false, 4), (.regRM, false, 4): shape == .rmReg ? .move32RR : nil
        case (.rmReg, false, 8): .move64RR
        case (.rmImmediate, false, 4): .moveRI
        case (.rmImmediate, false, 8): .move64RI
        case (.regRM, true, 1): .load8
        case (.regRM, true, 4): .load32
        case (.regRM, true, 8): .load64
        case (.rmReg, true, 1): .store8
        case (.rmReg, true, 4): .store32
        case (.rmReg, true, 8): .store64
        case (.rmImmediate, true, 1): .store8I
        case (.rmImmediate, true, 4): .store32I
        case (.rmImmediate, true, 8): .store64I
        default: nil
        }
    }

    private static func arithmetic(_ operation: Operation, _ shape: Form, _ size: UInt8, _ memory: Bool) -> Handler? {
        switch (operation, shape, memory) {
        case (.add, .rmReg, false): sized(size, .add32RR, .add64RR)
        case (.add, .rmImmediate, false): sized(size, .add32RI, .add64RI)
        case (.add, .regRM, true): sized(size, .add32RM, .add64RM)
        case (.sub, .rmReg, false): sized(size, .sub32RR, .sub64RR)
        case (.sub, .rmImmediate, false): sized(size, .sub32RI, .sub64RI)
        case (.and, .rmReg, false): sized(size, .and32RR, .and64RR)
        case (.and, .rmImmediate, false): sized(size, .and32RI, .and64RI)
        case (.or, .rmReg, false): sized(size, .or32RR, .or64RR)
        case (.xor, .rmReg, false): sized(size, .xor32RR, .xor64RR)
        case (.cmp, .rmReg, false): sized(size, .cmp32RR, .cmp64RR)
        case (.cmp, .rmImmediate, false): size == 1 ? .cmp8RI : sized(size, .cmp32RI, .cmp64RI)
        case (.cmp, .regRM, true): sized(size, .cmp32RM, .cmp64RM)
        case (.cmp, .rmImmediate, true): size == 1 ? .cmp8MI : sized(size, .cmp32MI, .cmp64MI)
        case (.test, .rmReg, false): size == 1 ? .test8RR : sized(size, .test32RR, .test64RR)
        case (.test, .rmImmediate, false): size == 1 ? .test8RI : nil
        case (.test, .rmImmediate, true): size == 1 ? .test8MI : nil
        default: nil
        }
    }
}
