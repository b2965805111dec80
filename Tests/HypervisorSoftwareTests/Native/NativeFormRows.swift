// SPDX-License-Identifier: Apache-2.0
// Encodings to test from the integer and vector rows of the instruction table: what user code can run on any host.

@testable import HypervisorSoftware

extension NativeForm {
    /// Operations that are not compared, and why.
    static let exceptions: [Operation: String] = [
        .syscall: "calls the host's kernel",
        .vmcall: "calls the host's hypervisor",
        .cpuid: "describes the host",
        .rdtsc: "reads the host's clock", .rdtscp: "reads the host's clock",
        .int1: "hypervisors report it at the wrong address",
        .rdpmc: "depends on what the host's kernel permits",
        .sysenter: "an invalid opcode on some processors", .sysexit: "an invalid opcode on some processors",
        .sgdt: "the host's kernel may emulate it", .sidt: "the host's kernel may emulate it",
        .sldt: "the host's kernel may emulate it", .str: "the host's kernel may emulate it",
        .smsw: "the host's kernel may emulate it",
        .vector: "not a row of its own", .x87: "not a row of its own",
    ]

    /// Why a row has no form, when it has none.
    static func exception(_ row: InstructionForm) -> String? {
        if row.traits.contains(.not64) { return "not in 64-bit mode" }
        // POP FS and LFS.
        if row.map == .map0F, [0xa1, 0xb4].contains(row.opcode) { return "FS is the host's thread pointer" }
        return exceptions[row.operation]
    }

    /// Integer and system rows.
    static let integer: [NativeForm] = (InstructionTable.primary() + InstructionTable.extended()).compactMap { row in
        guard exception(row) == nil else { return nil }
        // What a processor without TZCNT and LZCNT makes of F3 cannot be seen on one with them: F3 is not tried.
        var form = NativeForm(name: "\(row.operation)", opcode: row.opcode)
        switch row.map {
        case .primary: form.escape = []
        case .map0F: form.escape = [0x0f]
        case .map0F38: form.escape = [0x0f, 0x38]
        case .map0F3A: form.escape = [0x0f, 0x3a]
        }
        if row.traits.contains(.prefixF3) { form.prefix = 0xf3 }
        if row.traits.contains(.prefixF2) { form.prefix = 0xf2 }
        if row.traits.contains(.prefix66) { form.prefix = 0x66 }
        form.reg = row.group >= 0 ? UInt8(row.group) : nil
        form.rm = row.selector >= 0 ? UInt8(row.selector) : nil
        form.hasModRM = row.hasModRM
        form.allowsMemory =
            row.hasModRM && !row.traits.contains(.registerOnly) && row.selector < 0
            && !row.traits.contains(.ignoresMode)
        form.allowsRegister = !row.traits.contains(.memoryOnly)
        form.isLockable = row.traits.contains(.lockable)
        form.undefinedFlags = row.undefinedFlags.rawValue
        form.setSize(row)
        form.setImmediate(row)
        form.setTreatment(row)
        form.setSelectorTreatment(row)
        form.alwaysFaults = form.alwaysFaults || row.traits.contains(.privileged)
        return form
    }

    /// What can follow each other: integer rows that leave no flag undefined but AF, which none of them reads, and that
    /// load no register of which processors accept different bits.
    static let sequenced: [NativeForm] = integer.filter { form in
        let isSimple =
            switch form.treatment {
            case .plain, .relative: true
            default: false
            }
        return isSimple && !form.alwaysFaults && form.undefinedFlags & ~Flags.auxiliary.rawValue == 0
            && !["pushf", "lahf", "fxsave", "fxrstor", "ldmxcsr"].contains(form.name)
    }

    private mutating func setSize(_ row: InstructionForm) {
        switch row.size {
        case .byte: memoryBytes = 1
        case .word:
            allowsOperandPrefix = !row.traits.contains(.noPrefix)
            allowsWide = true
        case .stack: allowsOperandPrefix = true
        case .doubleWord: allowsWide = true
        case .near, .register, .table: break
        case .fixed16: memoryBytes = 2
        }
        // The operand size of indirect and relative jumps differs between processors with 66.
        switch row.operation {
        case .cmpxchg8b:
            memoryBytes = 16
            content = .packed
        case .fxsave, .fxrstor:
            memoryBytes = 512
            isAligned = true
            content = .fxsave
        case .ldmxcsr: content = .mxcsr
        // Whether 16-bit MOVSXD reads two bytes or four differs.
        case .movsxd: allowsOperandPrefix = false
        default: break
        }
    }

