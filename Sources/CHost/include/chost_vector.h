// SPDX-License-Identifier: Apache-2.0
// SSE instructions of an x86-64 host, one function each: the operands are values, the instruction runs as it is.
// Inline assembly, not intrinsics, so that they inline into code built for the x86-64 baseline.
#pragma once

#if defined(__x86_64__)

#include <cpuid.h>
#include <stdint.h>

/// Whether this processor has the instructions of x86-64-v2: SSE3 to SSE4.2, CMPXCHG16B, POPCNT, and LAHF in 64-bit mode.
static inline int chost_has_x86_64_v2(void) {
    unsigned a, b, c, d;
    const unsigned wanted = 1U << 0 | 1U << 9 | 1U << 13 | 1U << 19 | 1U << 20 | 1U << 23;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & wanted) != wanted) return 0;
    return __get_cpuid(0x80000001, &a, &b, &c, &d) && (c & 1) != 0;
}

/// Whether this processor has the instructions of BMI2.
static inline int chost_has_bmi2(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & 1U << 8) != 0;
}

/// An XMM register: bits 0 to 63, then bits 64 to 127.
typedef struct {
    uint64_t low, high;
} chost_v128;

/// A result, and MXCSR after the instruction.
typedef struct {
    chost_v128 value;
    uint32_t mxcsr;
} chost_v128_mxcsr;

/// An integer result, and MXCSR after the instruction.
typedef struct {
    uint64_t value;
    uint32_t mxcsr;
} chost_u64_mxcsr;

/// The flags of a comparison, and MXCSR after the instruction.
typedef struct {
    uint32_t mxcsr;
    uint8_t zf, pf, cf;
} chost_flags_mxcsr;

typedef uint64_t chost_m128 __attribute__((vector_size(16)));

static inline chost_m128 chost_m128_make(chost_v128 v) { return (chost_m128){v.low, v.high}; }
static inline chost_v128 chost_v128_make(chost_m128 v) { return (chost_v128){v[0], v[1]}; }

/// d = op(d, s).
#define CHOST_VECTOR(op)                                                      \
    static inline chost_v128 chost_##op(chost_v128 d, chost_v128 s) {         \
        chost_m128 r = chost_m128_make(d), t = chost_m128_make(s);            \
        __asm__(#op " %1, %0" : "+x"(r) : "x"(t));                            \
        return chost_v128_make(r);                                            \
    }

/// d = op(d, s) under the control bits of `mxcsr`, whose masks must all be set and flags clear.
#define CHOST_FLOAT_NAMED(name, op)                                                                \
    static inline chost_v128_mxcsr chost_##name(chost_v128 d, chost_v128 s, uint32_t mxcsr) {      \
        chost_m128 r = chost_m128_make(d), t = chost_m128_make(s);                                 \
        uint32_t host;                                                                             \
        __asm__("stmxcsr %[h]\n\tldmxcsr %[c]\n\t" op " %[t], %[r]\n\tstmxcsr %[c]\n\tldmxcsr %[h]" \
                : [r] "+&x"(r), [c] "+m"(mxcsr), [h] "=m"(host)                                    \
                : [t] "x"(t));                                                                     \
        return (chost_v128_mxcsr){chost_v128_make(r), mxcsr};                                      \
    }
