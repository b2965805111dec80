// SPDX-License-Identifier: Apache-2.0
// Which general registers instructions change and read, for what translated code knows about them.

/// General registers that instructions change, a bit for each.
enum RegisterUse {
    static let all: UInt16 = .max

    private static func bit(_ register: UInt8) -> UInt16 {
        1 << UInt16(register & RegisterIndex.highByte != 0 ? register & 3 : register & 15)
    }

    /// What `i`, which is translated by `plan`, may change.
    static func written(_ i: DecodedInstruction, _ plan: TranslationPlan) -> UInt16 {
        switch plan {
        case .nothing: 0
        case .integer: integer(i)
        case .vector: vector(i)
        case .x87: i.isMemory ? 0 : bit(RegisterIndex.rax)  // FNSTSW AX
        case .flow: i.handler.isConditionalJump || i.handler == .jmp ? 0 : bit(RegisterIndex.rsp)
        case .string:
            bit(RegisterIndex.rsi) | bit(RegisterIndex.rdi) | bit(RegisterIndex.rcx) | bit(RegisterIndex.rax)
        case .helper, .system, .systemHelper, .interruptReturn, .leave: all
        }
    }

    /// What a load, POP or return may change besides what it loads.
    static func writtenBesideLoad(_ i: DecodedInstruction) -> UInt16 { i.isMemory ? 0 : bit(RegisterIndex.rsp) }

    private static func integer(_ i: DecodedInstruction) -> UInt16 {
        let modified = i.isMemory ? 0 : bit(i.rm)
        switch Operation(rawValue: i.operation) {
        case .cmp, .test, .bt, .stc, .clc, .cmc, .sahf, .cld, .std: return 0
        case .mov, .add, .or, .adc, .sbb, .and, .sub, .xor:
            return i.shape == Form.regRM.rawValue ? bit(i.reg) : modified
        case .lea, .movzx8, .movzx16, .movsx8, .movsx16, .movsxd, .cmov, .imul2, .imul3, .bsf, .bsr, .popcnt, .crc32:
            return bit(i.reg)
        case .movFromSegment, .setcc, .rol, .ror, .rcl, .rcr, .shl, .shr, .sal, .sar, .shld, .shrd, .inc, .dec, .not,
            .neg, .bswap, .bts,
            .btr, .btc:
            return modified
        case .xchg, .xadd: return modified | bit(i.reg)
        case .cmpxchg: return modified | bit(RegisterIndex.rax)
        case .mul, .imul, .div, .idiv, .cwd, .cmpxchg8b: return bit(RegisterIndex.rax) | bit(RegisterIndex.rdx)
        case .cbw, .lahf: return bit(RegisterIndex.rax)
        case .push, .pushf: return bit(RegisterIndex.rsp)
        case .pop: return bit(RegisterIndex.rsp) | bit(i.rm)
        case .leave: return bit(RegisterIndex.rsp) | bit(RegisterIndex.rbp)
        default: return all
        }
    }

    private static func vector(_ i: DecodedInstruction) -> UInt16 {
        guard let layout = VectorOperands(rawValue: i.shape)?.layout else { return all }
        // PCMPESTRI and PCMPISTRI name no register for their result.
        var written = bit(RegisterIndex.rcx)
        for (kind, register) in [(layout.reg, i.reg), (layout.rm, i.rm)]
        where kind == .general32 || kind == .general64 {
            written |= bit(register)
        }
        return written
    }
}

extension DecodedInstruction {
    /// Whether both operands of an integer instruction are named by ModRM, rather than one be a constant.
    var hasSource: Bool { shape == Form.rmReg.rawValue || shape == Form.regRM.rawValue }
    /// The register that such an instruction changes, and the one that it only reads, if neither is in memory.
    var destination: UInt8 { shape == Form.regRM.rawValue ? reg : rm }
    var source: UInt8 { shape == Form.regRM.rawValue ? rm : reg }
}
