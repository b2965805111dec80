// SPDX-License-Identifier: Apache-2.0
// Rows of the 0F, 0F 38 and 0F 3A opcode maps outside the vector group. Intel SDM volume 2, tables.

extension InstructionTable {
    /// Integer and system rows after 0F.
    package static func extended() -> [InstructionForm] {
        integer0F() + system0F() + bits0F()
    }

    private static func integer0F() -> [InstructionForm] {
        var rows: [InstructionForm] = []
        for condition in 0..<16 as Range<UInt8> {
            rows += [
                .modRM(0x40 + condition, .cmov, .regRM, map: .map0F),
                .plain(0x80 + condition, .jcc, .relative, .near, .word, map: .map0F),
                .modRM(0x90 + condition, .setcc, .rm, .byte, map: .map0F),
            ]
        }
        for register in 0..<8 as Range<UInt8> {
            rows.append(.plain(0xc8 + register, .bswap, .opcodeRegister, map: .map0F))
        }
        rows += [
            .modRM(0xaf, .imul2, .regRM, map: .map0F, undefined: [.sign, .zero, .auxiliary, .parity]),
            .modRM(0xb0, .cmpxchg, .rmReg, .byte, .none, .lockable, map: .map0F),
            .modRM(0xb1, .cmpxchg, .rmReg, .word, .none, .lockable, map: .map0F),
            .modRM(0xb6, .movzx8, .regRM, map: .map0F), .modRM(0xb7, .movzx16, .regRM, map: .map0F),
            .modRM(0xbe, .movsx8, .regRM, map: .map0F), .modRM(0xbf, .movsx16, .regRM, map: .map0F),
            .modRM(0xc0, .xadd, .rmReg, .byte, .none, .lockable, map: .map0F),
            .modRM(0xc1, .xadd, .rmReg, .word, .none, .lockable, map: .map0F),
            .modRM(0xc3, .mov, .rmReg, .doubleWord, .none, [.memoryOnly, .noPrefix], map: .map0F),  // MOVNTI
            .modRM(0xc7, .cmpxchg8b, .rm, .doubleWord, .none, [.lockable, .memoryOnly], map: .map0F, group: 1),
            // Hints: prefetches, multi-byte NOP, ENDBR.
            .modRM(0x0d, .nop, .rm, map: .map0F), .modRM(0xb9, .ud, .regRM, .word, .none, system, map: .map0F),
            .modRM(0xff, .ud, .regRM, .word, .none, system, map: .map0F),
            .plain(0x0b, .ud, .none, .word, .none, system, map: .map0F),
        ]
        for opcode in 0x18...0x1f as ClosedRange<UInt8> { rows.append(.modRM(opcode, .nop, .rm, map: .map0F)) }
        return rows
    }

    private static func bits0F() -> [InstructionForm] {
        let bitUndefined: Flags = [.overflow, .sign, .auxiliary, .parity]
        let scanUndefined: Flags = [.carry, .overflow, .sign, .auxiliary, .parity]
        let shiftUndefined: Flags = [.auxiliary, .overflow]
        var rows: [InstructionForm] = [
            .modRM(0xa3, .bt, .rmReg, map: .map0F, undefined: bitUndefined),
            .modRM(0xab, .bts, .rmReg, .word, .none, .lockable, map: .map0F, undefined: bitUndefined),
            .modRM(0xb3, .btr, .rmReg, .word, .none, .lockable, map: .map0F, undefined: bitUndefined),
            .modRM(0xbb, .btc, .rmReg, .word, .none, .lockable, map: .map0F, undefined: bitUndefined),
            .modRM(0xa4, .shld, .rmRegImmediate, .word, .byte, map: .map0F, undefined: shiftUndefined),
            .modRM(0xa5, .shld, .rmRegCL, map: .map0F, undefined: shiftUndefined),
            .modRM(0xac, .shrd, .rmRegImmediate, .word, .byte, map: .map0F, undefined: shiftUndefined),
            .modRM(0xad, .shrd, .rmRegCL, map: .map0F, undefined: shiftUndefined),
            // F3 0F BC and BD are TZCNT and LZCNT on newer models; on x86-64-v2 the prefix is ignored.
            .modRM(0xbc, .bsf, .regRM, map: .map0F, undefined: scanUndefined),
            .modRM(0xbd, .bsr, .regRM, map: .map0F, undefined: scanUndefined),
            .modRM(0xb8, .popcnt, .regRM, .word, .none, .prefixF3, map: .map0F),
            .modRM(0xf0, .crc32, .regRM, .byte, .none, .prefixF2, map: .map0F38),
            .modRM(0xf1, .crc32, .regRM, .word, .none, .prefixF2, map: .map0F38),
        ]
        for (group, operation) in [(4, .bt), (5, .bts), (6, .btr), (7, .btc)] as [(Int8, Operation)] {
            rows.append(
                .modRM(
                    0xba, operation, .rmImmediate, .word, .byte, operation == .bt ? [] : .lockable, map: .map0F,
                    group: group, undefined: bitUndefined))
        }
        return rows
    }

