// SPDX-License-Identifier: Apache-2.0
// How each instruction of a block is translated, decided before any code is written.

/// What becomes of an instruction.
enum TranslationPlan: UInt8 {
    /// Host code of its own.
    case integer, vector, x87, string
    /// Nothing: NOP and fences.
    case nothing
    /// The interpreter runs it, called from the translated code, which then goes on.
    case helper
    /// A system instruction with host code of its own, or one after which the interpreter comes back.
    case system, systemHelper
    /// IRET: the interpreter runs it, called from the translated code, which goes on where it leads.
    case interruptReturn
    /// Translated code ends before it, and the interpreter runs it.
    case leave
    /// Jumps, calls and returns.
    case flow

    /// The plan for `i`, of a block of 64-bit code.
    static func of(_ i: DecodedInstruction) -> TranslationPlan {
        switch i.handler {
        case .system: return system(i)
        case .invalid, .endOfBlock, .blockInvalid, .loop: return .leave
        case .x87: return x87(i)
        case .vector: return vector(i)
        case .nop: return .nothing
        case .jmp, .call, .ret, .jmpIndirect, .callIndirect: return isPlainAddress(i) ? .flow : .leave
        default: return i.handler.isConditionalJump ? .flow : integer(i)
        }
    }

    /// Whether the memory operand, if there is one, is one that translated code can make.
    private static func isPlainAddress(_ i: DecodedInstruction) -> Bool {
        guard i.isMemory else { return true }
        return !i.traits.contains(.legacyAddress) && i.base < RegisterIndex.fourGiB && i.index <= RegisterIndex.zero
            && abs(Int(i.displacement)) < Int(Int32.max) - 32
    }

    private static func system(_ i: DecodedInstruction) -> TranslationPlan {
        switch Operation(rawValue: i.operation) {
        case .cli, .sti, .swapgs, .stac, .clac, .syscall: .system
        case .sysret: i.operandSize == 8 ? .system : .leave
        case .iret: .interruptReturn
        case .popf, .rdtsc, .rdtscp, .rdmsr, .wrmsr, .cpuid, .in, .out, .movFromControl, .invlpg: .systemHelper
        default: .leave
        }
    }

    /// Whether the instruction looks at system flags or changes them.
    func isOfSystem(_ i: DecodedInstruction) -> Bool {
        self == .system || self == .systemHelper || self == .interruptReturn
            || self == .integer && Operation(rawValue: i.operation) == .pushf
    }

    private static func integer(_ i: DecodedInstruction) -> TranslationPlan {
        guard let operation = Operation(rawValue: i.operation) else { return .leave }
        guard isPlainAddress(i) else { return .helper }
        // SETcc has its condition in place of a register.
        let registers = operation == .setcc ? i.rm : i.reg | i.rm
        if registers & RegisterIndex.highByte != 0, !canEncodeHighByte(operation, i) { return .helper }
        let size = i.operandSize
        switch operation {
        case .add, .or, .adc, .sbb, .and, .sub, .xor, .cmp, .test, .rol, .ror, .rcl, .rcr, .shl, .shr, .sal, .sar,
            .not, .neg, .mul, .imul, .imul2, .imul3, .inc, .dec, .mov, .xchg, .cmov, .setcc, .cbw, .cwd, .xadd,
            .cmpxchg, .cmpxchg8b, .movzx8, .movzx16, .movsx8, .movsx16, .movsxd, .stc, .clc, .cmc, .lahf, .sahf:
            return .integer
        case .lea, .div, .idiv, .bswap, .bsf, .bsr: return size >= 4 ? .integer : .helper
        case .popcnt: return size >= 4 ? .integer : .helper
        case .crc32: return size != 2 ? .integer : .helper
        case .shld, .shrd: return .integer
        case .bt, .bts, .btr, .btc: return .integer
        case .cld, .std: return .integer
        case .movFromSegment: return !i.isMemory && i.reg & 7 <= SegmentIndex.gs ? .integer : .helper
        case .push: return size == 8 ? .integer : .helper
        case .pop: return size == 8 && !i.isMemory ? .integer : .helper
        case .pushf: return size == 8 ? .integer : .helper
        case .leave: return size == 8 ? .integer : .helper
        case .nop, .pause: return .nothing
        case .fence: return i.isMemory ? .helper : .nothing
        case .movs, .cmps, .stos, .lods, .scas: return isPlainString(i) ? .string : .helper
        // They change what vector instructions may do.
        case .fxrstor, .ldmxcsr: return .leave
        default: return .helper
        }
    }

