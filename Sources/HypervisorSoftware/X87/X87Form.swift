// SPDX-License-Identifier: Apache-2.0
// The x87 part of the instruction table: opcodes D8 to DF. Intel SDM volume 2, appendix A.5; AMD APM volume 3, A.1.

/// One row: an encoding and what it does.
package struct X87Form: Sendable {
    /// D8 to DF.
    package let opcode: UInt8
    /// ModRM.reg.
    package let reg: UInt8
    /// ModRM.rm of a register form; nil when it names ST(i).
    package let rm: UInt8?
    package let isMemory: Bool
    package let operation: X87Operation
    package let memory: X87Memory
    package let mnemonic: StaticString

    /// A memory form.
    private init(
        _ opcode: UInt8, memory reg: UInt8, _ mnemonic: StaticString, _ operation: X87Operation, _ memory: X87Memory
    ) {
        self.opcode = opcode
        self.reg = reg
        rm = nil
        isMemory = true
        self.operation = operation
        self.memory = memory
        self.mnemonic = mnemonic
    }

    /// A register form: all of `reg`, or the one ModRM with `rm`.
    private init(
        _ opcode: UInt8, _ reg: UInt8, rm: UInt8? = nil, _ mnemonic: StaticString, _ operation: X87Operation
    ) {
        self.opcode = opcode
        self.reg = reg
        self.rm = rm
        isMemory = false
        self.operation = operation
        memory = .none
        self.mnemonic = mnemonic
    }

    /// Entries of the flat lookup: for each opcode eight memory forms, then 64 register forms.
    package static let slotsPerOpcode = 72

    /// The row's slots in the flat lookup.
    package var slots: Range<Int> {
        let base = Int(opcode & 7) * Self.slotsPerOpcode
        if isMemory { return base + Int(reg)..<base + Int(reg) + 1 }
        let first = base + 8 + Int(reg) * 8
        guard let rm else { return first..<first + 8 }
        return first + Int(rm)..<first + Int(rm) + 1
    }

    /// The slot of an opcode and its ModRM byte.
    package static func slot(opcode: UInt8, modRM: UInt8) -> Int {
        let base = Int(opcode & 7) * slotsPerOpcode
        return modRM >= 0xc0 ? base + 8 + Int(modRM & 63) : base + Int(modRM >> 3 & 7)
    }

    private static let rowOfSlot: InlineArray<576, UInt8> = {
        var table = InlineArray<576, UInt8>(repeating: .max)
        for (number, row) in rows.enumerated() {
            for slot in row.slots { table[slot] = UInt8(number) }
        }
        return table
    }()

    /// The row that an encoding falls under; nil is an invalid opcode.
    package static func lookup(opcode: UInt8, modRM: UInt8) -> X87Form? {
        let number = rowOfSlot[slot(opcode: opcode, modRM: modRM)]
        return number == .max ? nil : rows[Int(number)]
    }

    package static let rows: [X87Form] = [
        X87Form(0xd8, memory: 0, "fadd", .addReal32, .real32),
        X87Form(0xd8, memory: 1, "fmul", .multiplyReal32, .real32),
        X87Form(0xd8, memory: 2, "fcom", .compareReal32, .real32),
        X87Form(0xd8, memory: 3, "fcomp", .comparePopReal32, .real32),
        X87Form(0xd8, memory: 4, "fsub", .subtractReal32, .real32),
        X87Form(0xd8, memory: 5, "fsubr", .subtractReverseReal32, .real32),
        X87Form(0xd8, memory: 6, "fdiv", .divideReal32, .real32),
        X87Form(0xd8, memory: 7, "fdivr", .divideReverseReal32, .real32),
        X87Form(0xd8, 0, "fadd", .add),
        X87Form(0xd8, 1, "fmul", .multiply),
        X87Form(0xd8, 2, "fcom", .compare),
        X87Form(0xd8, 3, "fcomp", .comparePop),
        X87Form(0xd8, 4, "fsub", .subtract),
        X87Form(0xd8, 5, "fsubr", .subtractReverse),
        X87Form(0xd8, 6, "fdiv", .divide),
        X87Form(0xd8, 7, "fdivr", .divideReverse),

        X87Form(0xd9, memory: 0, "fld", .loadReal32, .real32),
        X87Form(0xd9, memory: 2, "fst", .storeReal32, .real32),
        X87Form(0xd9, memory: 3, "fstp", .storePopReal32, .real32),
        X87Form(0xd9, memory: 4, "fldenv", .loadEnvironment, .environment),
        X87Form(0xd9, memory: 5, "fldcw", .loadControl, .word),
        X87Form(0xd9, memory: 6, "fnstenv", .storeEnvironment, .environment),
        X87Form(0xd9, memory: 7, "fnstcw", .storeControl, .word),
        X87Form(0xd9, 0, "fld", .load),
        X87Form(0xd9, 1, "fxch", .exchange),
        X87Form(0xd9, 2, rm: 0, "fnop", .noOperation),
        X87Form(0xd9, 3, "fstp", .storePop),
        X87Form(0xd9, 4, rm: 0, "fchs", .changeSign),
        X87Form(0xd9, 4, rm: 1, "fabs", .absolute),
        X87Form(0xd9, 4, rm: 4, "ftst", .test),
        X87Form(0xd9, 4, rm: 5, "fxam", .examine),
        X87Form(0xd9, 5, rm: 0, "fld1", .loadOne),
        X87Form(0xd9, 5, rm: 1, "fldl2t", .loadLog2Ten),
        X87Form(0xd9, 5, rm: 2, "fldl2e", .loadLog2E),
        X87Form(0xd9, 5, rm: 3, "fldpi", .loadPi),
        X87Form(0xd9, 5, rm: 4, "fldlg2", .loadLog10Two),
        X87Form(0xd9, 5, rm: 5, "fldln2", .loadLnTwo),
        X87Form(0xd9, 5, rm: 6, "fldz", .loadZero),
        X87Form(0xd9, 6, rm: 0, "f2xm1", .exponential),
        X87Form(0xd9, 6, rm: 1, "fyl2x", .logarithm),
        X87Form(0xd9, 6, rm: 2, "fptan", .tangent),
        X87Form(0xd9, 6, rm: 3, "fpatan", .arctangent),
        X87Form(0xd9, 6, rm: 4, "fxtract", .extract),
        X87Form(0xd9, 6, rm: 5, "fprem1", .remainderNearest),
        X87Form(0xd9, 6, rm: 6, "fdecstp", .decrementTop),
        X87Form(0xd9, 6, rm: 7, "fincstp", .incrementTop),
        X87Form(0xd9, 7, rm: 0, "fprem", .remainder),
        X87Form(0xd9, 7, rm: 1, "fyl2xp1", .logarithmPlusOne),
        X87Form(0xd9, 7, rm: 2, "fsqrt", .squareRoot),
        X87Form(0xd9, 7, rm: 3, "fsincos", .sineCosine),
        X87Form(0xd9, 7, rm: 4, "frndint", .round),
        X87Form(0xd9, 7, rm: 5, "fscale", .scale),
        X87Form(0xd9, 7, rm: 6, "fsin", .sine),
        X87Form(0xd9, 7, rm: 7, "fcos", .cosine),

        X87Form(0xda, memory: 0, "fiadd", .addInteger32, .integer32),
        X87Form(0xda, memory: 1, "fimul", .multiplyInteger32, .integer32),
        X87Form(0xda, memory: 2, "ficom", .compareInteger32, .integer32),
        X87Form(0xda, memory: 3, "ficomp", .comparePopInteger32, .integer32),
        X87Form(0xda, memory: 4, "fisub", .subtractInteger32, .integer32),
        X87Form(0xda, memory: 5, "fisubr", .subtractReverseInteger32, .integer32),
        X87Form(0xda, memory: 6, "fidiv", .divideInteger32, .integer32),
        X87Form(0xda, memory: 7, "fidivr", .divideReverseInteger32, .integer32),
        X87Form(0xda, 0, "fcmovb", .moveBelow),
        X87Form(0xda, 1, "fcmove", .moveEqual),
        X87Form(0xda, 2, "fcmovbe", .moveBelowEqual),
        X87Form(0xda, 3, "fcmovu", .moveUnordered),
        X87Form(0xda, 5, rm: 1, "fucompp", .compareUnorderedPopPop),

        X87Form(0xdb, memory: 0, "fild", .loadInteger32, .integer32),
        X87Form(0xdb, memory: 1, "fisttp", .storeTruncated32, .integer32),
        X87Form(0xdb, memory: 2, "fist", .storeInteger32, .integer32),
        X87Form(0xdb, memory: 3, "fistp", .storePopInteger32, .integer32),
        X87Form(0xdb, memory: 5, "fld", .loadReal80, .real80),
        X87Form(0xdb, memory: 7, "fstp", .storePopReal80, .real80),
        X87Form(0xdb, 0, "fcmovnb", .moveNotBelow),
        X87Form(0xdb, 1, "fcmovne", .moveNotEqual),
        X87Form(0xdb, 2, "fcmovnbe", .moveNotBelowEqual),
        X87Form(0xdb, 3, "fcmovnu", .moveNotUnordered),
        X87Form(0xdb, 4, rm: 0, "fneni", .ignored),
        X87Form(0xdb, 4, rm: 1, "fndisi", .ignored),
        X87Form(0xdb, 4, rm: 2, "fnclex", .clearExceptions),
        X87Form(0xdb, 4, rm: 3, "fninit", .initialize),
        X87Form(0xdb, 4, rm: 4, "fnsetpm", .ignored),
        X87Form(0xdb, 5, "fucomi", .compareUnorderedFlags),
        X87Form(0xdb, 6, "fcomi", .compareFlags),

        X87Form(0xdc, memory: 0, "fadd", .addReal64, .real64),
        X87Form(0xdc, memory: 1, "fmul", .multiplyReal64, .real64),
        X87Form(0xdc, memory: 2, "fcom", .compareReal64, .real64),
        X87Form(0xdc, memory: 3, "fcomp", .comparePopReal64, .real64),
        X87Form(0xdc, memory: 4, "fsub", .subtractReal64, .real64),
        X87Form(0xdc, memory: 5, "fsubr", .subtractReverseReal64, .real64),
        X87Form(0xdc, memory: 6, "fdiv", .divideReal64, .real64),
        X87Form(0xdc, memory: 7, "fdivr", .divideReverseReal64, .real64),
        X87Form(0xdc, 0, "fadd", .addTo),
        X87Form(0xdc, 1, "fmul", .multiplyTo),
        X87Form(0xdc, 2, "fcom", .compare),
        X87Form(0xdc, 3, "fcomp", .comparePop),
        X87Form(0xdc, 4, "fsubr", .subtractReverseFrom),
        X87Form(0xdc, 5, "fsub", .subtractFrom),
        X87Form(0xdc, 6, "fdivr", .divideReverseInto),
        X87Form(0xdc, 7, "fdiv", .divideInto),

        X87Form(0xdd, memory: 0, "fld", .loadReal64, .real64),
        X87Form(0xdd, memory: 1, "fisttp", .storeTruncated64, .integer64),
        X87Form(0xdd, memory: 2, "fst", .storeReal64, .real64),
        X87Form(0xdd, memory: 3, "fstp", .storePopReal64, .real64),
        X87Form(0xdd, memory: 4, "frstor", .restore, .state),
        X87Form(0xdd, memory: 6, "fnsave", .save, .state),
        X87Form(0xdd, memory: 7, "fnstsw", .storeStatus, .word),
        X87Form(0xdd, 0, "ffree", .free),
        X87Form(0xdd, 1, "fxch", .exchange),
        X87Form(0xdd, 2, "fst", .store),
        X87Form(0xdd, 3, "fstp", .storePop),
        X87Form(0xdd, 4, "fucom", .compareUnordered),
        X87Form(0xdd, 5, "fucomp", .compareUnorderedPop),

        X87Form(0xde, memory: 0, "fiadd", .addInteger16, .integer16),
        X87Form(0xde, memory: 1, "fimul", .multiplyInteger16, .integer16),
        X87Form(0xde, memory: 2, "ficom", .compareInteger16, .integer16),
        X87Form(0xde, memory: 3, "ficomp", .comparePopInteger16, .integer16),
        X87Form(0xde, memory: 4, "fisub", .subtractInteger16, .integer16),
        X87Form(0xde, memory: 5, "fisubr", .subtractReverseInteger16, .integer16),
        X87Form(0xde, memory: 6, "fidiv", .divideInteger16, .integer16),
        X87Form(0xde, memory: 7, "fidivr", .divideReverseInteger16, .integer16),
        X87Form(0xde, 0, "faddp", .addToPop),
        X87Form(0xde, 1, "fmulp", .multiplyToPop),
        X87Form(0xde, 2, "fcomp", .comparePop),
        X87Form(0xde, 3, rm: 1, "fcompp", .comparePopPop),
        X87Form(0xde, 4, "fsubrp", .subtractReverseFromPop),
        X87Form(0xde, 5, "fsubp", .subtractFromPop),
        X87Form(0xde, 6, "fdivrp", .divideReverseIntoPop),
        X87Form(0xde, 7, "fdivp", .divideIntoPop),

        X87Form(0xdf, memory: 0, "fild", .loadInteger16, .integer16),
        X87Form(0xdf, memory: 1, "fisttp", .storeTruncated16, .integer16),
        X87Form(0xdf, memory: 2, "fist", .storeInteger16, .integer16),
        X87Form(0xdf, memory: 3, "fistp", .storePopInteger16, .integer16),
        X87Form(0xdf, memory: 4, "fbld", .loadDecimal, .decimal),
        X87Form(0xdf, memory: 5, "fild", .loadInteger64, .integer64),
        X87Form(0xdf, memory: 6, "fbstp", .storePopDecimal, .decimal),
        X87Form(0xdf, memory: 7, "fistp", .storePopInteger64, .integer64),
        X87Form(0xdf, 0, "ffreep", .freePop),
        X87Form(0xdf, 1, "fxch", .exchange),
        X87Form(0xdf, 2, "fstp", .storePop),
        X87Form(0xdf, 3, "fstp", .storePop),
        X87Form(0xdf, 4, rm: 0, "fnstsw", .storeStatusAX),
        X87Form(0xdf, 5, "fucomip", .compareUnorderedFlagsPop),
        X87Form(0xdf, 6, "fcomip", .compareFlagsPop),
    ]
}
