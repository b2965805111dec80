// SPDX-License-Identifier: Apache-2.0
// CPU models: what CPUID says, a contract that a bundle records. Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E.

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

/// A CPU model that a guest can rely on: a level, and features beyond it.
public struct CPUModel: Hashable, Sendable {
    /// The levels of the x86-64 psABI, lowest first, with what kernels want besides.
    public enum Level: String, CaseIterable, Sendable {
        /// SSE2, and neither CMPXCHG16B nor RDTSCP. For hosts whose KVM has no more to offer.
        case v1 = "x86-64"
        /// SSE4.2, POPCNT, CMPXCHG16B; without XSAVE, so that state is the same everywhere.
        case v2 = "x86-64-v2"
        /// AVX2, FMA, BMI2: what compilers ask for on processors since about 2015. Hardware only.
        case v3 = "x86-64-v3"

        var features: Set<CPUFeature> {
            switch self {
            case .v1:
                [
                    .fpu, .de, .pse, .tsc, .msr, .pae, .cx8, .apic, .sep, .pge, .cmov, .pat, .pse36, .clflush, .mmx,
                    .fxsr, .sse, .sse2, .syscall, .nx, .lm,
                ]
            case .v2:
                Level.v1.features.union([
                    .sse3, .ssse3, .cx16, .sse4_1, .sse4_2, .popcnt, .lahf_lm, .rdtscp, .smep, .smap,
                ])
            case .v3:
                Level.v2.features.union([.xsave, .avx, .avx2, .fma, .f16c, .movbe, .bmi1, .bmi2, .lzcnt])
            }
        }
    }

    public static let x86_64 = CPUModel(.v1)
    public static let x86_64_v2 = CPUModel(.v2)

    public let level: Level
    public let features: Set<CPUFeature>

    /// `level` with `extras`, and what those need.
    public init(_ level: Level, extras: some Sequence<CPUFeature> = EmptyCollection()) {
        self.level = level
        var features = level.features
        for extra in extras {
            for feature in sequence(first: extra, next: \.prerequisite) { features.insert(feature) }
        }
        self.features = features
    }

    /// The highest level all of whose features are `offered`, with everything else that is; nil when not even the first is.
    public init?(offered: Set<CPUFeature>) {
        guard let level = Level.allCases.last(where: { $0.features.isSubset(of: offered) }) else { return nil }
        // Nothing is taken whose prerequisite is not there.
        let extras = offered.filter { sequence(first: $0, next: \.prerequisite).allSatisfy(offered.contains) }
        self.init(level, extras: extras)
    }

    /// `LEVEL[+FEATURE…]`, its features in the order of `CPUFeature`.
    public var name: String {
        let extras = CPUFeature.allCases.filter { features.contains($0) && !level.features.contains($0) }
        return ([level.rawValue] + extras.map(\.rawValue)).joined(separator: "+")
    }

    /// What is wrong with a model's name: the part of it that nobody knows.
    public struct UnknownPart: Error, Equatable {
        public let part: String
        public let isLevel: Bool
    }

    /// The model of this name.
    public init(name: String) throws(UnknownPart) {
        let parts = name.split(separator: "+", omittingEmptySubsequences: false).map(String.init)
        guard let level = Level(rawValue: parts[0]) else { throw UnknownPart(part: parts[0], isLevel: true) }
        var extras: [CPUFeature] = []
        for part in parts.dropFirst() {
            guard let feature = CPUFeature(rawValue: part) else { throw UnknownPart(part: part, isLevel: false) }
            extras.append(feature)
        }
        self.init(level, extras: extras)
    }

    // MARK: CPUID

    /// Guest TSC ticks a second, as the hypervisor leaf gives it.
    private static let tscKilohertz: UInt32 = 1_000_000
    /// "AuthenticAMD": a vendor whose processors are free of Meltdown, so that kernels need no page-table isolation.
    private static let vendor = CPUIDResult(eax: 0, ebx: 0x6874_7541, ecx: 0x444d_4163, edx: 0x6974_6e65)
    /// Family 15, model 107, stepping 1: a generic 64-bit AMD processor to every kernel.
    private static let signature: UInt32 = 0x0006_0fb1
    private static let leavesWithSubleaves: Set<UInt32> = [7, 13]
    /// Bits of leaf 1 that AMD repeats in leaf 8000_0001.
    private static let repeated: UInt32 = 0x0183_f3ff
    /// Bytes of an XSAVE area: the legacy region and the header, then the upper halves of YMM0 to YMM15.
    private static let extendedSizes: (legacy: UInt32, upperHalves: UInt32) = (576, 256)

