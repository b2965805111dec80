// SPDX-License-Identifier: Apache-2.0
// The columns of the instruction table. Intel SDM volume 2, appendix A.

/// Where an opcode byte is looked up.
package enum OpcodeMap: UInt8 {
    case primary = 0
    /// After 0F.
    case map0F = 1
    /// After 0F 38.
    case map0F38 = 2
    /// After 0F 3A.
    case map0F3A = 3
}

/// Which registers, memory and immediates are operands, and in which role.
package enum Form: UInt8 {
    case none
    /// r/m is the destination, reg the source.
    case rmReg
    /// reg is the destination, r/m the source.
    case regRM
    /// r/m is the destination, the immediate the source.
    case rmImmediate
    /// r/m alone.
    case rm
    /// The register in the opcode's low three bits, as r/m.
    case opcodeRegister
    case opcodeRegisterImmediate
    /// AL, AX, EAX or RAX as r/m, and an immediate.
    case accumulatorImmediate
    /// The accumulator, and memory at an absolute address.
    case accumulatorMemory
    case memoryAccumulator
    /// The accumulator with the opcode's register.
    case accumulatorRegister
    case immediate
    /// A jump target relative to the next instruction.
    case relative
    /// Selector and offset in the instruction.
    case farPointer
    /// r/m shifted by 1 or by CL.
    case rmOne, rmCL
    /// reg is the destination, r/m and the immediate are sources.
    case regRMImmediate
    /// r/m is the destination, reg and the immediate (or CL) are sources.
    case rmRegImmediate, rmRegCL
}

/// How the operand size follows from prefixes and mode.
package enum SizeRule: UInt8 {
    case byte
    /// 16, 32 or 64 bits by prefix and REX.W.
    case word
    /// 64 bits in 64-bit mode unless a 16-bit prefix is there; REX.W is not needed.
    case stack
    /// 64 bits in 64-bit mode, whatever the prefixes.
    case near
    /// 32 bits, or 64 with REX.W.
    case doubleWord
    /// 32 bits outside 64-bit mode, 64 in it.
    case register
    case fixed16
}

/// Bytes of immediate.
package enum ImmediateRule: UInt8 {
    case none
    case byte
    /// One byte, sign-extended to the operand size.
    case signedByte
    /// 2 or 4 bytes, sign-extended.
    case word
    /// 2, 4 or 8 bytes.
    case full
    case fixed16
    /// 2 bytes, then 1: ENTER.
    case enter
}

/// Where a row is valid and what its prefixes may be.
package struct FormTraits: OptionSet {
    package let rawValue: UInt16
    package init(rawValue: UInt16) { self.rawValue = rawValue }

    /// #UD in 64-bit mode.
    package static let not64 = FormTraits(rawValue: 1 << 0)
    /// #UD outside 64-bit mode.
    package static let only64 = FormTraits(rawValue: 1 << 1)
    /// LOCK is allowed when r/m is memory.
    package static let lockable = FormTraits(rawValue: 1 << 2)
    package static let memoryOnly = FormTraits(rawValue: 1 << 3)
    package static let registerOnly = FormTraits(rawValue: 1 << 4)
    /// Ends a block: control flow, or anything that changes how the next instruction is run.
    package static let endsBlock = FormTraits(rawValue: 1 << 5)
    /// The handler sets RIP: it sees the address of the next instruction there.
    package static let system = FormTraits(rawValue: 1 << 6)
    /// CPL 0 only.
    package static let privileged = FormTraits(rawValue: 1 << 7)
    /// Only with a prefix: F3, F2 or 66.
    package static let prefixF3 = FormTraits(rawValue: 1 << 8)
    package static let prefixF2 = FormTraits(rawValue: 1 << 9)
    package static let prefix66 = FormTraits(rawValue: 1 << 10)
    /// Only without a mandatory prefix.
    package static let noPrefix = FormTraits(rawValue: 1 << 11)
    /// Register operands are named by ModRM.mod as well: only the register form exists whatever mod says.
    package static let ignoresMode = FormTraits(rawValue: 1 << 12)
}

/// One row of the table.
package struct InstructionForm {
    package var map: OpcodeMap
    package var opcode: UInt8
    /// ModRM.reg that selects this row, or -1 when it is an operand or there is no ModRM.
    package var group: Int8 = -1
    /// ModRM.rm that selects this row among register forms, or -1.
    package var selector: Int8 = -1
    package var operation: Operation
    package var form: Form = .none
    package var size: SizeRule = .word
    package var immediate: ImmediateRule = .none
    package var hasModRM = false
    package var traits: FormTraits = []
    /// Status flags that the instruction leaves undefined: the differential tests ignore them.
    package var undefinedFlags: Flags = []
}