    /// Whether a string instruction has 64-bit addresses and no segment base. Repeated LODS is of no use to anybody.
    private static func isPlainString(_ i: DecodedInstruction) -> Bool {
        i.traits.isDisjoint(with: [.legacyAddress, .address16, .address32]) && i.segment != SegmentIndex.fs
            && i.segment != SegmentIndex.gs
            && (Operation(rawValue: i.operation) != .lods || i.traits.isDisjoint(with: [.rep, .repne]))
    }

    /// AH to BH exist only in instructions without a REX prefix, which the host's other registers ask for.
    private static func canEncodeHighByte(_ operation: Operation, _ i: DecodedInstruction) -> Bool {
        if i.isMemory { return false }
        switch operation {
        case .movzx8, .movsx8, .setcc: return true
        case .crc32, .cmpxchg, .xadd: return false
        default: break
        }
        guard i.operandSize == 1 else { return false }
        switch Form(rawValue: i.shape) {
        case .rmReg, .regRM: return isHighOrLow(i.reg) && isHighOrLow(i.rm)
        case .rmImmediate, .rm, .rmOne, .rmCL: return true
        default: return false
        }
    }

    /// A byte of RAX, RCX, RDX or RBX.
    private static func isHighOrLow(_ register: UInt8) -> Bool { register & ~RegisterIndex.highByte < 4 }

    private static func vector(_ i: DecodedInstruction) -> TranslationPlan {
        guard let operation = VectorOperation(rawValue: i.operation), let shape = VectorOperands(rawValue: i.shape)
        else { return .leave }
        switch operation {
        case .ldmxcsr: return .leave
        case .maskmovdqu, .maskmovq, .stmxcsr: return .helper
        default: return isPlainAddress(i) && VectorEncoding.of(operation, shape) != nil ? .vector : .helper
        }
    }

    private static func x87(_ i: DecodedInstruction) -> TranslationPlan {
        switch X87Operation(rawValue: i.operation) {
        // They may unmask exceptions.
        case .loadEnvironment, .restore, nil: return .leave
        case .loadControl: return isPlainAddress(i) ? .x87 : .leave
        case .initialize, .ignored, .storeEnvironment, .save: return .helper
        default: return isPlainAddress(i) ? .x87 : .helper
        }
    }

    /// Whether it can end translated code with an exception, or calls the interpreter: all flags are seen there.
    func canStop(_ i: DecodedInstruction) -> Bool {
        switch self {
        case .nothing: return false
        case .helper, .system, .systemHelper, .interruptReturn, .leave, .flow, .vector, .x87, .string: return true
        case .integer:
            switch Operation(rawValue: i.operation) {
            case .push, .pop, .pushf, .leave, .div, .idiv: return true
            case .lea: return false
            default: return i.isMemory
            }
        }
    }

    /// The flags that it uses, beside those that are seen where it stops.
    func flagUse(_ i: DecodedInstruction) -> FlagUse {
        switch self {
        case .integer: Operation(rawValue: i.operation).map { FlagUse.integer($0, i) } ?? .none
        case .vector: VectorOperation(rawValue: i.operation).map { FlagUse.vector($0) } ?? .none
        case .string: .string(i)
        // All flags are seen there anyway.
        case .nothing, .helper, .system, .systemHelper, .interruptReturn, .leave, .flow, .x87: .none
        }
    }
}

/// How the host encodes a vector instruction: the row of the table that has its operation and operands.
struct VectorEncoding {
    let form: VectorForm
    let layout: VectorOperands.Layout

    private static let first: [UInt16] = {
        var first = [UInt16](repeating: 0, count: VectorOperation.allCases.count)
        for (index, form) in VectorTable.shared.forms.enumerated().reversed() {
            first[Int(form.operation.rawValue)] = UInt16(index + 1)
        }
        return first
    }()

    static func of(_ operation: VectorOperation, _ shape: VectorOperands) -> VectorEncoding? {
        let forms = VectorTable.shared.forms
        var index = Int(first[Int(operation.rawValue)])
        guard index > 0 else { return nil }
        while index <= forms.count {
            let form = forms[index - 1]
            if form.operation == operation, form.operands == shape || form.operands.widened == shape {
                return VectorEncoding(form: form, layout: shape.layout)
            }
            index += 1
        }
        return nil
    }

    var prefix: UInt8 {
        switch form.prefix {
        case .none: 0
        case .x66: 0x66
        case .xF3: 0xf3
        case .xF2: 0xf2
        }
    }
}