    private mutating func setImmediate(_ row: InstructionForm) {
        switch row.immediate {
        case .none: immediate = .none
        case .byte, .signedByte: immediate = .bytes(1)
        case .word: immediate = .word
        case .full: immediate = .full
        case .fixed16: immediate = .bytes(2)
        case .enter: immediate = .bytes(3)
        }
    }

    private mutating func setTreatment(_ row: InstructionForm) {
        switch row.operation {
        case .jcc, .jmp, .call, .jcxz, .loop, .loope, .loopne:
            treatment = .relative
            if case .word = immediate { immediate = .bytes(4) }
        case .jmpIndirect, .callIndirect: treatment = .indirect
        case .ret, .retImmediate: treatment = .returns
        case .movs, .cmps, .stos, .lods, .scas: treatment = .string
        case .popf: treatment = .popFlags
        case .fxsave: treatment = .storesImage
        case .enter, .leave: treatment = .enter
        case .xlat: treatment = .table
        case .shld, .shrd: treatment = .doubleShift
        // The register form of a prefetch is an invalid opcode on some processors.
        case .nop where opcode == 0x0d: allowsRegister = false
        default: break
        }
        if row.form == .accumulatorMemory || row.form == .memoryAccumulator {
            immediate = .bytes(8)
            treatment = .absolute
        }
    }

    /// Instructions with selectors, and those that always fault at CPL 3.
    private mutating func setSelectorTreatment(_ row: InstructionForm) {
        switch row.operation {
        case .movToSegment: treatment = .loadsSegment
        case .popSegment: treatment = .popsSegment
        case .lar, .lsl, .verr, .verw: treatment = .inspectsSelector
        case .loadFarPointer, .jmpFarIndirect, .callFarIndirect:
            treatment = row.operation == .loadFarPointer ? .loadsPointer : .farIndirect
            // Whether there are 64-bit offsets differs between processors.
            (allowsOperandPrefix, allowsWide) = (false, false)
            memoryBytes = 6
        case .retFar, .retFarImmediate, .iret:
            treatment = row.operation == .iret ? .interruptReturn : .farReturn
            allowsOperandPrefix = false
        case .int:
            treatment = .interrupt
            alwaysFaults = true
        case .int3, .ud, .in, .out, .ins, .outs, .cli, .sti, .monitor: alwaysFaults = true
        default: break
        }
    }

    /// MMX and SSE rows.
    static let vector: [NativeForm] = VectorTable.shared.forms.map { row in
        var form = NativeForm(name: "\(row.operation)", opcode: row.opcode)
        switch row.prefix {
        case .none: break
        case .x66: form.prefix = 0x66
        case .xF3: form.prefix = 0xf3
        case .xF2: form.prefix = 0xf2
        }
        switch row.map {
        case .primary: form.escape = []
        case .map0F: form.escape = [0x0f]
        case .map0F38: form.escape = [0x0f, 0x38]
        case .map0F3A: form.escape = [0x0f, 0x3a]
        }
        let layout = row.operands.layout
        form.reg = row.group >= 0 ? UInt8(row.group) : nil
        form.hasModRM = row.operation != .emms
        form.allowsMemory = form.hasModRM && layout.encodings != .registerOnly
        form.allowsRegister = layout.encodings != .memoryOnly
        form.allowsWide = row.operands.widened != row.operands
        form.immediate = layout.hasImmediate ? .bytes(1) : .none
        form.memoryBytes = max(Int(layout.memoryBytes), 1)
        form.isAligned = layout.isAligned
        form.content = .packed
        switch row.operation {
        case .ldmxcsr: form.content = .mxcsr
        case .maskmovq, .maskmovdqu: form.treatment = .maskMove
        default: break
        }
        return form
    }
}