#define CHOST_FLOAT(op) CHOST_FLOAT_NAMED(op, #op)
#define CHOST_FLOAT_ALL(op) CHOST_FLOAT(op##ps) CHOST_FLOAT(op##pd) CHOST_FLOAT(op##ss) CHOST_FLOAT(op##sd)
#define CHOST_COMPARE_ALL(name, predicate)                  \
    CHOST_FLOAT_NAMED(name##ps, "cmpps $" #predicate ",")   \
    CHOST_FLOAT_NAMED(name##pd, "cmppd $" #predicate ",")   \
    CHOST_FLOAT_NAMED(name##ss, "cmpss $" #predicate ",")   \
    CHOST_FLOAT_NAMED(name##sd, "cmpsd $" #predicate ",")

/// Comparison to flags; `mxcsr` as above.
#define CHOST_COMPARE_FLAGS(op)                                                                    \
    static inline chost_flags_mxcsr chost_##op(chost_v128 d, chost_v128 s, uint32_t mxcsr) {       \
        chost_m128 r = chost_m128_make(d), t = chost_m128_make(s);                                 \
        uint32_t host;                                                                             \
        uint8_t z, p, c;                                                                           \
        __asm__("stmxcsr %[h]\n\tldmxcsr %[m]\n\t" #op " %[t], %[r]\n\tstmxcsr %[m]\n\tldmxcsr %[h]" \
                : "=@ccz"(z), "=@ccp"(p), "=@ccc"(c), [m] "+m"(mxcsr), [h] "=m"(host)              \
                : [r] "x"(r), [t] "x"(t));                                                         \
        return (chost_flags_mxcsr){mxcsr, z, p, c};                                                \
    }

/// Scalar to integer register; `mxcsr` as above.
#define CHOST_TO_INTEGER(name, op, type)                                                           \
    static inline chost_u64_mxcsr chost_##name(chost_v128 s, uint32_t mxcsr) {                     \
        chost_m128 t = chost_m128_make(s);                                                         \
        uint32_t host;                                                                             \
        type r;                                                                                    \
        __asm__("stmxcsr %[h]\n\tldmxcsr %[c]\n\t" op " %[t], %[r]\n\tstmxcsr %[c]\n\tldmxcsr %[h]" \
                : [r] "=&r"(r), [c] "+m"(mxcsr), [h] "=m"(host)                                    \
                : [t] "x"(t));                                                                     \
        return (chost_u64_mxcsr){r, mxcsr};                                                        \
    }

/// Integer register to scalar; `mxcsr` as above.
#define CHOST_FROM_INTEGER(name, op, type)                                                         \
    static inline chost_v128_mxcsr chost_##name(chost_v128 d, type s, uint32_t mxcsr) {            \
        chost_m128 r = chost_m128_make(d);                                                         \
        uint32_t host;                                                                             \
        __asm__("stmxcsr %[h]\n\tldmxcsr %[c]\n\t" op " %[s], %[r]\n\tstmxcsr %[c]\n\tldmxcsr %[h]" \
                : [r] "+&x"(r), [c] "+m"(mxcsr), [h] "=m"(host)                                    \
                : [s] "r"(s));                                                                     \
        return (chost_v128_mxcsr){chost_v128_make(r), mxcsr};                                      \
    }

CHOST_VECTOR(paddb) CHOST_VECTOR(paddw) CHOST_VECTOR(paddd) CHOST_VECTOR(paddq)
CHOST_VECTOR(psubb) CHOST_VECTOR(psubw) CHOST_VECTOR(psubd) CHOST_VECTOR(psubq)
CHOST_VECTOR(paddsb) CHOST_VECTOR(paddsw) CHOST_VECTOR(paddusb) CHOST_VECTOR(paddusw)
CHOST_VECTOR(psubsb) CHOST_VECTOR(psubsw) CHOST_VECTOR(psubusb) CHOST_VECTOR(psubusw)
CHOST_VECTOR(pmullw) CHOST_VECTOR(pmulhw) CHOST_VECTOR(pmulhuw) CHOST_VECTOR(pmulhrsw)
CHOST_VECTOR(pmulld) CHOST_VECTOR(pmuludq) CHOST_VECTOR(pmuldq)
CHOST_VECTOR(pmaddwd) CHOST_VECTOR(pmaddubsw) CHOST_VECTOR(psadbw)
CHOST_VECTOR(pavgb) CHOST_VECTOR(pavgw)
CHOST_VECTOR(pminub) CHOST_VECTOR(pminsb) CHOST_VECTOR(pminuw) CHOST_VECTOR(pminsw)
CHOST_VECTOR(pminud) CHOST_VECTOR(pminsd)
CHOST_VECTOR(pmaxub) CHOST_VECTOR(pmaxsb) CHOST_VECTOR(pmaxuw) CHOST_VECTOR(pmaxsw)
CHOST_VECTOR(pmaxud) CHOST_VECTOR(pmaxsd)
CHOST_VECTOR(pcmpeqb) CHOST_VECTOR(pcmpeqw) CHOST_VECTOR(pcmpeqd) CHOST_VECTOR(pcmpeqq)
CHOST_VECTOR(pcmpgtb) CHOST_VECTOR(pcmpgtw) CHOST_VECTOR(pcmpgtd) CHOST_VECTOR(pcmpgtq)
CHOST_VECTOR(packsswb) CHOST_VECTOR(packuswb) CHOST_VECTOR(packssdw) CHOST_VECTOR(packusdw)
CHOST_VECTOR(pshufb)
CHOST_VECTOR(phaddw) CHOST_VECTOR(phaddd) CHOST_VECTOR(phaddsw)
CHOST_VECTOR(phsubw) CHOST_VECTOR(phsubd) CHOST_VECTOR(phsubsw)
CHOST_VECTOR(psignb) CHOST_VECTOR(psignw) CHOST_VECTOR(psignd)
CHOST_VECTOR(pabsb) CHOST_VECTOR(pabsw) CHOST_VECTOR(pabsd)
CHOST_VECTOR(psllw) CHOST_VECTOR(pslld) CHOST_VECTOR(psllq)
CHOST_VECTOR(psrlw) CHOST_VECTOR(psrld) CHOST_VECTOR(psrlq)
CHOST_VECTOR(psraw) CHOST_VECTOR(psrad)
CHOST_VECTOR(pmovsxbw) CHOST_VECTOR(pmovsxbd) CHOST_VECTOR(pmovsxbq)
CHOST_VECTOR(pmovsxwd) CHOST_VECTOR(pmovsxwq) CHOST_VECTOR(pmovsxdq)
CHOST_VECTOR(pmovzxbw) CHOST_VECTOR(pmovzxbd) CHOST_VECTOR(pmovzxbq)
CHOST_VECTOR(pmovzxwd) CHOST_VECTOR(pmovzxwq) CHOST_VECTOR(pmovzxdq)
CHOST_VECTOR(phminposuw)
// Approximations: they raise nothing and obey no rounding mode.
CHOST_VECTOR(rcpps) CHOST_VECTOR(rcpss) CHOST_VECTOR(rsqrtps) CHOST_VECTOR(rsqrtss)

/// MPSADBW with both blocks at offset 0.
static inline chost_v128 chost_mpsadbw(chost_v128 d, chost_v128 s) {
    chost_m128 r = chost_m128_make(d), t = chost_m128_make(s);
    __asm__("mpsadbw $0, %1, %0" : "+x"(r) : "x"(t));
    return chost_v128_make(r);
}

CHOST_FLOAT_ALL(add) CHOST_FLOAT_ALL(sub) CHOST_FLOAT_ALL(mul) CHOST_FLOAT_ALL(div)
CHOST_FLOAT_ALL(min) CHOST_FLOAT_ALL(max) CHOST_FLOAT_ALL(sqrt)
CHOST_FLOAT(addsubps) CHOST_FLOAT(addsubpd)
CHOST_FLOAT(haddps) CHOST_FLOAT(haddpd) CHOST_FLOAT(hsubps) CHOST_FLOAT(hsubpd)
CHOST_COMPARE_ALL(cmpeq, 0) CHOST_COMPARE_ALL(cmplt, 1) CHOST_COMPARE_ALL(cmple, 2) CHOST_COMPARE_ALL(cmpunord, 3)
CHOST_FLOAT(cvtps2pd) CHOST_FLOAT(cvtpd2ps) CHOST_FLOAT(cvtss2sd) CHOST_FLOAT(cvtsd2ss)
CHOST_FLOAT(cvtdq2ps) CHOST_FLOAT(cvtps2dq) CHOST_FLOAT(cvttps2dq)
CHOST_FLOAT(cvtdq2pd) CHOST_FLOAT(cvtpd2dq) CHOST_FLOAT(cvttpd2dq)
// Rounding mode from MXCSR, inexact reported.
CHOST_FLOAT_NAMED(roundps, "roundps $4,") CHOST_FLOAT_NAMED(roundpd, "roundpd $4,")
CHOST_FLOAT_NAMED(roundss, "roundss $4,") CHOST_FLOAT_NAMED(roundsd, "roundsd $4,")
// All elements in, the sum to all elements.
CHOST_FLOAT_NAMED(dpps, "dpps $255,") CHOST_FLOAT_NAMED(dppd, "dppd $255,")

CHOST_COMPARE_FLAGS(comiss) CHOST_COMPARE_FLAGS(comisd) CHOST_COMPARE_FLAGS(ucomiss) CHOST_COMPARE_FLAGS(ucomisd)

CHOST_TO_INTEGER(cvtss2si32, "cvtss2si", uint32_t) CHOST_TO_INTEGER(cvtss2si64, "cvtss2si", uint64_t)
CHOST_TO_INTEGER(cvtsd2si32, "cvtsd2si", uint32_t) CHOST_TO_INTEGER(cvtsd2si64, "cvtsd2si", uint64_t)
CHOST_TO_INTEGER(cvttss2si32, "cvttss2si", uint32_t) CHOST_TO_INTEGER(cvttss2si64, "cvttss2si", uint64_t)
CHOST_TO_INTEGER(cvttsd2si32, "cvttsd2si", uint32_t) CHOST_TO_INTEGER(cvttsd2si64, "cvttsd2si", uint64_t)

CHOST_FROM_INTEGER(cvtsi2ss32, "cvtsi2ssl", uint32_t) CHOST_FROM_INTEGER(cvtsi2ss64, "cvtsi2ssq", uint64_t)
CHOST_FROM_INTEGER(cvtsi2sd32, "cvtsi2sdl", uint32_t) CHOST_FROM_INTEGER(cvtsi2sd64, "cvtsi2sdq", uint64_t)

#endif
