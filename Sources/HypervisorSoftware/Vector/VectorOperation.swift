// SPDX-License-Identifier: Apache-2.0
// The operations of MMX and SSE to SSE4.2, by mnemonic. Intel SDM volume 2.

/// What a vector instruction does; `VectorOperands` says to what. Raw values are dense, and the order makes classes:
/// moves, then operations on bits and integers, then operations that use MXCSR.
package enum VectorOperation: UInt16, CaseIterable, Sendable {
    // Moves between registers, and to and from memory.
    case movups, movupd, movaps, movapd, movdqu, movdqa, lddqu, movntdqa
    case movntps, movntpd, movntdq, movntq, movnti
    case movss, movsd, movlps, movlpd, movhps, movhpd
    case movq, movd, movq2dq, movdq2q
    case maskmovq, maskmovdqu
    case emms, ldmxcsr, stmxcsr
    case movmskps, movmskpd, pmovmskb
    case pextrb, pextrw, pextrd, extractps
    case pinsrb, pinsrw, pinsrd
    case ptest, pcmpestrm, pcmpestri, pcmpistrm, pcmpistri

    // Bits and rearrangements: d = op(d, s, immediate).
    case pand, pandn, por, pxor
    case andps, andpd, andnps, andnpd, orps, orpd, xorps, xorpd
    case movsldup, movshdup, movddup
    case unpcklps, unpcklpd, unpckhps, unpckhpd
    case punpcklbw, punpcklwd, punpckldq, punpcklqdq
    case punpckhbw, punpckhwd, punpckhdq, punpckhqdq
    case pshufw, pshufd, pshuflw, pshufhw, shufps, shufpd
    case palignr, pslldq, psrldq
    case blendps, blendpd, pblendw, blendvps, blendvpd, pblendvb, insertps

    // Integer arithmetic, and what the host does better than 64-bit operations: d = op(d, s).
    case paddb, paddw, paddd, paddq, psubb, psubw, psubd, psubq
    case paddsb, paddsw, paddusb, paddusw, psubsb, psubsw, psubusb, psubusw
    case pmullw, pmulhw, pmulhuw, pmulhrsw, pmulld, pmuludq, pmuldq, pmaddwd, pmaddubsw
    case psadbw, mpsadbw, pavgb, pavgw
    case pminub, pminsb, pminuw, pminsw, pminud, pminsd
    case pmaxub, pmaxsb, pmaxuw, pmaxsw, pmaxud, pmaxsd
    case pcmpeqb, pcmpeqw, pcmpeqd, pcmpeqq, pcmpgtb, pcmpgtw, pcmpgtd, pcmpgtq
    case packsswb, packuswb, packssdw, packusdw
    case phaddw, phaddd, phaddsw, phsubw, phsubd, phsubsw
    case psignb, psignw, psignd, pabsb, pabsw, pabsd
    case psllw, pslld, psllq, psrlw, psrld, psrlq, psraw, psrad
    case pmovsxbw, pmovsxbd, pmovsxbq, pmovsxwd, pmovsxwq, pmovsxdq
    case pmovzxbw, pmovzxbd, pmovzxbq, pmovzxwd, pmovzxwq, pmovzxdq
    case phminposuw, pshufb
    // Approximations, which do not use MXCSR.
    case rcpps, rcpss, rsqrtps, rsqrtss

    // Floating point under MXCSR: d = op(d, s, immediate).
    case addps, addpd, addss, addsd, subps, subpd, subss, subsd
    case mulps, mulpd, mulss, mulsd, divps, divpd, divss, divsd
    case minps, minpd, minss, minsd, maxps, maxpd, maxss, maxsd
    case sqrtps, sqrtpd, sqrtss, sqrtsd
    case addsubps, addsubpd, haddps, haddpd, hsubps, hsubpd
    case cmpps, cmppd, cmpss, cmpsd
    case roundps, roundpd, roundss, roundsd, dpps, dppd
    case cvtps2pd, cvtpd2ps, cvtss2sd, cvtsd2ss
    case cvtdq2ps, cvtps2dq, cvttps2dq, cvtdq2pd, cvtpd2dq, cvttpd2dq
    // Between vector and other registers, under MXCSR.
    case cvtpi2ps, cvtpi2pd, cvtps2pi, cvttps2pi, cvtpd2pi, cvttpd2pi
    case cvtsi2ss, cvtsi2sd, cvtss2si, cvttss2si, cvtsd2si, cvttsd2si
    case comiss, comisd, ucomiss, ucomisd

    /// Whether the operation reads MXCSR and may raise #XM.
    @inline(__always)
    package var usesMXCSR: Bool { rawValue >= VectorOperation.addps.rawValue }
}
