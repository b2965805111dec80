// SPDX-License-Identifier: Apache-2.0
// Features that CPUID tells of, by name, and where it has them. Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E.

/// The registers that CPUID answers in.
public enum CPUIDRegister: Sendable {
    case eax, ebx, ecx, edx

    var place: WritableKeyPath<CPUIDResult, UInt32> {
        switch self {
        case .eax: \.eax
        case .ebx: \.ebx
        case .ecx: \.ecx
        case .edx: \.edx
        }
    }
}

/// Where CPUID has a feature.
public struct CPUIDBit: Sendable {
    public let leaf: UInt32
    public let subleaf: UInt32
    public let register: CPUIDRegister
    public let bit: UInt32

    init(_ leaf: UInt32, _ register: CPUIDRegister, _ bit: UInt32, subleaf: UInt32 = 0) {
        self.leaf = leaf
        self.subleaf = subleaf
        self.register = register
        self.bit = bit
    }

    /// Whether `result`, the answer of this leaf, has it.
    public func isSet(in result: CPUIDResult) -> Bool { result[keyPath: register.place] & 1 << bit != 0 }
}

/// A feature of a processor that a guest can rely on, named as Linux does in /proc/cpuinfo where it has a name.
///
/// What changes a processor's state is here only when `CPUState` has that state: no AVX-512, no protection keys, no XSAVES.
public enum CPUFeature: String, CaseIterable, Sendable {
    case fpu, de, pse, tsc, msr, pae, cx8, apic, sep, pge, cmov, pat, pse36, clflush, mmx, fxsr, sse, sse2
    case syscall, nx, lm
    case sse3, ssse3, cx16, sse4_1, sse4_2, popcnt, lahf_lm, rdtscp, smep, smap
    case xsave, avx, avx2, fma, f16c, movbe, bmi1, bmi2, lzcnt
    case aes, pclmulqdq, rdrand, rdseed, adx, sha_ni, fsgsbase, pcid, invpcid, clflushopt, clwb, umip, gfni, rdpid
    case vaes, vpclmulqdq, xsaveopt, xsavec, xgetbv1, sse4a, prefetchw, pdpe1gb

    public var bit: CPUIDBit {
        switch self {
        case .fpu: CPUIDBit(1, .edx, 0)
        case .de: CPUIDBit(1, .edx, 2)
        case .pse: CPUIDBit(1, .edx, 3)
        case .tsc: CPUIDBit(1, .edx, 4)
        case .msr: CPUIDBit(1, .edx, 5)
        case .pae: CPUIDBit(1, .edx, 6)
        case .cx8: CPUIDBit(1, .edx, 8)
        case .apic: CPUIDBit(1, .edx, 9)
        case .sep: CPUIDBit(1, .edx, 11)
        case .pge: CPUIDBit(1, .edx, 13)
        case .cmov: CPUIDBit(1, .edx, 15)
        case .pat: CPUIDBit(1, .edx, 16)
        case .pse36: CPUIDBit(1, .edx, 17)
        case .clflush: CPUIDBit(1, .edx, 19)
        case .mmx: CPUIDBit(1, .edx, 23)
        case .fxsr: CPUIDBit(1, .edx, 24)
        case .sse: CPUIDBit(1, .edx, 25)
        case .sse2: CPUIDBit(1, .edx, 26)
        case .sse3: CPUIDBit(1, .ecx, 0)
        case .pclmulqdq: CPUIDBit(1, .ecx, 1)
        case .ssse3: CPUIDBit(1, .ecx, 9)
        case .fma: CPUIDBit(1, .ecx, 12)
        case .cx16: CPUIDBit(1, .ecx, 13)
        case .pcid: CPUIDBit(1, .ecx, 17)
        case .sse4_1: CPUIDBit(1, .ecx, 19)
        case .sse4_2: CPUIDBit(1, .ecx, 20)
        case .movbe: CPUIDBit(1, .ecx, 22)
        case .popcnt: CPUIDBit(1, .ecx, 23)
        case .aes: CPUIDBit(1, .ecx, 25)
        case .xsave: CPUIDBit(1, .ecx, 26)
        case .avx: CPUIDBit(1, .ecx, 28)
        case .f16c: CPUIDBit(1, .ecx, 29)
        case .rdrand: CPUIDBit(1, .ecx, 30)
        case .fsgsbase: CPUIDBit(7, .ebx, 0)
        case .bmi1: CPUIDBit(7, .ebx, 3)
        case .avx2: CPUIDBit(7, .ebx, 5)
        case .smep: CPUIDBit(7, .ebx, 7)
        case .bmi2: CPUIDBit(7, .ebx, 8)
        case .invpcid: CPUIDBit(7, .ebx, 10)
        case .rdseed: CPUIDBit(7, .ebx, 18)
        case .adx: CPUIDBit(7, .ebx, 19)
        case .smap: CPUIDBit(7, .ebx, 20)
        case .clflushopt: CPUIDBit(7, .ebx, 23)
        case .clwb: CPUIDBit(7, .ebx, 24)
        case .sha_ni: CPUIDBit(7, .ebx, 29)
        case .umip: CPUIDBit(7, .ecx, 2)
        case .gfni: CPUIDBit(7, .ecx, 8)
        case .vaes: CPUIDBit(7, .ecx, 9)
        case .vpclmulqdq: CPUIDBit(7, .ecx, 10)
        case .rdpid: CPUIDBit(7, .ecx, 22)
        case .xsaveopt: CPUIDBit(13, .eax, 0, subleaf: 1)
        case .xsavec: CPUIDBit(13, .eax, 1, subleaf: 1)
        case .xgetbv1: CPUIDBit(13, .eax, 2, subleaf: 1)
        case .lahf_lm: CPUIDBit(0x8000_0001, .ecx, 0)
        case .lzcnt: CPUIDBit(0x8000_0001, .ecx, 5)
        case .sse4a: CPUIDBit(0x8000_0001, .ecx, 6)
        case .prefetchw: CPUIDBit(0x8000_0001, .ecx, 8)
        case .syscall: CPUIDBit(0x8000_0001, .edx, 11)
        case .nx: CPUIDBit(0x8000_0001, .edx, 20)
        case .pdpe1gb: CPUIDBit(0x8000_0001, .edx, 26)
        case .rdtscp: CPUIDBit(0x8000_0001, .edx, 27)
        case .lm: CPUIDBit(0x8000_0001, .edx, 29)
        }
    }

    /// The feature without which this one cannot be.
    var prerequisite: CPUFeature? {
        switch self {
        case .avx, .xsaveopt, .xsavec, .xgetbv1: .xsave
        case .avx2, .fma, .f16c, .vaes, .vpclmulqdq: .avx
        default: nil
        }
    }
}
