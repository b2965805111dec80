// SPDX-License-Identifier: Apache-2.0
// Which handler runs a decoded instruction: one of its own for the forms that programs are made of.

extension Handler {
    /// The handler for an instruction whose operands are decoded. Moves operands of equivalent forms to one place.
    static func select(_ form: InstructionForm, _ instruction: inout DecodedInstruction) -> Handler {
        if form.traits.contains(.system) { return .system }
        switch form.operation {
        case .jcc: return conditionalJump(instruction.reg)
        case .jmp: return .jmp
        case .call: return .call
        case .ret, .retImmediate: return .ret
        case .jmpIndirect: return .jmpIndirect
        case .callIndirect: return .callIndirect
        case .loop, .loope, .loopne, .jcxz: return .loop
        case .nop where form.form == .none || form.form == .rm: return .nop
        default: return hot(form.operation, &instruction) ?? .integer
        }
    }

    /// The handler of a form that is common enough for one of its own.
    private static func hot(_ operation: Operation, _ instruction: inout DecodedInstruction) -> Handler? {
        guard (instruction.reg | instruction.rm) & RegisterIndex.highByte == 0 || operation == .setcc,
            !instruction.traits.contains(.legacyAddress), instruction.base != RegisterIndex.absolute
        else { return nil }
        let size = instruction.operandSize
        let isMemory = instruction.isMemory
        if !isMemory, instruction.shape == Form.regRM.rawValue, isSymmetric(operation) {
            swap(&instruction.reg, &instruction.rm)
            instruction.shape = Form.rmReg.rawValue
        }
        let shape = Form(rawValue: instruction.shape) ?? .none
        switch (operation, shape, isMemory) {
        case (.mov, _, _): return move(shape, size, isMemory)
        case (.lea, _, _): return sized(size, .lea32, .lea64)
        case (.movzx8, _, false): return sized(size, .zero8R, .zero8R)
        case (.movzx8, _, true): return sized(size, .zero8M, .zero8M)
        case (.movzx16, _, false): return sized(size, .zero16R, .zero16R)
        case (.movzx16, _, true): return sized(size, .zero16M, .zero16M)
        case (.movsx8, _, false): return sized(size, .sign8R32, .sign8R64)
        case (.movsxd, _, _): return size == 8 ? (isMemory ? .sign32M : .sign32R) : nil
        case (.push, .opcodeRegister, false): return size == 8 ? .push64 : nil
        case (.pop, .opcodeRegister, false): return size == 8 ? .pop64 : nil
        case (.inc, _, false): return sized(size, .inc32R, .inc64R)
        case (.dec, _, false): return sized(size, .dec32R, .dec64R)
        case (.inc, _, true): return size == 4 ? .inc32M : nil
        case (.dec, _, true): return size == 4 ? .dec32M : nil
        case (.neg, _, false): return sized(size, .neg32R, .neg64R)
        case (.not, _, false): return size == 8 ? .not64R : nil
        case (.imul2, _, false): return sized(size, .imul32RR, .imul64RR)
        case (.imul2, _, true): return size == 8 ? .imul64RM : nil
        case (.imul3, _, false): return sized(size, .imul32RRI, .imul64RRI)
        case (.cmov, _, false): return sized(size, .cmov32RR, .cmov64RR)
        case (.setcc, _, false): return instruction.rm & RegisterIndex.highByte == 0 ? .setR : nil
        case (_, .rmImmediate, false), (_, .rmOne, false):
            return shift(operation, &instruction) ?? immediate(operation, size)
        case (_, .rmImmediate, true): return memoryImmediate(operation, size)
        case (_, .rmReg, false): return registers(operation, size)
        case (_, .regRM, true): return registerMemory(operation, size)
        case (_, .rmReg, true): return memoryRegister(operation, size)
        default: return nil
        }
    }

    /// Whether the operation treats "r/m, reg" and "reg, r/m" alike.
    private static func isSymmetric(_ operation: Operation) -> Bool {
        switch operation {
        case .mov, .add, .or, .adc, .sbb, .and, .sub, .xor, .cmp: true
        default: false
        }
    }

    private static func sized(_ size: UInt8, _ four: Handler, _ eight: Handler) -> Handler? {
        size == 4 ? four : size == 8 ? eight : nil
    }

    private static func sized(_ size: UInt8, _ one: Handler, _ four: Handler, _ eight: Handler) -> Handler? {
        size == 1 ? one : sized(size, four, eight)
    }

