// SPDX-License-Identifier: Apache-2.0
// Floating-point vector operations under MXCSR, by the same instruction of an x86-64 host. Intel SDM volume 1, chapter 11.

/// MXCSR. SDM volume 1, figure 10-3.
package enum MXCSR {
    package static let exceptions: UInt32 = 0x3f
    /// IE, DE and ZE: found before the operation computes.
    package static let exceptionsBefore: UInt32 = 0x07
    package static let overflow: UInt32 = 1 << 3  // OE
    package static let underflow: UInt32 = 1 << 4  // UE
    package static let precision: UInt32 = 1 << 5  // PE
    package static let masks: UInt32 = 0x1f80
    package static let underflowMask: UInt32 = 1 << 11  // UM
    package static let roundingShift: UInt32 = 13
    package static let rounding: UInt32 = 3 << 13  // RC
    package static let flushToZero: UInt32 = 1 << 15  // FTZ
    package static let writable: UInt32 = 0xffff
    package static let reset: UInt32 = 0x1f80

    /// What the host runs an operation with: all exceptions masked, no flag set yet.
    ///
    /// An unmasked underflow is raised for exact tiny results too. Flush-to-zero makes the host report those, and
    /// changes no result that is delivered then.
    @inline(__always)
    package static func control(_ mxcsr: UInt32) -> UInt32 {
        let control = mxcsr & ~exceptions & writable | masks
        return mxcsr & underflowMask == 0 ? control | flushToZero : control
    }

    /// Flags of `raised` that the processor reports under the masks of `mxcsr`, and whether that is #XM.
    package static func report(_ raised: UInt32, _ mxcsr: UInt32) -> (flags: UInt32, faults: Bool) {
        let unmasked = raised & ~(mxcsr >> 7) & exceptions
        if unmasked == 0 { return (raised, false) }
        // Exceptions that are found before the operation computes keep it from computing.
        if unmasked & exceptionsBefore != 0 { return (raised & exceptionsBefore, true) }
        // An unmasked underflow is not also inexact.
        if unmasked & underflow != 0, raised & overflow == 0 { return (raised & ~precision, true) }
        return (raised, true)
    }
}

/// A result, and the exception flags that computing it raised.
package struct VectorFloatResult {
    package var value: Vector128
    package var raised: UInt32

    @inline(__always)
    package init(_ value: Vector128, raised: UInt32) {
        self.value = value
        self.raised = raised & MXCSR.exceptions
    }
}

/// CMPPS and its like: predicates 4 to 7 are 0 to 3 negated, and raise the same.
///
/// `body` compares with predicate 0 to 3.
@inline(__always)
func vectorCompare(
    _ operation: VectorOperation, _ imm: UInt8, _ body: (UInt8) -> VectorFloatResult
) -> VectorFloatResult {
    var result = body(imm & 3)
    guard imm & 4 != 0 else { return result }
    switch operation {
    case .cmpss: result.value.low ^= 0xffff_ffff
    case .cmpsd: result.value.low = ~result.value.low
    default: result.value = Vector128(low: ~result.value.low, high: ~result.value.high)
    }
    return result
}

/// DPPS and DPPD: lanes that bits 4 to 7 leave out are zero, and raise nothing.
@inline(__always)
func vectorDotProduct(
    _ operation: VectorOperation, _ d: Vector128, _ s: Vector128, _ imm: UInt8,
    _ body: (Vector128, Vector128) -> VectorFloatResult
) -> VectorFloatResult {
    let blend: VectorOperation = operation == .dpps ? .blendps : .blendpd
    func keep(_ value: Vector128, _ lanes: UInt8) -> Vector128 {
        vectorRearrangement(blend, .zero, value, imm: lanes)
    }
    var result = body(keep(d, imm >> 4), keep(s, imm >> 4))
    result.value = keep(result.value, imm)
    return result
}

/// The control bits and the flags to drop for ROUNDPS and its like.
@inline(__always)
func vectorRounding(
    _ imm: UInt8, _ control: UInt32, _ body: (UInt32) -> VectorFloatResult
) -> VectorFloatResult {
    let mode = imm & 4 != 0 ? control : control & ~MXCSR.rounding | UInt32(imm & 3) << MXCSR.roundingShift
    var result = body(mode)
    if imm & 8 != 0 { result.raised &= ~MXCSR.precision }
    return result
}

