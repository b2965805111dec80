// SPDX-License-Identifier: Apache-2.0
// Integer vector arithmetic: on x86-64 hosts by the same instruction of the host. Intel SDM volume 2.

#if arch(x86_64)
    internal import CHost

    extension Vector128 {
        @inline(__always)
        init(_ value: chost_v128) { self.init(low: value.low, high: value.high) }

        @inline(__always)
        var host: chost_v128 { chost_v128(low: low, high: high) }
    }

    /// The result of an operation from `paddb` to `rsqrtss`; `d` is the old destination.
    package func vectorArithmetic(
        _ operation: VectorOperation, _ d: Vector128, _ s: Vector128, imm: UInt8
    ) -> Vector128 {
        switch operation {
        case .paddb: Vector128(chost_paddb(d.host, s.host))
        case .paddw: Vector128(chost_paddw(d.host, s.host))
        case .paddd: Vector128(chost_paddd(d.host, s.host))
        case .paddq: Vector128(chost_paddq(d.host, s.host))
        case .psubb: Vector128(chost_psubb(d.host, s.host))
        case .psubw: Vector128(chost_psubw(d.host, s.host))
        case .psubd: Vector128(chost_psubd(d.host, s.host))
        case .psubq: Vector128(chost_psubq(d.host, s.host))
        case .paddsb: Vector128(chost_paddsb(d.host, s.host))
        case .paddsw: Vector128(chost_paddsw(d.host, s.host))
        case .paddusb: Vector128(chost_paddusb(d.host, s.host))
        case .paddusw: Vector128(chost_paddusw(d.host, s.host))
        case .psubsb: Vector128(chost_psubsb(d.host, s.host))
        case .psubsw: Vector128(chost_psubsw(d.host, s.host))
        case .psubusb: Vector128(chost_psubusb(d.host, s.host))
        case .psubusw: Vector128(chost_psubusw(d.host, s.host))
        case .pmullw: Vector128(chost_pmullw(d.host, s.host))
        case .pmulhw: Vector128(chost_pmulhw(d.host, s.host))
        case .pmulhuw: Vector128(chost_pmulhuw(d.host, s.host))
        case .pmulhrsw: Vector128(chost_pmulhrsw(d.host, s.host))
        case .pmulld: Vector128(chost_pmulld(d.host, s.host))
        case .pmuludq: Vector128(chost_pmuludq(d.host, s.host))
        case .pmuldq: Vector128(chost_pmuldq(d.host, s.host))
        case .pmaddwd: Vector128(chost_pmaddwd(d.host, s.host))
        case .pmaddubsw: Vector128(chost_pmaddubsw(d.host, s.host))
        case .psadbw: Vector128(chost_psadbw(d.host, s.host))
        case .pavgb: Vector128(chost_pavgb(d.host, s.host))
        case .pavgw: Vector128(chost_pavgw(d.host, s.host))
        case .pminub: Vector128(chost_pminub(d.host, s.host))
        case .pminsb: Vector128(chost_pminsb(d.host, s.host))
        case .pminuw: Vector128(chost_pminuw(d.host, s.host))
        case .pminsw: Vector128(chost_pminsw(d.host, s.host))
        case .pminud: Vector128(chost_pminud(d.host, s.host))
        case .pminsd: Vector128(chost_pminsd(d.host, s.host))
        case .pmaxub: Vector128(chost_pmaxub(d.host, s.host))
        case .pmaxsb: Vector128(chost_pmaxsb(d.host, s.host))
        case .pmaxuw: Vector128(chost_pmaxuw(d.host, s.host))
        case .pmaxsw: Vector128(chost_pmaxsw(d.host, s.host))
        case .pmaxud: Vector128(chost_pmaxud(d.host, s.host))
        case .pmaxsd: Vector128(chost_pmaxsd(d.host, s.host))
        case .pcmpeqb: Vector128(chost_pcmpeqb(d.host, s.host))
        case .pcmpeqw: Vector128(chost_pcmpeqw(d.host, s.host))
        case .pcmpeqd: Vector128(chost_pcmpeqd(d.host, s.host))
        case .pcmpeqq: Vector128(chost_pcmpeqq(d.host, s.host))
        case .pcmpgtb: Vector128(chost_pcmpgtb(d.host, s.host))
        case .pcmpgtw: Vector128(chost_pcmpgtw(d.host, s.host))
        case .pcmpgtd: Vector128(chost_pcmpgtd(d.host, s.host))
        case .pcmpgtq: Vector128(chost_pcmpgtq(d.host, s.host))
        case .packsswb: Vector128(chost_packsswb(d.host, s.host))
        case .packuswb: Vector128(chost_packuswb(d.host, s.host))
        case .packssdw: Vector128(chost_packssdw(d.host, s.host))
        case .packusdw: Vector128(chost_packusdw(d.host, s.host))
        case .pshufb: Vector128(chost_pshufb(d.host, s.host))
        case .phaddw: Vector128(chost_phaddw(d.host, s.host))
        case .phaddd: Vector128(chost_phaddd(d.host, s.host))
        case .phaddsw: Vector128(chost_phaddsw(d.host, s.host))
        case .phsubw: Vector128(chost_phsubw(d.host, s.host))
        case .phsubd: Vector128(chost_phsubd(d.host, s.host))
        case .phsubsw: Vector128(chost_phsubsw(d.host, s.host))
        case .psignb: Vector128(chost_psignb(d.host, s.host))
        case .psignw: Vector128(chost_psignw(d.host, s.host))
        case .psignd: Vector128(chost_psignd(d.host, s.host))
        case .pabsb: Vector128(chost_pabsb(d.host, s.host))
        case .pabsw: Vector128(chost_pabsw(d.host, s.host))
        case .pabsd: Vector128(chost_pabsd(d.host, s.host))
        case .psllw: Vector128(chost_psllw(d.host, s.host))
        case .pslld: Vector128(chost_pslld(d.host, s.host))
        case .psllq: Vector128(chost_psllq(d.host, s.host))
        case .psrlw: Vector128(chost_psrlw(d.host, s.host))
        case .psrld: Vector128(chost_psrld(d.host, s.host))
        case .psrlq: Vector128(chost_psrlq(d.host, s.host))
        case .psraw: Vector128(chost_psraw(d.host, s.host))
        case .psrad: Vector128(chost_psrad(d.host, s.host))
        case .pmovsxbw: Vector128(chost_pmovsxbw(d.host, s.host))
        case .pmovsxbd: Vector128(chost_pmovsxbd(d.host, s.host))
        case .pmovsxbq: Vector128(chost_pmovsxbq(d.host, s.host))
        case .pmovsxwd: Vector128(chost_pmovsxwd(d.host, s.host))
        case .pmovsxwq: Vector128(chost_pmovsxwq(d.host, s.host))
        case .pmovsxdq: Vector128(chost_pmovsxdq(d.host, s.host))
        case .pmovzxbw: Vector128(chost_pmovzxbw(d.host, s.host))
        case .pmovzxbd: Vector128(chost_pmovzxbd(d.host, s.host))
        case .pmovzxbq: Vector128(chost_pmovzxbq(d.host, s.host))
        case .pmovzxwd: Vector128(chost_pmovzxwd(d.host, s.host))
        case .pmovzxwq: Vector128(chost_pmovzxwq(d.host, s.host))
        case .pmovzxdq: Vector128(chost_pmovzxdq(d.host, s.host))
        case .phminposuw: Vector128(chost_phminposuw(d.host, s.host))
        case .rcpps: Vector128(chost_rcpps(d.host, s.host))
        case .rcpss: Vector128(chost_rcpss(d.host, s.host))
        case .rsqrtps: Vector128(chost_rsqrtps(d.host, s.host))
        case .rsqrtss: Vector128(chost_rsqrtss(d.host, s.host))
        case .mpsadbw:
            // The host's instruction with offsets 0: the blocks that the immediate selects are brought there.
            Vector128(
                chost_mpsadbw(
                    Vector128(d.bits >> (Int(imm & 4) * 8)).host, Vector128(s.bits >> (Int(imm & 3) * 32)).host))
        default: d
        }
    }
