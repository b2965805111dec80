// SPDX-License-Identifier: Apache-2.0
// Named CPU models: what CPUID says, a contract that a bundle records. Intel SDM volume 2, CPUID; AMD APM volume 3, E.

/// The four registers that CPUID answers with.
public struct CPUIDResult: Equatable, Sendable {
    public var eax: UInt32
    public var ebx: UInt32
    public var ecx: UInt32
    public var edx: UInt32

    public init(eax: UInt32 = 0, ebx: UInt32 = 0, ecx: UInt32 = 0, edx: UInt32 = 0) {
        self.eax = eax
        self.ebx = ebx
        self.ecx = ecx
        self.edx = edx
    }
}

/// A CPU model that a guest can rely on.
public enum CPUModel: String, Codable, CaseIterable, Sendable {
    /// The x86-64 psABI's first level: SSE2, and neither CMPXCHG16B nor RDTSCP. For hosts whose KVM has no more to offer.
    case x86_64 = "x86-64"
    /// The x86-64 psABI's second level: SSE4.2, POPCNT, CMPXCHG16B; without XSAVE, so that state is the same everywhere.
    case x86_64_v2 = "x86-64-v2"

    /// Guest TSC ticks a second, as the hypervisor leaf gives it.
    private static let tscKilohertz: UInt32 = 1_000_000

    /// CPUID leaf `leaf`, subleaf `subleaf`, of processor `index` of `count`.
    /// `osxsave` and other bits that follow control registers do not occur in this model.
    public func cpuid(leaf: UInt32, subleaf: UInt32, index: Int, count: Int) -> CPUIDResult {
        let apicID = UInt32(truncatingIfNeeded: index)
        let processors = UInt32(truncatingIfNeeded: count)
        switch leaf {
        // "AuthenticAMD": a vendor whose processors are free of Meltdown, so that kernels need no page-table isolation.
        case 0: return CPUIDResult(eax: 7, ebx: 0x6874_7541, ecx: 0x444d_4163, edx: 0x6974_6e65)
        case 1:
            return CPUIDResult(
                eax: Self.signature, ebx: apicID << 24 | processors << 16 | 8 << 8, ecx: featuresECX,
                edx: Self.featuresEDX)
        case 6: return CPUIDResult(eax: 1 << 2)  // ARAT: the APIC timer never stops
        case 7:
            // SMEP, SMAP; ERMS and FSRM: string instructions are fast.
            let protections: UInt32 = self == .x86_64 ? 0 : 1 << 7 | 1 << 20
            return subleaf == 0 ? CPUIDResult(ebx: protections | 1 << 9, edx: 1 << 4) : CPUIDResult()
        case 0x4000_0000: return CPUIDResult(eax: 0x4000_0010, ebx: 0x4b4d_564b, ecx: 0x564b_4d56, edx: 0x4d)
        // KVM features: CLOCKSOURCE2, no I/O delay, stable clock.
        case 0x4000_0001: return CPUIDResult(eax: 1 << 1 | 1 << 3 | 1 << 24)
        case 0x4000_0010: return CPUIDResult(eax: Self.tscKilohertz, ebx: 1_000_000)
        case 0x8000_0000: return CPUIDResult(eax: 0x8000_0008, ebx: 0x6874_7541, ecx: 0x444d_4163, edx: 0x6974_6e65)
        case 0x8000_0001:
            // SYSCALL, NX, long mode; from the second level on LAHF and RDTSCP.
            let common: UInt32 = 1 << 11 | 1 << 20 | 1 << 29 | Self.sharedEDX
            return self == .x86_64
                ? CPUIDResult(eax: Self.signature, edx: common)
                : CPUIDResult(eax: Self.signature, ecx: 1, edx: common | 1 << 27)
        case 0x8000_0002...0x8000_0004: return brand(leaf - 0x8000_0002)
        // No invariant TSC: a kernel would take it for its clock, and a host that cannot scale its own would speed it up.
        case 0x8000_0007: return CPUIDResult()
        case 0x8000_0008: return CPUIDResult(eax: 48 << 8 | 40, ecx: max(processors, 1) - 1)
        default: return CPUIDResult()
        }
    }

    /// Family 15, model 107, stepping 1: a generic 64-bit AMD processor to every kernel.
    private static let signature: UInt32 = 0x0006_0fb1

    /// TSC deadline timer, hypervisor; from the second level on SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT.
    private var featuresECX: UInt32 {
        let common: UInt32 = 1 << 24 | 1 << 31
        return self == .x86_64 ? common : common | 1 << 0 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23
    }

    /// FPU, DE, PSE, TSC, MSR, PAE, CX8, APIC, PGE, CMOV, PAT, PSE36, MMX, FXSR.
    private static let sharedEDX: UInt32 =
        1 << 0 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 13 | 1 << 15 | 1 << 16 | 1 << 17
        | 1 << 23 | 1 << 24

    /// The shared features, SYSENTER, CLFLUSH, SSE, SSE2.
    private static let featuresEDX: UInt32 = sharedEDX | 1 << 11 | 1 << 19 | 1 << 25 | 1 << 26

    /// Sixteen bytes of the brand string.
    private func brand(_ part: UInt32) -> CPUIDResult {
        let text = Array("smolvmm \(rawValue) processor".utf8)
        func word(_ number: Int) -> UInt32 {
            var value: UInt32 = 0
            for byte in 0..<4 {
                let position = Int(part) * 16 + number * 4 + byte
                if position < text.count { value |= UInt32(text[position]) << UInt32(byte * 8) }
            }
            return value
        }
        return CPUIDResult(eax: word(0), ebx: word(1), ecx: word(2), edx: word(3))
    }
}
