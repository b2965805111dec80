// SPDX-License-Identifier: Apache-2.0
// Rows of the one-byte opcode map. Intel SDM volume 2, table A-2.

extension InstructionForm {
    /// A row with a ModRM byte.
    static func modRM(
        _ opcode: UInt8, _ operation: Operation, _ form: Form, _ size: SizeRule = .word,
        _ immediate: ImmediateRule = .none, _ traits: FormTraits = [], map: OpcodeMap = .primary, group: Int8 = -1,
        selector: Int8 = -1, undefined: Flags = []
    ) -> InstructionForm {
        InstructionForm(
            map: map, opcode: opcode, group: group, selector: selector, operation: operation, form: form, size: size,
            immediate: immediate, hasModRM: true, traits: traits, undefinedFlags: undefined)
    }

    /// A row without a ModRM byte.
    static func plain(
        _ opcode: UInt8, _ operation: Operation, _ form: Form = .none, _ size: SizeRule = .word,
        _ immediate: ImmediateRule = .none, _ traits: FormTraits = [], map: OpcodeMap = .primary, undefined: Flags = []
    ) -> InstructionForm {
        InstructionForm(
            map: map, opcode: opcode, operation: operation, form: form, size: size, immediate: immediate,
            traits: traits, undefinedFlags: undefined)
    }
}

