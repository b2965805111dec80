// SPDX-License-Identifier: Apache-2.0
// The software backend behind the `Hypervisor` protocols: a virtual machine whose processors are interpreted.

internal import CHost
internal import Host
public import Bus
public import GuestMemory
public import Hypervisor
public import Snapshot
public import X86

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// What all processors of a machine have in common.
struct SoftwareConfiguration {
    let model: CPUModel
    let processors: Int
    var engine = SoftwareEngine.standard
    /// How often a block is interpreted before it is translated; half as often where code seldom changes.
    var translationHeat: UInt8 = 40
    /// Whether another thread translates.
    var translatesBeside = false
    /// Bytes for decoded blocks and translated code, half of them for each.
    var translationCache = TranslationOptions().cacheSize << 20
    /// What the names of the files begin with that tell of a difference between the engines; nil for none.
    var checkReport: String?
}

/// A machine whose processors run in software.
public final class SoftwareVirtualMachine: VirtualMachine {
    /// The most that CPUID can promise here.
    public static let bestModel = CPUModel.x86_64_v2

    private let code: SharedCode
    private let bus: Bus
    private let clock: GuestClock
    private let configuration: SoftwareConfiguration
    private var processors: [SoftwareVirtualCPU] = []

    public init(
        memory: GuestMemory, bus: Bus, clock: GuestClock, model: CPUModel, processors: Int,
        engine: SoftwareEngine = .standard, translation: TranslationOptions = TranslationOptions()
    ) {
        self.bus = bus
        self.clock = clock
        var configuration = SoftwareConfiguration(model: model, processors: processors, engine: engine)
        if engine == .check {
            configuration.translationHeat = 1
            configuration.checkReport = "smolvmm-check-\(getpid())"
        }
        configuration.translationCache = translation.cacheSize << 20
        configuration.translatesBeside = engine == .translate && (translation.isBeside ?? (usableProcessors() > 1))
        if let heat = translation.heat { configuration.translationHeat = heat }
        self.configuration = configuration
        code = SharedCode(memory, configuration)
    }

    public func makeVirtualCPU(index: Int, interrupts: any LocalInterruptController) -> any VirtualCPU {
        makeSoftwareCPU(index: index, interrupts: interrupts)
    }

    public func announceMemoryChanges() { code.protectAll() }

    public func recentlyUsedMemory(limit: Int) -> [GuestPhysicalAddress] {
        code.physical.recentlyUsed(limit: limit).map { GuestPhysicalAddress($0) }
    }

    /// As `makeVirtualCPU`, with what only this backend tells.
    public func makeSoftwareCPU(index: Int, interrupts: any LocalInterruptController) -> SoftwareVirtualCPU {
        let cpu = SoftwareVirtualCPU(
            index: index, configuration: configuration, code: code, bus: bus, clock: clock, interrupts: interrupts)
        processors.append(cpu)
        return cpu
    }

    public var counts: [(name: String, value: UInt64)] {
        var sum = EngineCounts()
        var instructions: UInt64 = 0
        for processor in processors {
            sum.add(processor.core.counts)
            instructions += processor.core.executed
        }
        let translator = code.translator?.counts ?? TranslatorCounts()
        let checked = code.lockstep.map { [("runs that both engines agreed on", $0.runs)] } ?? []
        return [
            ("instructions", instructions), ("blocks decoded", UInt64(code.decoded)),
            ("blocks translated", translator.translations),
            ("blocks that another thread translated", translator.translatedBeside),
            ("of those, code that had changed meanwhile", translator.useless),
            ("blocks joined to others", translator.joins),
            ("calls whose functions are in the caller's code", translator.inlinedCalls),
            ("indirect jumps that are expected to lead where they did before", translator.expectedJumps),
            ("loops with a copy that runs through pages", translator.walkingLoops),
            ("jumps linked", translator.links),
            ("blocks translated again because memory was in two pages", translator.tails),
            ("times that blocks were forgotten for others", UInt64(code.evictions)),
            ("blocks interpreted", sum.interpretedBlocks), ("translated code entered", sum.entries),
            ("left for another block", sum.dispatches), ("left for the interpreter", sum.interpretations),
            ("left by an exception or changed code", sum.stops),
            ("instructions run by the interpreter inside", sum.helperCalls),
            ("page walks", sum.walks),
        ] + checked
    }
}

/// One interpreted processor.
///
/// `run` and the state belong to one thread; `requestExit` may come from any.
public final class SoftwareVirtualCPU: VirtualCPU {
    /// Instructions between two looks at clocks and requests: well under a tenth of a millisecond. As many calls may lie
    /// on the host's stack, in 16 bytes each (`BlockTranslator.callFrameSize`).
    private let slice: Int
    private static let longestSlice = 50_000
    private static let sharedSlice = 20_000

    var core: Core

    init(
        index: Int, configuration: SoftwareConfiguration, code: SharedCode, bus: Bus, clock: GuestClock,
        interrupts: any LocalInterruptController
    ) {
        // Where processors take turns, one may wait for what another has to do. Calls get a quarter of the stack at most.
        let longest =
            configuration.engine == .translate && configuration.processors == 1 ? Self.longestSlice : Self.sharedSlice
        slice = min(longest, max(1000, chost_stack_limit() / 64))
        core = Core(
            index: index, configuration: configuration, code: code, bus: bus, clock: clock, interrupts: interrupts)
        do throws(SnapshotError) { try core.restoreState(.reset) } catch { core.failure = error.description }
        if index > 0 { core.activity = .waitingForStartup }
    }

    public func run() -> VirtualCPUExit { core.run(slice: slice) }

    /// Slices are short: `run` comes back by itself.
    public func requestExit() {}

    public func saveState() -> CPUState { core.saveState() }

    public func restoreState(_ state: CPUState) throws(SnapshotError) { try core.restoreState(state) }

    public func guestTimeChanged() { core.writeKVMSystemTime(stopped: true) }

    public func raiseNMI() { core.pendingNMI = true }

    /// Instructions executed since the machine was made, and blocks decoded.
    public var statistics: (instructions: UInt64, blocks: Int) { (core.executed, core.code.decoded) }
}
