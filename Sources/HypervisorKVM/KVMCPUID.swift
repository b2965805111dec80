// SPDX-License-Identifier: Apache-2.0
// CPU models as KVM takes them, and whether this host can keep their contract. Intel SDM volume 2, CPUID.

#if os(Linux)

    internal import CHost
    public import X86

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
        /// The leaves that a model answers with something; those below have subleaves.
        private static let leaves: [ClosedRange<UInt32>] = [
            0...6, 0x4000_0000...0x4000_0001, 0x4000_0010...0x4000_0010, 0x8000_0000...0x8000_0008,
        ]
        private static let leavesWithSubleaves: [(leaf: UInt32, subleaves: ClosedRange<UInt32>)] = [
            (7, 0...0), (13, 0...2),
        ]

        /// What CPUID says on processor `index` of `count`, whose time stamp counter has `tscFrequency` ticks a second.
        func list(index: Int, count: Int, tscFrequency: UInt64) -> CPUIDList {
            var list = CPUIDList(capacity: 0)
            for leaf in Self.leaves.joined() {
                var result = cpuid(leaf: leaf, subleaf: 0, index: index, count: count)
                if leaf == 0x4000_0010 { result.eax = UInt32(clamping: tscFrequency / 1000) }
                list.append(leaf: leaf, subleaf: nil, result)
            }
            for (leaf, subleaves) in Self.leavesWithSubleaves {
                for subleaf in subleaves {
                    let result = cpuid(leaf: leaf, subleaf: subleaf, index: index, count: count)
                    list.append(leaf: leaf, subleaf: subleaf, result)
                }
            }
            return list
        }

        /// Refuses a host that has not every feature of the model.
        func check(against supported: CPUIDList) throws(KVMError) {
            let missing = CPUFeature.allCases.filter { features.contains($0) && !supported.has($0) }
            if !missing.isEmpty { throw .missingFeatures(model: name, features: missing.map(\.rawValue)) }
        }
    }

    extension CPUIDList {
        func has(_ feature: CPUFeature) -> Bool {
            feature.bit.isSet(in: self[feature.bit.leaf, feature.bit.subleaf])
        }
    }

    /// The best CPU model that this host's KVM can give a guest.
    public func bestKVMModel() throws(KVMError) -> CPUModel {
        let supported = try KVMSystem().supportedCPUID()
        guard let model = CPUModel(offered: Set(CPUFeature.allCases.filter(supported.has))) else {
            throw .lacks(capability: "processors of the x86-64 level")
        }
        return model
    }

#endif