/// The instruction table: what decoder, interpreter and tests go by.
package enum InstructionTable {
    static let flow: FormTraits = [.endsBlock]
    static let system: FormTraits = [.endsBlock, .system]
    static let privileged: FormTraits = [.endsBlock, .system, .privileged]
    private static let logicUndefined: Flags = [.auxiliary]
    private static let multiplyUndefined: Flags = [.sign, .zero, .auxiliary, .parity]

    /// Rows of the one-byte map.
    package static func primary() -> [InstructionForm] {
        arithmetic() + moves() + stackAndFlow() + groups() + strings() + flagsAndSystem() + legacy()
    }

    private static func arithmetic() -> [InstructionForm] {
        var rows: [InstructionForm] = []
        let operations: [Operation] = [.add, .or, .adc, .sbb, .and, .sub, .xor, .cmp]
        for (number, operation) in operations.enumerated() {
            let base = UInt8(number * 8)
            let lock: FormTraits = operation == .cmp ? [] : .lockable
            let logic = operation == .and || operation == .or || operation == .xor
            let undefined: Flags = logic ? logicUndefined : []
            rows += [
                .modRM(base, operation, .rmReg, .byte, .none, lock, undefined: undefined),
                .modRM(base + 1, operation, .rmReg, .word, .none, lock, undefined: undefined),
                .modRM(base + 2, operation, .regRM, .byte, undefined: undefined),
                .modRM(base + 3, operation, .regRM, .word, undefined: undefined),
                .plain(base + 4, operation, .accumulatorImmediate, .byte, .byte, undefined: undefined),
                .plain(base + 5, operation, .accumulatorImmediate, .word, .word, undefined: undefined),
            ]
            let group = Int8(number)
            rows += [
                .modRM(0x80, operation, .rmImmediate, .byte, .byte, lock, group: group, undefined: undefined),
                .modRM(0x81, operation, .rmImmediate, .word, .word, lock, group: group, undefined: undefined),
                .modRM(
                    0x82, operation, .rmImmediate, .byte, .byte, lock.union(.not64), group: group,
                    undefined: undefined),
                .modRM(0x83, operation, .rmImmediate, .word, .signedByte, lock, group: group, undefined: undefined),
            ]
        }
        for register in 0..<8 as Range<UInt8> {
            rows.append(.plain(0x40 + register, .inc, .opcodeRegister, .word, .none, .not64))
            rows.append(.plain(0x48 + register, .dec, .opcodeRegister, .word, .none, .not64))
        }
        rows += [
            .modRM(0x69, .imul3, .regRMImmediate, .word, .word, undefined: multiplyUndefined),
            .modRM(0x6b, .imul3, .regRMImmediate, .word, .signedByte, undefined: multiplyUndefined),
            .modRM(0x84, .test, .rmReg, .byte, undefined: logicUndefined),
            .modRM(0x85, .test, .rmReg, .word, undefined: logicUndefined),
            .plain(0xa8, .test, .accumulatorImmediate, .byte, .byte, undefined: logicUndefined),
            .plain(0xa9, .test, .accumulatorImmediate, .word, .word, undefined: logicUndefined),
            .plain(0x98, .cbw), .plain(0x99, .cwd),
        ]
        return rows
    }

    private static func moves() -> [InstructionForm] {
        var rows: [InstructionForm] = [
            .modRM(0x63, .movsxd, .regRM, .word, .none, .only64),
            .modRM(0x63, .arpl, .rmReg, .fixed16, .none, .not64),
            .modRM(0x86, .xchg, .rmReg, .byte, .none, .lockable), .modRM(0x87, .xchg, .rmReg, .word, .none, .lockable),
            .modRM(0x88, .mov, .rmReg, .byte), .modRM(0x89, .mov, .rmReg, .word),
            .modRM(0x8a, .mov, .regRM, .byte), .modRM(0x8b, .mov, .regRM, .word),
            .modRM(0x8c, .movFromSegment, .rmReg, .word),
            .modRM(0x8d, .lea, .regRM, .word, .none, .memoryOnly),
            .modRM(0x8e, .movToSegment, .regRM, .fixed16, .none, system),
            .modRM(0x8f, .pop, .rm, .stack, .none, [], group: 0),
            .plain(0xa0, .mov, .accumulatorMemory, .byte), .plain(0xa1, .mov, .accumulatorMemory, .word),
            .plain(0xa2, .mov, .memoryAccumulator, .byte), .plain(0xa3, .mov, .memoryAccumulator, .word),
            .modRM(0xc6, .mov, .rmImmediate, .byte, .byte, group: 0),
            .modRM(0xc7, .mov, .rmImmediate, .word, .word, group: 0),
            .plain(0xd7, .xlat, .none, .byte),
            .plain(0x90, .nop), .plain(0x90, .pause, .none, .word, .none, .prefixF3),
        ]
        for register in 0..<8 as Range<UInt8> {
            rows.append(.plain(0xb0 + register, .mov, .opcodeRegisterImmediate, .byte, .byte))
            rows.append(.plain(0xb8 + register, .mov, .opcodeRegisterImmediate, .word, .full))
            // 90 with REX.B is XCHG R8, RAX; the decoder tells it from NOP.
            if register > 0 { rows.append(.plain(0x90 + register, .xchg, .accumulatorRegister)) }
        }
        return rows
    }

    private static func stackAndFlow() -> [InstructionForm] {
        var rows: [InstructionForm] = [
            .plain(0x68, .push, .immediate, .stack, .word), .plain(0x6a, .push, .immediate, .stack, .signedByte),
            .plain(0x9c, .pushf, .none, .stack), .plain(0x9d, .popf, .none, .stack, .none, system),
            .plain(0x60, .pusha, .none, .word, .none, .not64), .plain(0x61, .popa, .none, .word, .none, .not64),
            .plain(0xc8, .enter, .immediate, .stack, .enter), .plain(0xc9, .leave, .none, .stack),
            .plain(0xc2, .retImmediate, .immediate, .near, .fixed16, flow),
            .plain(0xc3, .ret, .none, .near, .none, flow),
            .plain(0xca, .retFarImmediate, .immediate, .word, .fixed16, system),
            .plain(0xcb, .retFar, .none, .word, .none, system),
            .plain(0xe0, .loopne, .relative, .near, .signedByte, flow),
            .plain(0xe1, .loope, .relative, .near, .signedByte, flow),
            .plain(0xe2, .loop, .relative, .near, .signedByte, flow),
            .plain(0xe3, .jcxz, .relative, .near, .signedByte, flow),
            .plain(0xe8, .call, .relative, .near, .word, flow), .plain(0xe9, .jmp, .relative, .near, .word, flow),
            .plain(0xeb, .jmp, .relative, .near, .signedByte, flow),
            .plain(0x9a, .callFar, .farPointer, .word, .none, system.union(.not64)),
            .plain(0xea, .jmpFar, .farPointer, .word, .none, system.union(.not64)),
        ]
        for register in 0..<8 as Range<UInt8> {
            rows.append(.plain(0x50 + register, .push, .opcodeRegister, .stack))
            rows.append(.plain(0x58 + register, .pop, .opcodeRegister, .stack))
        }
        for condition in 0..<16 as Range<UInt8> {
            rows.append(.plain(0x70 + condition, .jcc, .relative, .near, .signedByte))
        }
        return rows
    }

    private static func groups() -> [InstructionForm] {
        var rows: [InstructionForm] = []
        let shifts: [Operation] = [.rol, .ror, .rcl, .rcr, .shl, .shr, .sal, .sar]
        for (number, operation) in shifts.enumerated() {
            let group = Int8(number)
            let undefined: Flags = number < 4 ? [] : [.auxiliary]
            let counted = undefined.union(.overflow)
            rows += [
                .modRM(0xc0, operation, .rmImmediate, .byte, .byte, group: group, undefined: counted),
                .modRM(0xc1, operation, .rmImmediate, .word, .byte, group: group, undefined: counted),
                .modRM(0xd0, operation, .rmOne, .byte, group: group, undefined: undefined),
                .modRM(0xd1, operation, .rmOne, .word, group: group, undefined: undefined),
                .modRM(0xd2, operation, .rmCL, .byte, group: group, undefined: counted),
                .modRM(0xd3, operation, .rmCL, .word, group: group, undefined: counted),
            ]
        }
        let divideUndefined: Flags = .status
        for (opcode, size) in [(0xf6, .byte), (0xf7, .word)] as [(UInt8, SizeRule)] {
            let immediate: ImmediateRule = size == .byte ? .byte : .word
            rows += [
                .modRM(opcode, .test, .rmImmediate, size, immediate, group: 0, undefined: logicUndefined),
                .modRM(opcode, .test, .rmImmediate, size, immediate, group: 1, undefined: logicUndefined),
                .modRM(opcode, .not, .rm, size, .none, .lockable, group: 2),
                .modRM(opcode, .neg, .rm, size, .none, .lockable, group: 3),
                .modRM(opcode, .mul, .rm, size, group: 4, undefined: multiplyUndefined),
                .modRM(opcode, .imul, .rm, size, group: 5, undefined: multiplyUndefined),
                .modRM(opcode, .div, .rm, size, group: 6, undefined: divideUndefined),
                .modRM(opcode, .idiv, .rm, size, group: 7, undefined: divideUndefined),
            ]
        }
        rows += [
            .modRM(0xfe, .inc, .rm, .byte, .none, .lockable, group: 0),
            .modRM(0xfe, .dec, .rm, .byte, .none, .lockable, group: 1),
            .modRM(0xff, .inc, .rm, .word, .none, .lockable, group: 0),
            .modRM(0xff, .dec, .rm, .word, .none, .lockable, group: 1),
            .modRM(0xff, .callIndirect, .rm, .near, .none, flow, group: 2),
            .modRM(0xff, .callFarIndirect, .rm, .word, .none, system.union(.memoryOnly), group: 3),
            .modRM(0xff, .jmpIndirect, .rm, .near, .none, flow, group: 4),
            .modRM(0xff, .jmpFarIndirect, .rm, .word, .none, system.union(.memoryOnly), group: 5),
            .modRM(0xff, .push, .rm, .stack, group: 6),
        ]
        return rows
    }

    private static func strings() -> [InstructionForm] {
        [
            .plain(0x6c, .ins, .none, .byte, .none, system), .plain(0x6d, .ins, .none, .word, .none, system),
            .plain(0x6e, .outs, .none, .byte, .none, system), .plain(0x6f, .outs, .none, .word, .none, system),
            .plain(0xa4, .movs, .none, .byte), .plain(0xa5, .movs), .plain(0xa6, .cmps, .none, .byte),
            .plain(0xa7, .cmps),
            .plain(0xaa, .stos, .none, .byte), .plain(0xab, .stos), .plain(0xac, .lods, .none, .byte),
            .plain(0xad, .lods),
            .plain(0xae, .scas, .none, .byte), .plain(0xaf, .scas),
        ]
    }

    private static func flagsAndSystem() -> [InstructionForm] {
        [
            .plain(0xe4, .in, .immediate, .byte, .byte, system), .plain(0xe5, .in, .immediate, .word, .byte, system),
            .plain(0xe6, .out, .immediate, .byte, .byte, system), .plain(0xe7, .out, .immediate, .word, .byte, system),
            .plain(0xec, .in, .none, .byte, .none, system), .plain(0xed, .in, .none, .word, .none, system),
            .plain(0xee, .out, .none, .byte, .none, system), .plain(0xef, .out, .none, .word, .none, system),
            .plain(0x9b, .fwait), .plain(0x9e, .sahf), .plain(0x9f, .lahf),
            .plain(0xf1, .int1, .none, .word, .none, system), .plain(0xf4, .hlt, .none, .word, .none, privileged),
            .plain(0xf5, .cmc), .plain(0xf8, .clc), .plain(0xf9, .stc), .plain(0xfc, .cld), .plain(0xfd, .std),
            .plain(0xfa, .cli, .none, .word, .none, system), .plain(0xfb, .sti, .none, .word, .none, system),
            .plain(0xcc, .int3, .none, .word, .none, system), .plain(0xcd, .int, .immediate, .word, .byte, system),
            .plain(0xce, .into, .none, .word, .none, system.union(.not64)),
            .plain(0xcf, .iret, .none, .word, .none, system),
        ]
    }

    private static func legacy() -> [InstructionForm] {
        var rows: [InstructionForm] = [
            .modRM(0xc4, .loadFarPointer, .regRM, .word, .none, system.union([.not64, .memoryOnly])),
            .modRM(0xc5, .loadFarPointer, .regRM, .word, .none, system.union([.not64, .memoryOnly])),
            .modRM(0x62, .bound, .regRM, .word, .none, [.not64, .memoryOnly]),
            .plain(0x27, .daa, .none, .byte, .none, .not64), .plain(0x2f, .das, .none, .byte, .none, .not64),
            .plain(0x37, .aaa, .none, .byte, .none, .not64), .plain(0x3f, .aas, .none, .byte, .none, .not64),
            .plain(0xd4, .aam, .immediate, .byte, .byte, .not64), .plain(0xd5, .aad, .immediate, .byte, .byte, .not64),
            .plain(0xd6, .salc, .none, .byte, .none, .not64),
        ]
        for opcode in [0x06, 0x0e, 0x16, 0x1e] as [UInt8] {
            rows.append(.plain(opcode, .pushSegment, .none, .stack, .none, .not64))
        }
        for opcode in [0x07, 0x17, 0x1f] as [UInt8] {
            rows.append(.plain(opcode, .popSegment, .none, .stack, .none, system.union(.not64)))
        }
        return rows
    }
}