    private static func system0F() -> [InstructionForm] {
        let memory = FormTraits.memoryOnly
        let register = FormTraits.registerOnly
        var rows: [InstructionForm] = [
            .modRM(0x00, .sldt, .rm, .word, .none, system, map: .map0F, group: 0),
            .modRM(0x00, .str, .rm, .word, .none, system, map: .map0F, group: 1),
            .modRM(0x00, .lldt, .rm, .fixed16, .none, privileged, map: .map0F, group: 2),
            .modRM(0x00, .ltr, .rm, .fixed16, .none, privileged, map: .map0F, group: 3),
            .modRM(0x00, .verr, .rm, .fixed16, .none, system, map: .map0F, group: 4),
            .modRM(0x00, .verw, .rm, .fixed16, .none, system, map: .map0F, group: 5),
            .modRM(0x01, .sgdt, .rm, .table, .none, system.union(memory), map: .map0F, group: 0),
            .modRM(0x01, .sidt, .rm, .table, .none, system.union(memory), map: .map0F, group: 1),
            .modRM(0x01, .lgdt, .rm, .table, .none, privileged.union(memory), map: .map0F, group: 2),
            .modRM(0x01, .lidt, .rm, .table, .none, privileged.union(memory), map: .map0F, group: 3),
            .modRM(0x01, .smsw, .rm, .word, .none, system, map: .map0F, group: 4),
            .modRM(0x01, .lmsw, .rm, .fixed16, .none, privileged, map: .map0F, group: 6),
            .modRM(0x01, .invlpg, .rm, .byte, .none, privileged.union(memory), map: .map0F, group: 7),
            .modRM(0x01, .vmcall, .none, .word, .none, system.union(register), map: .map0F, group: 0, selector: 1),
            .modRM(0x01, .vmcall, .none, .word, .none, system.union(register), map: .map0F, group: 3, selector: 1),
            .modRM(0x01, .monitor, .none, .word, .none, system.union(register), map: .map0F, group: 1, selector: 0),
            .modRM(0x01, .monitor, .none, .word, .none, system.union(register), map: .map0F, group: 1, selector: 1),
            .modRM(0x01, .clac, .none, .word, .none, privileged.union(register), map: .map0F, group: 1, selector: 2),
            .modRM(0x01, .stac, .none, .word, .none, privileged.union(register), map: .map0F, group: 1, selector: 3),
            .modRM(
                0x01, .swapgs, .none, .word, .none, privileged.union([register, .only64]), map: .map0F, group: 7,
                selector: 0),
            .modRM(0x01, .rdtscp, .none, .word, .none, system.union(register), map: .map0F, group: 7, selector: 1),
            .modRM(0x02, .lar, .regRM, .word, .none, system, map: .map0F),
            .modRM(0x03, .lsl, .regRM, .word, .none, system, map: .map0F),
            .plain(0x05, .syscall, .none, .word, .none, system, map: .map0F),
            .plain(0x06, .clts, .none, .word, .none, privileged, map: .map0F),
            .plain(0x07, .sysret, .none, .word, .none, privileged, map: .map0F),
            .plain(0x08, .wbinvd, .none, .word, .none, privileged, map: .map0F),
            .plain(0x09, .wbinvd, .none, .word, .none, privileged, map: .map0F),
            .modRM(0x20, .movFromControl, .rmReg, .register, .none, privileged.union(.ignoresMode), map: .map0F),
            .modRM(0x21, .movFromDebug, .rmReg, .register, .none, privileged.union(.ignoresMode), map: .map0F),
            .modRM(0x22, .movToControl, .rmReg, .register, .none, privileged.union(.ignoresMode), map: .map0F),
            .modRM(0x23, .movToDebug, .rmReg, .register, .none, privileged.union(.ignoresMode), map: .map0F),
            .plain(0x30, .wrmsr, .none, .word, .none, privileged, map: .map0F),
            .plain(0x31, .rdtsc, .none, .word, .none, system, map: .map0F),
            .plain(0x32, .rdmsr, .none, .word, .none, privileged, map: .map0F),
            .plain(0x33, .rdpmc, .none, .word, .none, system, map: .map0F),
            .plain(0x34, .sysenter, .none, .word, .none, system, map: .map0F),
            .plain(0x35, .sysexit, .none, .word, .none, privileged, map: .map0F),
            .plain(0xa0, .pushSegment, .none, .stack, map: .map0F),
            .plain(0xa8, .pushSegment, .none, .stack, map: .map0F),
            .plain(0xa1, .popSegment, .none, .stack, .none, system, map: .map0F),
            .plain(0xa9, .popSegment, .none, .stack, .none, system, map: .map0F),
            .plain(0xa2, .cpuid, .none, .word, .none, system, map: .map0F),
            .modRM(0xae, .fxsave, .rm, .doubleWord, .none, memory.union(.noPrefix), map: .map0F, group: 0),
            .modRM(0xae, .fxrstor, .rm, .doubleWord, .none, memory.union(.noPrefix), map: .map0F, group: 1),
            .modRM(0xae, .ldmxcsr, .rm, .doubleWord, .none, memory.union(.noPrefix), map: .map0F, group: 2),
            .modRM(0xae, .stmxcsr, .rm, .doubleWord, .none, memory.union(.noPrefix), map: .map0F, group: 3),
            .modRM(0xae, .fence, .rm, .byte, .none, .noPrefix, map: .map0F, group: 7),  // SFENCE, CLFLUSH
            .modRM(0xae, .fence, .none, .byte, .none, register.union(.noPrefix), map: .map0F, group: 5),  // LFENCE
            .modRM(0xae, .fence, .none, .byte, .none, register.union(.noPrefix), map: .map0F, group: 6),  // MFENCE
        ]
        for opcode in [0xb2, 0xb4, 0xb5] as [UInt8] {
            rows.append(.modRM(opcode, .loadFarPointer, .regRM, .word, .none, system.union(memory), map: .map0F))
        }
        return rows
    }
}