    /// CPUID leaf `leaf`, subleaf `subleaf`, which counts for leaves that have some, of processor `index` of `count`.
    /// OSXSAVE and the size of the XSAVE area in use, which follow control registers, are the backend's.
    public func cpuid(leaf: UInt32, subleaf: UInt32, index: Int, count: Int) -> CPUIDResult {
        let subleaf = Self.leavesWithSubleaves.contains(leaf) ? subleaf : 0
        var result = frame(leaf, subleaf, index: index, count: count)
        for feature in features where feature.bit.leaf == leaf && feature.bit.subleaf == subleaf {
            result[keyPath: feature.bit.register.place] |= 1 << feature.bit.bit
        }
        if leaf == 0x8000_0001 {
            result.edx |= cpuid(leaf: 1, subleaf: 0, index: index, count: count).edx & Self.repeated
        }
        return result
    }

    /// What CPUID says beside features.
    private func frame(_ leaf: UInt32, _ subleaf: UInt32, index: Int, count: Int) -> CPUIDResult {
        let apicID = UInt32(truncatingIfNeeded: index)
        let processors = UInt32(truncatingIfNeeded: count)
        switch leaf {
        case 0, 0x8000_0000:
            var result = Self.vendor
            result.eax = leaf == 0 ? (features.contains(.xsave) ? 13 : 7) : 0x8000_0008
            return result
        case 1:
            // TSC deadline timer, which local APICs here always have; hypervisor.
            return CPUIDResult(
                eax: Self.signature, ebx: apicID << 24 | processors << 16 | 8 << 8, ecx: 1 << 24 | 1 << 31)
        case 6: return CPUIDResult(eax: 1 << 2)  // ARAT: the APIC timer never stops
        // ERMS and FSRM: string instructions are fast. Whatever the host says, that is no more than advice.
        case 7: return subleaf == 0 ? CPUIDResult(ebx: 1 << 9, edx: 1 << 4) : CPUIDResult()
        case 13: return extendedStateLeaf(subleaf)
        case 0x4000_0000: return CPUIDResult(eax: 0x4000_0010, ebx: 0x4b4d_564b, ecx: 0x564b_4d56, edx: 0x4d)
        // KVM features: CLOCKSOURCE2, no I/O delay, stable clock.
        case 0x4000_0001: return CPUIDResult(eax: 1 << 1 | 1 << 3 | 1 << 24)
        case 0x4000_0010: return CPUIDResult(eax: Self.tscKilohertz, ebx: 1_000_000)
        case 0x8000_0001: return CPUIDResult(eax: Self.signature)
        case 0x8000_0002...0x8000_0004: return brand(leaf - 0x8000_0002)
        // No invariant TSC: a kernel would take it for its clock, and a host that cannot scale its own would speed it up.
        case 0x8000_0007: return CPUIDResult()
        case 0x8000_0008: return CPUIDResult(eax: 48 << 8 | 40, ecx: max(processors, 1) - 1)
        default: return CPUIDResult()
        }
    }

    /// Leaf 13: which state XSAVE knows, and where. Intel SDM volume 1, section 13.2.
    private func extendedStateLeaf(_ subleaf: UInt32) -> CPUIDResult {
        guard features.contains(.xsave) else { return CPUIDResult() }
        let (legacy, upperHalves) = Self.extendedSizes
        let hasUpperHalves = features.contains(.avx)
        switch subleaf {
        case 0:
            return CPUIDResult(
                eax: UInt32(truncatingIfNeeded: extendedComponents), ebx: legacy,
                ecx: hasUpperHalves ? legacy + upperHalves : legacy)
        case 2 where hasUpperHalves: return CPUIDResult(eax: upperHalves, ebx: legacy)
        default: return CPUIDResult()
        }
    }

    /// Bits that XCR0 can have: x87, SSE, AVX; none without XSAVE.
    public var extendedComponents: UInt64 {
        guard features.contains(.xsave) else { return 0 }
        return features.contains(.avx) ? 7 : 3
    }

    /// Sixteen bytes of the brand string.
    private func brand(_ part: UInt32) -> CPUIDResult {
        let text = Array("smolvmm \(level.rawValue) processor".utf8)
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