#if arch(x86_64)
    internal import CHost

    extension VectorFloatResult {
        @inline(__always)
        init(_ result: chost_v128_mxcsr) { self.init(Vector128(result.value), raised: result.mxcsr) }
    }

    /// The result of an operation from `addps` to `cvttpd2dq`; `control` comes from `MXCSR.control`.
    package func vectorFloat(
        _ operation: VectorOperation, _ d: Vector128, _ s: Vector128, imm: UInt8, control: UInt32
    ) -> VectorFloatResult {
        let (a, b) = (d.host, s.host)
        switch operation {
        case .addps: return VectorFloatResult(chost_addps(a, b, control))
        case .addpd: return VectorFloatResult(chost_addpd(a, b, control))
        case .addss: return VectorFloatResult(chost_addss(a, b, control))
        case .addsd: return VectorFloatResult(chost_addsd(a, b, control))
        case .subps: return VectorFloatResult(chost_subps(a, b, control))
        case .subpd: return VectorFloatResult(chost_subpd(a, b, control))
        case .subss: return VectorFloatResult(chost_subss(a, b, control))
        case .subsd: return VectorFloatResult(chost_subsd(a, b, control))
        case .mulps: return VectorFloatResult(chost_mulps(a, b, control))
        case .mulpd: return VectorFloatResult(chost_mulpd(a, b, control))
        case .mulss: return VectorFloatResult(chost_mulss(a, b, control))
        case .mulsd: return VectorFloatResult(chost_mulsd(a, b, control))
        case .divps: return VectorFloatResult(chost_divps(a, b, control))
        case .divpd: return VectorFloatResult(chost_divpd(a, b, control))
        case .divss: return VectorFloatResult(chost_divss(a, b, control))
        case .divsd: return VectorFloatResult(chost_divsd(a, b, control))
        case .minps: return VectorFloatResult(chost_minps(a, b, control))
        case .minpd: return VectorFloatResult(chost_minpd(a, b, control))
        case .minss: return VectorFloatResult(chost_minss(a, b, control))
        case .minsd: return VectorFloatResult(chost_minsd(a, b, control))
        case .maxps: return VectorFloatResult(chost_maxps(a, b, control))
        case .maxpd: return VectorFloatResult(chost_maxpd(a, b, control))
        case .maxss: return VectorFloatResult(chost_maxss(a, b, control))
        case .maxsd: return VectorFloatResult(chost_maxsd(a, b, control))
        case .sqrtps: return VectorFloatResult(chost_sqrtps(a, b, control))
        case .sqrtpd: return VectorFloatResult(chost_sqrtpd(a, b, control))
        case .sqrtss: return VectorFloatResult(chost_sqrtss(a, b, control))
        case .sqrtsd: return VectorFloatResult(chost_sqrtsd(a, b, control))
        case .addsubps: return VectorFloatResult(chost_addsubps(a, b, control))
        case .addsubpd: return VectorFloatResult(chost_addsubpd(a, b, control))
        case .haddps: return VectorFloatResult(chost_haddps(a, b, control))
        case .haddpd: return VectorFloatResult(chost_haddpd(a, b, control))
        case .hsubps: return VectorFloatResult(chost_hsubps(a, b, control))
        case .hsubpd: return VectorFloatResult(chost_hsubpd(a, b, control))
        case .cvtps2pd: return VectorFloatResult(chost_cvtps2pd(a, b, control))
        case .cvtpd2ps: return VectorFloatResult(chost_cvtpd2ps(a, b, control))
        case .cvtss2sd: return VectorFloatResult(chost_cvtss2sd(a, b, control))
        case .cvtsd2ss: return VectorFloatResult(chost_cvtsd2ss(a, b, control))
        case .cvtdq2ps: return VectorFloatResult(chost_cvtdq2ps(a, b, control))
        case .cvtps2dq: return VectorFloatResult(chost_cvtps2dq(a, b, control))
        case .cvttps2dq: return VectorFloatResult(chost_cvttps2dq(a, b, control))
        case .cvtdq2pd: return VectorFloatResult(chost_cvtdq2pd(a, b, control))
        case .cvtpd2dq: return VectorFloatResult(chost_cvtpd2dq(a, b, control))
        case .cvttpd2dq: return VectorFloatResult(chost_cvttpd2dq(a, b, control))
        case .cmpps:
            return vectorCompare(operation, imm) { predicate in
                switch predicate {
                case 0: VectorFloatResult(chost_cmpeqps(a, b, control))
                case 1: VectorFloatResult(chost_cmpltps(a, b, control))
                case 2: VectorFloatResult(chost_cmpleps(a, b, control))
                default: VectorFloatResult(chost_cmpunordps(a, b, control))
                }
            }
        case .cmppd:
            return vectorCompare(operation, imm) { predicate in
                switch predicate {
                case 0: VectorFloatResult(chost_cmpeqpd(a, b, control))
                case 1: VectorFloatResult(chost_cmpltpd(a, b, control))
                case 2: VectorFloatResult(chost_cmplepd(a, b, control))
                default: VectorFloatResult(chost_cmpunordpd(a, b, control))
                }
            }
        case .cmpss:
            return vectorCompare(operation, imm) { predicate in
                switch predicate {
                case 0: VectorFloatResult(chost_cmpeqss(a, b, control))
                case 1: VectorFloatResult(chost_cmpltss(a, b, control))
                case 2: VectorFloatResult(chost_cmpless(a, b, control))
                default: VectorFloatResult(chost_cmpunordss(a, b, control))
                }
            }
        case .cmpsd:
            return vectorCompare(operation, imm) { predicate in
                switch predicate {
                case 0: VectorFloatResult(chost_cmpeqsd(a, b, control))
                case 1: VectorFloatResult(chost_cmpltsd(a, b, control))
                case 2: VectorFloatResult(chost_cmplesd(a, b, control))
                default: VectorFloatResult(chost_cmpunordsd(a, b, control))
                }
            }
        case .roundps: return vectorRounding(imm, control) { VectorFloatResult(chost_roundps(a, b, $0)) }
        case .roundpd: return vectorRounding(imm, control) { VectorFloatResult(chost_roundpd(a, b, $0)) }
        case .roundss: return vectorRounding(imm, control) { VectorFloatResult(chost_roundss(a, b, $0)) }
        case .roundsd: return vectorRounding(imm, control) { VectorFloatResult(chost_roundsd(a, b, $0)) }
        case .dpps:
            return vectorDotProduct(operation, d, s, imm) { VectorFloatResult(chost_dpps($0.host, $1.host, control)) }
        case .dppd:
            return vectorDotProduct(operation, d, s, imm) { VectorFloatResult(chost_dppd($0.host, $1.host, control)) }
        default: return VectorFloatResult(d, raised: 0)
        }
    }

    /// CVTSI2SS and CVTSI2SD.
    package func vectorFromInteger(
        _ operation: VectorOperation, isWide: Bool, _ d: Vector128, _ value: UInt64, control: UInt32
    ) -> VectorFloatResult {
        let narrow = UInt32(truncatingIfNeeded: value)
        if operation == .cvtsi2ss {
            return VectorFloatResult(
                isWide ? chost_cvtsi2ss64(d.host, value, control) : chost_cvtsi2ss32(d.host, narrow, control))
        }
        return VectorFloatResult(
            isWide ? chost_cvtsi2sd64(d.host, value, control) : chost_cvtsi2sd32(d.host, narrow, control))
    }

    /// CVTSS2SI, CVTSD2SI and the truncating forms; the integer is in `value.low`.
    package func vectorToInteger(
        _ operation: VectorOperation, isWide: Bool, _ s: Vector128, control: UInt32
    ) -> VectorFloatResult {
        let result =
            switch operation {
            case .cvtss2si: isWide ? chost_cvtss2si64(s.host, control) : chost_cvtss2si32(s.host, control)
            case .cvttss2si: isWide ? chost_cvttss2si64(s.host, control) : chost_cvttss2si32(s.host, control)
            case .cvtsd2si: isWide ? chost_cvtsd2si64(s.host, control) : chost_cvtsd2si32(s.host, control)
            default: isWide ? chost_cvttsd2si64(s.host, control) : chost_cvttsd2si32(s.host, control)
            }
        return VectorFloatResult(Vector128(low: result.value), raised: result.mxcsr)
    }

    /// COMISS and its like.
    package func vectorCompareFlags(
        _ operation: VectorOperation, _ d: Vector128, _ s: Vector128, control: UInt32
    ) -> (zero: Bool, parity: Bool, carry: Bool, raised: UInt32) {
        let result =
            switch operation {
            case .comiss: chost_comiss(d.host, s.host, control)
            case .comisd: chost_comisd(d.host, s.host, control)
            case .ucomiss: chost_ucomiss(d.host, s.host, control)
            default: chost_ucomisd(d.host, s.host, control)
            }
        return (result.zf != 0, result.pf != 0, result.cf != 0, result.mxcsr & MXCSR.exceptions)
    }
#endif
