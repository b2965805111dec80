// SPDX-License-Identifier: Apache-2.0
// What instructions do with the status flags, so that translated code saves them only where somebody can see them.

/// An instruction's use of the status flags.
struct FlagUse {
    /// Flags that it depends on.
    var reads: Flags = []
    /// Flags that it always gives a new value.
    var replaces: Flags = []
    /// Whether the host's instruction changes any flag.
    var changes = false

    static let none = FlagUse()
    /// Replaces all of them.
    static let all = FlagUse(replaces: .status, changes: true)

    private static func replacing(_ flags: Flags, reads: Flags = []) -> FlagUse {
        FlagUse(reads: reads, replaces: flags, changes: true)
    }

    /// Flags that condition 0 to 15 of Jcc, SETcc and CMOVcc depends on.
    static func condition(_ code: UInt8) -> Flags {
        switch code >> 1 & 7 {
        case 0: .overflow
        case 1: .carry
        case 2: .zero
        case 3: [.carry, .zero]
        case 4: .sign
        case 5: .parity
        case 6: [.sign, .overflow]
        default: [.sign, .overflow, .zero]
        }
    }

    /// An instruction of the integer group that is translated.
    static func integer(_ operation: Operation, _ i: DecodedInstruction) -> FlagUse {
        switch operation {
        case .add, .or, .and, .sub, .xor, .cmp, .test, .neg, .mul, .imul, .imul2, .imul3, .div, .idiv, .xadd, .cmpxchg,
            .bsf, .bsr, .popcnt:
            .all
        case .adc, .sbb: replacing(.status, reads: .carry)
        case .inc, .dec: replacing(Flags.status.subtracting(.carry))
        case .shl, .shr, .sal, .sar, .shld, .shrd: isNoShift(i) ? .none : replacing(hasVariableCount(i) ? [] : .status)
        case .rol, .ror: isNoShift(i) ? .none : replacing(hasVariableCount(i) ? [] : [.carry, .overflow])
        case .rcl, .rcr:
            isNoShift(i) ? .none : replacing(hasVariableCount(i) ? [] : [.carry, .overflow], reads: .carry)
        case .bt, .bts, .btr, .btc, .stc, .clc: replacing(.carry)
        case .cmc: replacing(.carry, reads: .carry)
        case .cmpxchg8b: replacing(.zero)
        case .lahf: FlagUse(reads: Flags.status.subtracting(.overflow))
        case .sahf: replacing(Flags.status.subtracting(.overflow))
        case .cmov: FlagUse(reads: condition(UInt8(truncatingIfNeeded: i.immediate)))
        case .setcc: FlagUse(reads: condition(i.reg))
        default: .none
        }
    }

    /// A string instruction. Repeated, it may do nothing.
    static func string(_ i: DecodedInstruction) -> FlagUse {
        switch Operation(rawValue: i.operation) {
        case .scas, .cmps: i.traits.isDisjoint(with: [.rep, .repne]) ? .all : replacing([])
        default: .none
        }
    }

    private static func hasVariableCount(_ i: DecodedInstruction) -> Bool {
        i.shape == Form.rmCL.rawValue || i.shape == Form.rmRegCL.rawValue
    }

    /// A shift by a constant that is 0 once it is reduced.
    private static func isNoShift(_ i: DecodedInstruction) -> Bool {
        if hasVariableCount(i) || i.shape == Form.rmOne.rawValue { return false }
        return i.immediate & (i.operandSize == 8 ? 63 : 31) == 0
    }

    /// A vector instruction.
    static func vector(_ operation: VectorOperation) -> FlagUse {
        switch operation {
        case .comiss, .comisd, .ucomiss, .ucomisd, .ptest, .pcmpestrm, .pcmpestri, .pcmpistrm, .pcmpistri: .all
        default: .none
        }
    }
}
