// SPDX-License-Identifier: Apache-2.0
// What the command line's values may be.

public import ArgumentParser
public import HypervisorSoftware
public import Machine

/// The name of a running machine: also the name of a file, so it is limited to what is safe there.
struct MachineName: Equatable, ExpressibleByArgument, CustomStringConvertible {
    let text: String

    static let longest = 64
    static let rule = "1 to 64 letters, digits, '.', '_' or '-', not starting with '.' or '-'"

    init?(argument: String) {
        guard (1...Self.longest).contains(argument.utf8.count), argument.utf8.allSatisfy(Self.isAllowed),
            let first = argument.utf8.first, !".-".utf8.contains(first)
        else { return nil }
        text = argument
    }

    /// A name for a machine from `path` that nobody else has: the file's name and the number of this process.
    init(from path: String, process: Int32) {
        var file = path.split(separator: "/").last.map(String.init) ?? ""
        for ending in [".smolmachine", ".gz", ".img"] where file.hasSuffix(ending) { file.removeLast(ending.count) }
        let suffix = "-\(process)"
        let safe = file.utf8.map { Self.isAllowed($0) ? $0 : UInt8(ascii: "_") }
            .drop { ".-".utf8.contains($0) }
            .prefix(Self.longest - suffix.utf8.count)
        text = (safe.isEmpty ? "machine" : String(decoding: safe, as: UTF8.self)) + suffix
    }

    private static func isAllowed(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"):
            true
        default: "._-".utf8.contains(byte)
        }
    }

    var description: String { text }
}

extension Accelerator: ExpressibleByArgument {}

/// What `boot` and `restore` have in common about processors.
struct AccelerationArguments: ParsableArguments {
    var chosen: BackendOptions {
        var translation = TranslationOptions()
        translation.cacheSize = translationCache
        translation.heat = translationHeat
        translation.isBeside = translationThread
        return BackendOptions(
            accelerator: accel == .auto ? RuntimeFolder.measuredAccelerator() : accel, engine: cpuEngine,
            translation: translation)
    }

    func validate() throws {
        try Self.require("--translation-cache", translationCache, in: TranslationOptions.cacheSizes, unit: " MiB")
        if let translationHeat { try Self.require("--translation-heat", translationHeat, in: TranslationOptions.heats) }
    }

    private static func require<Value: BinaryInteger>(
        _ option: String, _ value: Value, in range: ClosedRange<Value>, unit: String = ""
    ) throws {
        guard !range.contains(value) else { return }
        throw ValidationError("\(option) \(value): it takes \(range.lowerBound) to \(range.upperBound)\(unit)")
    }

    @Option(
        help: ArgumentHelp(
            "What runs the guest: auto, kvm, or software, the CPU of smolvmm's own.",
            discussion: """
                auto takes KVM where it runs guests on the processor itself, which it tries; 'smolvmm doctor' tells what it \
                finds. A bundle does not care: it restores under either.
                """,
            valueName: "name"))
    var accel = Accelerator.auto

    @Option(
        help: ArgumentHelp(
            "How the software CPU runs the guest: interpret, translate, or check.",
            discussion: "check does both, slowly, and stops where they differ: for faults of smolvmm's.",
            valueName: "name"))
    var cpuEngine = SoftwareEngine.standard

    @Option(
        help: ArgumentHelp(
            "The most memory that the software CPU takes for translated code, 4 to 1024 MiB.",
            discussion: "It is taken as it is used; when all is, the oldest code makes room.", valueName: "MiB"))
    var translationCache = TranslationOptions().cacheSize

    @Option(
        help: ArgumentHelp(
            "How often the software CPU interprets code before it translates it, 1 to 100.", valueName: "n",
            visibility: .hidden))
    var translationHeat: UInt8?

    @Flag(
        inversion: .prefixedNo,
        help: ArgumentHelp(
            "Whether the software CPU translates code on a thread of its own.",
            discussion: "It does where smolvmm may run on more than one processor, unless told otherwise."))
    var translationThread: Bool?
}

extension MachineConsole: ExpressibleByArgument {}

extension SoftwareEngine: ExpressibleByArgument {}

extension ClockReset: ExpressibleByArgument {
    public init?(argument: String) {
        switch argument {
        case "now": self = .now
        case "keep": self = .keep
        default:
            guard let time = Timestamp(argument) else { return nil }
            self = .at(time)
        }
    }

    public var defaultValueDescription: String {
        switch self {
        case .now: "now"
        case .keep: "keep"
        case .at(let time): "\(time.nanoseconds)"
        }
    }
}
