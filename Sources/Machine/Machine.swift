// SPDX-License-Identifier: Apache-2.0
// A whole machine: memory, bus, platform and processors, assembled from a configuration.

public import Bundle
internal import Bus
internal import Boot
internal import CHost
internal import Devices
public import DiskImage
internal import GuestMemory
public import Host
internal import Hypervisor
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
    /// Nil where processors notify devices themselves.
    let notifications: QueueNotifications?
    /// The device lock, and the processors' threads where the backend has them run concurrently.
    let threads = ProcessorThreads()
    var processors: [Processor] = []
    let events: MachineEvents
    let trigger: FreezeTrigger?
    /// For what goes with the machine: overlays, and copies while a snapshot is written.
    let scratchFolder: String

    /// For a reboot, and for the bundle.
    let bootFiles: BootFiles
    #if os(Linux)
        /// Memory that is still being read from a bundle, as it is used.
        var lazyMemory: LazyMemory?
    #endif
    /// The latest bundle that this machine was restored from or written to.
    var parent: BundleIdentifier?
    /// Applied right before the first instruction.
    var clockReset: ClockReset?

    var isPaused = false
    /// Whether guest time goes on.
    var timeRuns = false
    /// The clock was set while it stood: the guest is told when it goes on.
    var timeHasJumped = false
    /// Non-nil while the machine's thread waits and nobody has woken it; only where processors run concurrently.
    var waiting: MachineWait?
    /// The snapshot that is being written.
    struct Freeze {
        let order: MachineControl.SnapshotOrder
        let wasPaused: Bool
        /// How long the guest stood still for it.
        var pauseNanoseconds: UInt64 = 0
        /// Whether the guest stands until its memory is written: the host has no copy-on-write twin of it.
        var holdsGuest = false
    }

    var freeze: Freeze?
    var inputWaits = false
    /// What could not be written when the machine ended, as sentences.
    public internal(set) var closingFailures: [String] = []

    init(
        _ configuration: MachineConfiguration, bootFiles: BootFiles, disks: [DiskImage],
        scratchFolder: String, trigger: FreezeTrigger?, backend: BackendOptions
    ) throws(MachineError) {
        let model = try CPUModelName.model(configuration.cpuModel)
        control = try MachineControl()
        console = try ConsoleChannel(machineWake: control.wake)
        self.configuration = configuration
        self.bootFiles = bootFiles
        self.trigger = trigger
        self.scratchFolder = scratchFolder
        clock = GuestClock()
        clock.pause()
        bus = Bus()
        events = MachineEvents(trigger: trigger.map { TextMatcher($0.text) })
        let virtioCount = try MachineVirtio.count(configuration)
        do {
            memory = try GuestMemory(size: configuration.memoryBytes)
            virtualMachine = try backend.makeVirtualMachine(
                memory: memory, bus: bus, clock: clock, model: model, processors: configuration.cpus, access: threads)
            platform = try Platform(
                processors: configuration.cpus, bus: bus, clock: clock, memory: memory,
                devices: VirtioDefinition.devices(virtioCount), backend: virtualMachine.interrupts)
            virtio = try MachineVirtio(configuration, images: disks, platform: platform, bus: bus, memory: memory)
            notifications = QueueNotifications(virtio.slots, of: virtualMachine)
            for index in 0..<configuration.cpus {
                let interrupts: any LocalInterruptController =
                    platform.localAPICs.indices.contains(index) ? platform.localAPICs[index] : NoInterrupts()
                let cpu = try virtualMachine.makeVirtualCPU(index: index, interrupts: interrupts)
                processors.append(Processor(cpu: cpu, isStarted: index == 0))
            }
        } catch {
            throw .assembly("\(error)")
        }
        platform.events = events
        platform.serial.sink = events
        virtio.console?.sink = events
        // Processors with threads of their own are stopped when the mail asks for it.
        if !virtualMachine.runsConcurrently { control.setProcessors(processors.map(\.cpu)) }
    }

    /// A machine that will boot `kernel`.
    /// - Parameters:
    ///   - kernel, initramfs: given up, so that whoever wants to change the files need not wait for the machine's end.
    ///   - disks: one for each of the configuration's, open; the machine closes them.
    ///   - scratchFolder: for large files that end with the machine.
    ///   - trigger: the text at which it is frozen and ends.
    ///   - backend: what runs the processors.
    public static func boot(
        _ configuration: MachineConfiguration, kernel: consuming FileBytes, initramfs: consuming FileBytes,
        disks: [DiskImage] = [],
        scratchFolder: String, trigger: FreezeTrigger? = nil, backend: BackendOptions = .init()
    ) throws(MachineError) -> Machine {
        let backend = backend.chosen()
        var configuration = configuration
        configuration.cpuModel = try CPUModelName.resolved(configuration.cpuModel, for: backend)
        let (keptKernel, keptInitramfs) = (KeptBytes(copy kernel), KeptBytes(copy initramfs))
        let machine = try Machine(
            configuration, bootFiles: .kept(kernel: keptKernel, initramfs: keptInitramfs), disks: disks,
            scratchFolder: scratchFolder, trigger: trigger, backend: backend)
        try machine.loadBootImage(kernel: kernel, initramfs: initramfs)
        // Not before: unpacking the kernel keeps two of the host's processors busy.
        keptKernel.store(in: scratchFolder)
        keptInitramfs.store(in: scratchFolder)
        try machine.resetProcessors()
        returnUnusedMemory()
        return machine
    }

    /// Gives the host what unpacking a kernel or writing a bundle took, which the C library would keep.
    static func returnUnusedMemory() {
        #if os(Linux)
            chost_return_memory()
        #endif
    }

    /// Serves the guest's vsock ports at the Unix socket `path` (docs/vsock.md) until the machine ends; the file is the
    /// caller's to remove. A machine without the device has nothing to serve.
    public func serveSockets(at path: String) throws(MachineError) {
        guard let vsock = virtio.vsock else { return }
        let code = vsock.listen(at: path)
        guard code == 0 else { throw .hostRefused(what: "the socket \(path)", errno: code) }
    }

    /// Puts firmware, kernel, initramfs and command line into memory.
    private func loadBootImage(kernel: FileBytes, initramfs: FileBytes) throws(MachineError) {
        do {
            let image = BootImage(kernel: kernel, initramfs: initramfs, commandLine: configuration.commandLine)
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
        threads.forgetEnds()
        do throws(DevicesError) { try platform.reset() } catch { throw .assembly(error.description) }
        events.reset()
        let files = try bootFiles.read()
        try loadBootImage(kernel: FileBytes(files.kernel), initramfs: FileBytes(files.initramfs))
        try resetProcessors()
        statistics.reboots += 1
    }
}