#else
    /// The result of an operation from `paddb` to `rsqrtss`; `d` is the old destination.
    package func vectorArithmetic(
        _ operation: VectorOperation, _ d: Vector128, _ s: Vector128, imm: UInt8
    ) -> Vector128 {
        vectorArithmeticPortable(operation, d, s, imm: imm)
    }
#endif

/// The result of an operation from `pand` to `rsqrtss` on all 128 bits.
@inline(__always)
package func vectorInteger(
    _ operation: VectorOperation, _ d: Vector128, _ s: Vector128, imm: UInt8, mask: Vector128 = .zero
) -> Vector128 {
    if operation.rawValue < VectorOperation.paddb.rawValue {
        return vectorRearrangement(operation, d, s, imm: imm, mask: mask)
    }
    return vectorArithmetic(operation, d, s, imm: imm)
}

/// The same on MMX registers: lane-wise operations are the low half of the 128-bit ones; others bring their operands
/// to where the 128-bit operation takes them from.
package func vectorIntegerMMX(_ operation: VectorOperation, _ d: UInt64, _ s: UInt64, imm: UInt8) -> UInt64 {
    switch operation {
    case .packsswb, .packuswb, .packssdw, .phaddw, .phaddd, .phaddsw, .phsubw, .phsubd, .phsubsw:
        return vectorArithmetic(operation, Vector128(low: d, high: s), .zero, imm: 0).low
    case .punpckhbw: return vectorRearrangement(.punpcklbw, Vector128(low: d), Vector128(low: s), imm: 0).high
    case .punpckhwd: return vectorRearrangement(.punpcklwd, Vector128(low: d), Vector128(low: s), imm: 0).high
    case .punpckhdq: return vectorRearrangement(.punpckldq, Vector128(low: d), Vector128(low: s), imm: 0).high
    case .pshufb:
        return vectorArithmetic(
            .pshufb, Vector128(low: d), Vector128(low: s & 0x8787_8787_8787_8787), imm: 0
        ).low
    case .palignr: return Vector128(Vector128(low: s, high: d).bits >> (Int(imm) &* 8)).low
    default: return vectorInteger(operation, Vector128(low: d), Vector128(low: s), imm: imm).low
    }
}
