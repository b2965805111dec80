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
    case integer, sequences, vector, x87, x87Invalid

    /// One row's instruction, or some instructions of which that is the first.
    func instance(_ form: NativeForm, _ generator: inout InstanceGenerator) -> Instance {
        self == .sequences ? generator.sequence(form, of: NativeForm.sequenced) : generator.instance(form)
    }

    var forms: [NativeForm] {
        switch self {
        case .integer: NativeForm.integer
        case .sequences: NativeForm.sequenced
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

    /// Not `check`: flags that instructions leave undefined differ, which it does not forgive whatever follows.
    @Test(arguments: FormGroup.allCases, [SoftwareEngine.interpret, .translate])
    func `the software CPU does what the host's processor does`(group: FormGroup, engine: SoftwareEngine) throws {
        let seconds = Self.variable("SMOLVMM_DIFFERENTIAL_SECONDS").flatMap { Int($0) } ?? 0
        let seed = Self.variable("SMOLVMM_DIFFERENTIAL_SEED").flatMap { UInt64($0) } ?? 1
        let filter = Self.variable("SMOLVMM_DIFFERENTIAL_FORM")
        let forms = group.forms.filter { form in filter.map { "\(form)".contains($0) } ?? true }
        let software = try SoftwareRunner(engine)
        var generator = InstanceGenerator(seed: seed)
        var found: [String: Int] = [:]
        var completed: Set<String> = []
        var total = 0
        let end = Self.now() + seconds
        repeat {
            for form in forms {
                for _ in 0..<Self.instances {
                    total += 1
                    let (outcome, difference) = try Self.compare(group.instance(form, &generator), software)
                    if outcome.vector < 0 { completed.insert("\(form)") }
                    guard let difference else { continue }
                    let count = found["\(form)", default: 0] + 1
                    found["\(form)"] = count
                    if count <= 2 { Issue.record("\(difference)") }
                }
            }
        } while Self.now() < end
        for form in forms where !form.alwaysFaults && !completed.contains("\(form)") {
            Issue.record("no instance of \(form) ran to its end")
        }
        if seconds > 0 { print("\(group), \(engine): \(total) instances, differences in \(found.count) rows") }
        for (form, count) in found.sorted(by: { $0.value > $1.value }) { print("  \(form): \(count)") }
    }

    /// What the host made of `instance`, and how the software CPU differs.
    private static func compare(_ instance: Instance, _ software: SoftwareRunner) throws -> (Outcome, Difference?) {
        var expected = instance.state
        let outcome = try #require(NativeRunner.run(instance.code, &expected))
        var actual = instance.state
        let result = try software.run(instance.code, &actual)
        return (outcome, Difference(instance, expected: (expected, outcome), actual: (actual, result)))
    }
}

/// Every row of the tables is tested, or there is a reason why not.
struct CoverageTests {
    private func key(_ map: UInt8, _ prefix: UInt8, _ opcode: UInt8, _ reg: UInt8?, _ rm: UInt8?) -> String {
        "\(map) \(prefix) \(opcode) \(reg ?? 255) \(rm ?? 255)"
    }

    private func map(_ escape: [UInt8]) -> UInt8 {
        escape.isEmpty ? 0 : escape == [0x0f] ? 1 : escape[1] == 0x38 ? 2 : 3
    }

    private func keys(_ forms: [NativeForm]) -> Set<String> {
        Set(forms.map { key(map($0.escape), $0.prefix, $0.opcode, $0.reg, $0.rm) })
    }

    @Test func `every integer row is compared with the host or has a reason not to be`() {
        let tested = keys(NativeForm.integer)
        for row in InstructionTable.primary() + InstructionTable.extended() where !row.traits.contains(.not64) {
            let prefix: UInt8 =
                row.traits.contains(.prefixF3)
                ? 0xf3 : row.traits.contains(.prefixF2) ? 0xf2 : row.traits.contains(.prefix66) ? 0x66 : 0
            let key = key(
                row.map.rawValue, prefix, row.opcode, row.group < 0 ? nil : UInt8(row.group),
                row.selector < 0 ? nil : UInt8(row.selector))
            let isTested = tested.contains(key)
            #expect(isTested == (NativeForm.exception(row) == nil), "\(row)")
        }
    }

    @Test func `every vector row is compared with the host`() {
        let tested = keys(NativeForm.vector)
        for row in VectorTable.shared.forms {
            let prefix: UInt8 =
                switch row.prefix {
                case .none: 0
                case .x66: 0x66
                case .xF3: 0xf3
                case .xF2: 0xf2
                }
            let key = key(row.map.rawValue, prefix, row.opcode, row.group < 0 ? nil : UInt8(row.group), nil)
            #expect(tested.contains(key), "\(row)")
        }
    }

    @Test func `every x87 encoding is compared with the host`() {
        let tested = NativeForm.x87 + NativeForm.x87Invalid
        for opcode in UInt8(0xd8)...0xdf {
            for modRM in UInt8.min...UInt8.max {
                let isRegister = modRM >= 0xc0
                let isTested = tested.contains {
                    $0.opcode == opcode && ($0.reg.map { $0 == modRM >> 3 & 7 } ?? true)
                        && (isRegister
                            ? $0.allowsRegister && ($0.rm.map { $0 == modRM & 7 } ?? true) : $0.allowsMemory)
                }
                #expect(isTested, "\(opcode) \(modRM)")
            }
        }
    }
}