    private static func move(_ shape: Form, _ size: UInt8, _ isMemory: Bool) -> Handler? {
        switch (shape, isMemory, size) {
        case (.rmReg, false, _): sized(size, .mov32RR, .mov64RR)
        case (.rmImmediate, false, _): sized(size, .mov32RI, .mov64RI)
        case (.regRM, true, 2): .mov16RM
        case (.regRM, true, _): sized(size, .mov8RM, .mov32RM, .mov64RM)
        case (.rmReg, true, 2): .mov16MR
        case (.rmReg, true, _): sized(size, .mov8MR, .mov32MR, .mov64MR)
        case (.rmImmediate, true, 2): .mov16MI
        case (.rmImmediate, true, _): sized(size, .mov8MI, .mov32MI, .mov64MI)
        default: nil
        }
    }

    /// Shifts and rotates by a constant that is not 0; the constant is reduced to what counts.
    private static func shift(_ operation: Operation, _ instruction: inout DecodedInstruction) -> Handler? {
        let size = instruction.operandSize
        let count =
            instruction.shape == Form.rmOne.rawValue ? 1 : instruction.immediate & (size == 8 ? 63 : 31)
        let handler: Handler? =
            switch operation {
            case .shl, .sal: sized(size, .shl32I, .shl64I)
            case .shr: sized(size, .shr32I, .shr64I)
            case .sar: sized(size, .sar32I, .sar64I)
            case .rol: size == 4 ? .rol32I : nil
            case .ror: size == 4 ? .ror32I : nil
            default: nil
            }
        guard let handler, count != 0 else { return nil }
        instruction.immediate = count
        return handler
    }

    private static func registers(_ operation: Operation, _ size: UInt8) -> Handler? {
        switch operation {
        case .add: sized(size, .add32RR, .add64RR)
        case .sub: sized(size, .sub32RR, .sub64RR)
        case .adc: size == 8 ? .adc64RR : nil
        case .sbb: sized(size, .sbb32RR, .sbb64RR)
        case .and: sized(size, .and32RR, .and64RR)
        case .or: sized(size, .or32RR, .or64RR)
        case .xor: sized(size, .xor32RR, .xor64RR)
        case .cmp: sized(size, .cmp8RR, .cmp32RR, .cmp64RR)
        case .test: sized(size, .test8RR, .test32RR, .test64RR)
        default: nil
        }
    }

    private static func immediate(_ operation: Operation, _ size: UInt8) -> Handler? {
        switch operation {
        case .add: sized(size, .add32RI, .add64RI)
        case .sub: sized(size, .sub32RI, .sub64RI)
        case .adc: size == 8 ? .adc64RI : nil
        case .sbb: size == 8 ? .sbb64RI : nil
        case .and: sized(size, .and32RI, .and64RI)
        case .or: sized(size, .or32RI, .or64RI)
        case .xor: sized(size, .xor32RI, .xor64RI)
        case .cmp: sized(size, .cmp8RI, .cmp32RI, .cmp64RI)
        case .test: size == 1 ? .test8RI : size == 4 ? .test32RI : nil
        default: nil
        }
    }

    private static func registerMemory(_ operation: Operation, _ size: UInt8) -> Handler? {
        switch operation {
        case .add: sized(size, .add32RM, .add64RM)
        case .sub: sized(size, .sub32RM, .sub64RM)
        case .adc: size == 8 ? .adc64RM : nil
        case .and: sized(size, .and32RM, .and64RM)
        case .or: sized(size, .or32RM, .or64RM)
        case .xor: sized(size, .xor32RM, .xor64RM)
        case .cmp: sized(size, .cmp8RM, .cmp32RM, .cmp64RM)
        default: nil
        }
    }

    private static func memoryRegister(_ operation: Operation, _ size: UInt8) -> Handler? {
        switch operation {
        case .add: sized(size, .add32MR, .add64MR)
        case .sub: sized(size, .sub32MR, .sub64MR)
        case .cmp: sized(size, .cmp8MR, .cmp32MR, .cmp64MR)
        default: nil
        }
    }

    private static func memoryImmediate(_ operation: Operation, _ size: UInt8) -> Handler? {
        switch operation {
        case .add: sized(size, .add32MI, .add64MI)
        case .cmp: sized(size, .cmp8MI, .cmp32MI, .cmp64MI)
        case .test: size == 1 ? .test8MI : size == 4 ? .test32MI : nil
        default: nil
        }
    }
}
