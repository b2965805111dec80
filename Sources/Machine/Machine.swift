// SPDX-License-Identifier: Apache-2.0
// A whole machine: memory, bus, platform and processors, assembled from a configuration.

public import Bundle
internal import Bus
internal import Boot
internal import Devices
public import DiskImage
internal import GuestMemory
internal import Hypervisor
public import HypervisorSoftware
internal import Snapshot
internal import Virtio
internal import X86

/// One machine. It belongs to the thread that made it, which also calls `run`; others use `control` and `console`.
public final class Machine {
    /// One virtual processor and what the scheduler knows of it.
    struct Processor {
        let cpu: any VirtualCPU
        /// False before the start-up interrupt of a secondary processor.
        var isStarted: Bool
        /// Halted, with no interrupt to take.
        var isIdle = false
    }

    public let configuration: MachineConfiguration
    public let control: MachineControl
    public let console: ConsoleChannel
    public internal(set) var statistics = MachineStatistics()

    /// What its processors did, where the backend counts.
    public var processorCounts: [(name: String, value: UInt64)] { virtualMachine.counts }

    let memory: GuestMemory
    let bus: Bus
    let clock: GuestClock
    let platform: Platform
    let virtio: MachineVirtio
    let virtualMachine: any VirtualMachine
    var processors: [Processor] = []
    let events: MachineEvents
    let trigger: FreezeTrigger?
    /// For what goes with the machine: overlays, and copies while a snapshot is written.
    let scratchFolder: String

    /// For a reboot, and for the bundle.
    let kernel: [UInt8]
    let initramfs: [UInt8]
    /// The latest bundle that this machine was restored from or written to.
    var parent: BundleIdentifier?
    /// Applied right before the first instruction.
    var clockReset: ClockReset?

    var isPaused = false
    /// The snapshot that is being written.
    struct Freeze {
        let order: MachineControl.SnapshotOrder
        let wasPaused: Bool
        /// How long the guest stood still for it.
        var pauseNanoseconds: UInt64 = 0
    }

    var freeze: Freeze?
    var inputWaits = false
    /// What could not be written when the machine ended, as sentences.
    public internal(set) var closingFailures: [String] = []

    init(
        _ configuration: MachineConfiguration, kernel: [UInt8], initramfs: [UInt8], disks: [DiskImage],
        scratchFolder: String, trigger: FreezeTrigger?, engine: SoftwareEngine
    ) throws(MachineError) {
        try CPUModel.check(configuration.cpuModel)
        control = try MachineControl()
        console = try ConsoleChannel(machineWake: control.wake)
        self.configuration = configuration
        self.kernel = kernel
        self.initramfs = initramfs
        self.trigger = trigger
        self.scratchFolder = scratchFolder
        clock = GuestClock()
        clock.pause()
        bus = Bus()
        events = MachineEvents(trigger: trigger.map { TextMatcher($0.text) })
        let virtioCount = try MachineVirtio.count(configuration)
        do {
            memory = try GuestMemory(size: configuration.memoryBytes)
            platform = try Platform(
                processors: configuration.cpus, bus: bus, clock: clock, memory: memory,
                devices: VirtioDefinition.devices(virtioCount))
            virtio = try MachineVirtio(configuration, images: disks, platform: platform, bus: bus, memory: memory)
            virtualMachine = SoftwareVirtualMachine(
                memory: memory, bus: bus, clock: clock, model: .x86_64_v2, processors: configuration.cpus,
                engine: engine)
            for index in 0..<configuration.cpus {
                let cpu = try virtualMachine.makeVirtualCPU(index: index, interrupts: platform.localAPICs[index])
                processors.append(Processor(cpu: cpu, isStarted: index == 0))
            }
        } catch {
            throw .assembly("\(error)")
        }
        platform.events = events
        platform.serial.sink = events
        virtio.console?.sink = events
        control.setProcessors(processors.map(\.cpu))
    }

    /// A machine that will boot `kernel`.
    /// - Parameters:
    ///   - disks: one for each of the configuration's, open; the machine closes them.
    ///   - scratchFolder: for large files that end with the machine.
    ///   - trigger: the text at which it is frozen and ends.
    ///   - engine: how the software CPU runs it.
    public static func boot(
        _ configuration: MachineConfiguration, kernel: [UInt8], initramfs: [UInt8], disks: [DiskImage] = [],
        scratchFolder: String, trigger: FreezeTrigger? = nil, engine: SoftwareEngine = .standard
    ) throws(MachineError) -> Machine {
        let machine = try Machine(
            configuration, kernel: kernel, initramfs: initramfs, disks: disks, scratchFolder: scratchFolder,
            trigger: trigger, engine: engine)
        try machine.loadBootImage()
        try machine.resetProcessors()
        return machine
    }

    /// Serves the guest's vsock ports at the Unix socket `path` (docs/vsock.md) until the machine ends; the file is the
    /// caller's to remove. A machine without the device has nothing to serve.
    public func serveSockets(at path: String) throws(MachineError) {
        guard let vsock = virtio.vsock else { return }
        let code = vsock.listen(at: path)
        guard code == 0 else { throw .hostRefused(what: "the socket \(path)", errno: code) }
    }

    /// Puts firmware, kernel, initramfs and command line into memory.
    func loadBootImage() throws(MachineError) {
        do {
            var image = BootImage(
                kernel: kernel, initramfs: initramfs, commandLine: configuration.commandLine)
            try image.load(
                into: memory, rsdp: ACPITables.rootPointer,
                reserved: PlatformLayout.reserved.map { ReservedRange(start: $0.start, size: $0.size) })
        } catch {
            throw .boot("\(error)")
        }
    }

    /// All processors at power-on; only the first one runs.
    func resetProcessors() throws(MachineError) {
        for index in processors.indices {
            var state = CPUState.reset
            if index > 0 { state.activity = .waitingForStartup }
            try setState(state, of: index)
        }
    }

    func setState(_ state: CPUState, of index: Int) throws(MachineError) {
        do throws(SnapshotError) {
            try processors[index].cpu.restoreState(state)
        } catch {
            throw .state("processor \(index): \(error)")
        }
        processors[index].isStarted = state.activity != .waitingForStartup
        processors[index].isIdle = false
    }

    /// A guest reboot: everything at power-on, the kernel loaded again.
    func reboot() throws(MachineError) {
        virtio.reset()
        do throws(DevicesError) { try platform.reset() } catch { throw .assembly(error.description) }
        events.reset()
        try loadBootImage()
        try resetProcessors()
        statistics.reboots += 1
    }
}
