// SPDX-License-Identifier: Apache-2.0
// CPU models as KVM takes them, and whether this host can keep their contract. Intel SDM volume 2, CPUID.

#if os(Linux)

    internal import CHost
    internal import X86

    /// A struct kvm_cpuid2: a count, padding, then entries of ten words.
    struct CPUIDList {
        private static let headerWords = 2
        private static let entryWords = 10
        private var words: [UInt32]

        init(capacity: Int) {
            words = Array(repeating: 0, count: Self.headerWords + capacity * Self.entryWords)
            words[0] = UInt32(capacity)
        }

        mutating func withBytes<Result>(_ body: (UnsafeMutableRawPointer?) -> Result) -> Result {
            // SAFETY: the kernel reads the count in the first word and touches no more entries than that.
            unsafe words.withUnsafeMutableBytes { unsafe body($0.baseAddress) }
        }

        private var count: Int { min(Int(words[0]), (words.count - Self.headerWords) / Self.entryWords) }

        mutating func append(leaf: UInt32, subleaf: UInt32?, _ result: CPUIDResult) {
            if words[0] == UInt32((words.count - Self.headerWords) / Self.entryWords) {
                words += Array(repeating: 0, count: Self.entryWords)
            }
            let start = Self.headerWords + Int(words[0]) * Self.entryWords
            words[start] = leaf
            words[start + 1] = subleaf ?? 0
            words[start + 2] = subleaf == nil ? 0 : UInt32(KVM_CPUID_FLAG_SIGNIFCANT_INDEX)
            words[start + 3] = result.eax
            words[start + 4] = result.ebx
            words[start + 5] = result.ecx
            words[start + 6] = result.edx
            words[0] += 1
        }

        subscript(leaf: UInt32, subleaf: UInt32) -> CPUIDResult {
            for index in 0..<count {
                let start = Self.headerWords + index * Self.entryWords
                guard words[start] == leaf, words[start + 1] == subleaf else { continue }
                return CPUIDResult(
                    eax: words[start + 3], ebx: words[start + 4], ecx: words[start + 5], edx: words[start + 6])
            }
            return CPUIDResult()
        }
    }

    extension KVMVirtualCPU {
        func setCPUID(_ list: CPUIDList) throws(KVMError) {
            var list = list
            try accepted(unsafe list.withBytes { unsafe chost_kvm_set_cpuid(descriptor, $0) }, "the CPU model")
        }
    }

    extension CPUModel {
        /// The leaves that the model answers with something.
        private static let leaves: [ClosedRange<UInt32>] = [
            0...7, 0x4000_0000...0x4000_0001, 0x4000_0010...0x4000_0010, 0x8000_0000...0x8000_0008,
        ]

        /// What CPUID says on processor `index` of `count`, whose time stamp counter has `tscFrequency` ticks a second.
        func list(index: Int, count: Int, tscFrequency: UInt64) -> CPUIDList {
            var list = CPUIDList(capacity: 0)
            for leaf in Self.leaves.joined() {
                var result = cpuid(leaf: leaf, subleaf: 0, index: index, count: count)
                if leaf == 0x4000_0010 { result.eax = UInt32(clamping: tscFrequency / 1000) }
                list.append(leaf: leaf, subleaf: leaf == 7 ? 0 : nil, result)
            }
            return list
        }

        /// A feature bit, where CPUID has it, and its name.
        private struct Feature {
            let leaf: UInt32
            let register: KeyPath<CPUIDResult, UInt32>
            let bit: UInt32
            let name: String
        }

        /// What a guest can tell from its absence by more than speed. KVM's own local APIC has the others.
        private static var features: [Feature] {
            func feature(_ leaf: UInt32, _ register: KeyPath<CPUIDResult, UInt32>, _ bit: UInt32, _ name: String)
                -> Feature
            {
                Feature(leaf: leaf, register: register, bit: bit, name: name)
            }
            return [
                feature(1, \.edx, 0, "x87"), feature(1, \.edx, 4, "TSC"), feature(1, \.edx, 6, "PAE"),
                feature(1, \.edx, 8, "CMPXCHG8B"), feature(1, \.edx, 11, "SYSENTER"), feature(1, \.edx, 13, "PGE"),
                feature(1, \.edx, 15, "CMOV"), feature(1, \.edx, 16, "PAT"), feature(1, \.edx, 19, "CLFLUSH"),
                feature(1, \.edx, 23, "MMX"), feature(1, \.edx, 24, "FXSAVE"), feature(1, \.edx, 25, "SSE"),
                feature(1, \.edx, 26, "SSE2"), feature(1, \.ecx, 0, "SSE3"), feature(1, \.ecx, 9, "SSSE3"),
                feature(1, \.ecx, 13, "CMPXCHG16B"), feature(1, \.ecx, 19, "SSE4.1"), feature(1, \.ecx, 20, "SSE4.2"),
                feature(1, \.ecx, 23, "POPCNT"), feature(7, \.ebx, 7, "SMEP"), feature(7, \.ebx, 20, "SMAP"),
                feature(0x8000_0001, \.ecx, 0, "LAHF in long mode"), feature(0x8000_0001, \.edx, 11, "SYSCALL"),
                feature(0x8000_0001, \.edx, 20, "NX"), feature(0x8000_0001, \.edx, 27, "RDTSCP"),
                feature(0x8000_0001, \.edx, 29, "long mode"),
            ]
        }

        /// Refuses a host that has not every feature of the model.
        func check(against supported: CPUIDList) throws(KVMError) {
            var missing: [String] = []
            for feature in Self.features {
                let wanted = cpuid(leaf: feature.leaf, subleaf: 0, index: 0, count: 1)[keyPath: feature.register]
                let offered = supported[feature.leaf, 0][keyPath: feature.register]
                if wanted & ~offered & 1 << feature.bit != 0 { missing.append(feature.name) }
            }
            if !missing.isEmpty { throw .missingFeatures(model: rawValue, features: missing) }
        }
    }

#endif
