// SPDX-License-Identifier: Apache-2.0
// CPU models by name, and what CPUID says of them.

import Testing
import X86

struct CPUModelTests {
    @Test
    func `a model's name says its level and what it has beyond it`() throws {
        let model = try CPUModel(name: "x86-64-v2+sha_ni+aes+popcnt")
        #expect(model.name == "x86-64-v2+aes+sha_ni")
        #expect(try CPUModel(name: model.name) == model)
        #expect(try CPUModel(name: "x86-64-v2").features.contains(.cx16))
    }

    @Test
    func `a feature brings what it needs`() throws {
        let model = try CPUModel(name: "x86-64-v2+avx2")
        #expect(model.features.isSuperset(of: [.avx2, .avx, .xsave]))
        #expect(model.extendedComponents == 7)
    }

    @Test(arguments: [
        ("x86-64-v9", "x86-64-v9", true), ("", "", true), ("x86-64+", "", false), ("x86-64-v2+avx9", "avx9", false),
    ])
    func `an unknown part is named`(name: String, part: String, isLevel: Bool) {
        let error = #expect(throws: CPUModel.UnknownPart.self) { try CPUModel(name: name) }
        #expect(error?.part == part)
        #expect(error?.isLevel == isLevel)
    }

    @Test
    func `the best of what a host offers is a level and the rest, without what lacks its base`() throws {
        let offered = CPUModel.x86_64_v2.features.union([.aes, .avx2, .fma])
        let model = try #require(CPUModel(offered: offered))
        #expect(model.name == "x86-64-v2+aes")
        #expect(CPUModel(offered: CPUModel(.v3).features)?.name == "x86-64-v3")
        #expect(CPUModel(offered: [.sse2]) == nil)
    }

    @Test(arguments: CPUModel.Level.allCases)
    func `CPUID has the bits of all features of a level and of no others`(level: CPUModel.Level) {
        let model = CPUModel(level)
        for feature in CPUFeature.allCases {
            let bit = feature.bit
            let answer = model.cpuid(leaf: bit.leaf, subleaf: bit.subleaf, index: 0, count: 1)
            #expect(bit.isSet(in: answer) == model.features.contains(feature), "\(feature)")
        }
    }

    /// What bundles have relied on since the first.
    @Test
    func `the default model stays what it is`() {
        let model = CPUModel.x86_64_v2
        func answer(_ leaf: UInt32) -> CPUIDResult { model.cpuid(leaf: leaf, subleaf: 0, index: 1, count: 2) }
        #expect(answer(1) == CPUIDResult(eax: 0x0006_0fb1, ebx: 0x0102_0800, ecx: 0x8198_2201, edx: 0x078b_ab7d))
        #expect(answer(7) == CPUIDResult(ebx: 0x0010_0280, edx: 0x10))
        #expect(answer(0x8000_0001) == CPUIDResult(eax: 0x0006_0fb1, ecx: 1, edx: 0x2993_ab7d))
        #expect(answer(13) == CPUIDResult())
        // Only leaves with subleaves look at ECX.
        #expect(model.cpuid(leaf: 1, subleaf: 0xffff, index: 1, count: 2) == answer(1))
        #expect(model.cpuid(leaf: 7, subleaf: 1, index: 1, count: 2) == CPUIDResult())
    }
}
