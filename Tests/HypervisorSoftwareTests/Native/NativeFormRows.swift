// SPDX-License-Identifier: Apache-2.0
// Encodings to test from the integer and vector rows of the instruction table: what user code can run on any host.

@testable import HypervisorSoftware

extension NativeForm {
    /// Operations whose result depends on the host, on its kernel, or on state that user code cannot set up.
    private static let excluded: Set<Operation> = [
        .int3, .int, .int1, .into, .iret, .syscall, .sysenter, .sysexit, .sysret, .cpuid, .rdtsc, .rdtscp, .rdpmc,
        .movFromSegment, .movToSegment, .pushSegment, .popSegment, .loadFarPointer, .lar, .lsl, .verr, .verw, .sgdt,
        .sidt, .sldt, .str, .smsw, .vmcall, .monitor, .clac, .stac, .swapgs, .jmpFar, .callFar, .jmpFarIndirect,
        .callFarIndirect, .retFar, .retFarImmediate, .vector, .x87,
    ]

    /// Integer and system rows.
    static let integer: [NativeForm] = (InstructionTable.primary() + InstructionTable.extended()).compactMap { row in
        guard !row.traits.contains(.not64), !excluded.contains(row.operation) else { return nil }
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
        return form
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
        case .enter: treatment = .enter
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
