// SPDX-License-Identifier: Apache-2.0
// The software CPU against the host's processor, on random instances of every row of the instruction table.
//
// SMOLVMM_DIFFERENTIAL_SECONDS runs each group for that long, SMOLVMM_DIFFERENTIAL_SEED chooses other instances,
// SMOLVMM_DIFFERENTIAL_FORM tests only rows whose description contains it: see tools/differential.

import Testing

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

@testable import HypervisorSoftware

/// Rows that are tested together.
enum FormGroup: String, CaseIterable, CustomStringConvertible {
    case integer, vector, x87, x87Invalid

    var forms: [NativeForm] {
        switch self {
        case .integer: NativeForm.integer
        case .vector: NativeForm.vector
        case .x87: NativeForm.x87
        case .x87Invalid: NativeForm.x87Invalid
        }
    }

    var description: String { rawValue }
}

@Suite(.enabled(if: NativeRunner.isAvailable), .serialized)
struct DifferentialTests {
    /// Instances of each row when no time is asked for.
    private static let instances = 40

    private static func variable(_ name: String) -> String? {
        // SAFETY: the name is a string; nothing here changes the environment.
        guard let value = unsafe getenv(name) else { return nil }
        return unsafe String(cString: value)
    }

    private static func now() -> Int {
        var time = timespec()
        // SAFETY: `time` outlives the call.
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return time.tv_sec
    }

    @Test(arguments: FormGroup.allCases)
    func `the software CPU does what the host's processor does`(group: FormGroup) throws {
        let seconds = Self.variable("SMOLVMM_DIFFERENTIAL_SECONDS").flatMap { Int($0) } ?? 0
        let seed = Self.variable("SMOLVMM_DIFFERENTIAL_SEED").flatMap { UInt64($0) } ?? 1
        let filter = Self.variable("SMOLVMM_DIFFERENTIAL_FORM")
        let forms = group.forms.filter { form in filter.map { "\(form)".contains($0) } ?? true }
        let software = try SoftwareRunner()
        var generator = InstanceGenerator(seed: seed)
        var found: [String: Int] = [:]
        var total = 0
        let end = Self.now() + seconds
        repeat {
            for form in forms {
                for _ in 0..<Self.instances {
                    total += 1
                    guard let difference = try Self.compare(generator.instance(form), software) else { continue }
                    let count = found["\(form)", default: 0] + 1
                    found["\(form)"] = count
                    if count <= 2 { Issue.record("\(difference)") }
                }
            }
        } while Self.now() < end
        if seconds > 0 { print("\(group): \(total) instances, differences in \(found.count) rows") }
        for (form, count) in found.sorted(by: { $0.value > $1.value }) { print("  \(form): \(count)") }
    }

    private static func compare(_ instance: Instance, _ software: SoftwareRunner) throws -> Difference? {
        var expected = instance.state
        let outcome = try #require(NativeRunner.run(instance.code, &expected))
        var actual = instance.state
        let result = try software.run(instance.code, &actual)
        return Difference(instance, expected: (expected, outcome), actual: (actual, result))
    }
}
