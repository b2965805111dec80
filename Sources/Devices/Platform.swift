// SPDX-License-Identifier: Apache-2.0
// All devices of a PC-like machine, wired up: what the machine holds beside processors, memory and paravirtual devices.

public import Bus
public import GuestMemory
public import Hypervisor
public import Snapshot

/// The platform of one machine.
///
/// Not thread-safe: whoever calls holds the machine's device lock.
public final class Platform {
    /// Local APIC ids are eight bits, and the tables have room for as many processors.
    public static let largestProcessorCount = 240

    public let serial: SerialPort
    public let realTimeClock: RealTimeClock
    public let timer: Timer8254
    public let pic: InterruptController8259
    public let ioapic: IOAPIC
    /// One for each processor, by index; empty where the backend has them.
    public let localAPICs: [LocalAPIC]
    public let power: PowerControl
    public let generation: VMGenerationID
    /// Where devices that the machine adds connect their interrupt lines, and send messages.
    public let interrupts: InterruptFabric
    /// Everything with a timer.
    public let timed: [any TimedDevice]
    /// Every layer of state, in the order in which bundles list them. The clock is the machine's own layer.
    public let layers: [any PlatformDevice]

    private let keyboard: KeyboardController
    private let localAPICWindow: LocalAPICWindow
    private let memory: GuestMemory
    private let tables: [ACPITables.Table]

    /// Who carries out what the guest asks of the machine.
    public weak var events: (any PlatformEvents)? {
        didSet {
            power.events = events
            keyboard.events = events
            for apic in localAPICs { apic.events = events }
        }
    }

    /// The processor on whose behalf the bus is accessed: the register page of the local APICs shows that one's.
    /// Whoever runs several processors on one bus sets it before each `run`, or with the device lock held.
    public var currentProcessor: Int {
        get { localAPICWindow.current }
        set { localAPICWindow.current = newValue }
    }

    /// Builds the devices of `processors` processors and attaches them to `bus`. `devices` are further entries of
    /// `\_SB` for the ACPI tables; `backend` has the local APICs, where it does.
    public init(
        processors: Int, bus: Bus, clock: GuestClock, memory: GuestMemory, devices: [AML] = [],
        backend: (any BackendInterrupts)? = nil
    ) throws(DevicesError) {
        guard (1...Self.largestProcessorCount).contains(processors) else {
            throw .processorCount(processors, limit: Self.largestProcessorCount)
        }
        tables = try ACPITables.build(.init(processors: processors, devices: devices))
        self.memory = memory
        let fabric = InterruptFabric(backend: backend)
        interrupts = fabric
        func line(_ number: Int) -> InterruptLine { InterruptLine(fabric, number) }
        serial = SerialPort(interrupt: line(PlatformLayout.Line.serial))
        realTimeClock = RealTimeClock(clock: clock, interrupt: line(PlatformLayout.Line.realTimeClock))
        timer = Timer8254(clock: clock, interrupt: line(PlatformLayout.Line.timer))
        pic = InterruptController8259 { [weak fabric] in fabric?.setExternalLine($0) }
        ioapic = IOAPIC(fabric: fabric)
        localAPICs =
            backend == nil ? (0..<processors).map { LocalAPIC(index: $0, clock: clock, fabric: fabric) } : []
        power = PowerControl(buttonInterrupt: line(PlatformLayout.Line.powerButton))
        generation = VMGenerationID(
            memory: memory, address: PlatformLayout.generationPage, interrupt: line(PlatformLayout.Line.generation))
        keyboard = KeyboardController()
        localAPICWindow = LocalAPICWindow(localAPICs)
        timed = [timer, realTimeClock] + localAPICs
        let elsewhere = backend.map { backend in
            (0..<processors).map { BackendLocalAPIC(index: $0, backend: backend) }
        }
        layers = [serial, realTimeClock, timer, pic, ioapic, power, generation] + localAPICs + (elsewhere ?? [])
        fabric.connect(localAPICs: localAPICs, ioapic: ioapic, pic: pic)
        do throws(BusError) { try attach(to: bus) } catch { throw .bus(error) }
        try installTables()
    }

    private func attach(to bus: Bus) throws(BusError) {
        func attach(_ device: any BusDevice, _ ranges: ClosedRange<Port>...) throws(BusError) {
            for range in ranges {
                try bus.attach(PortWindow(device, first: range.lowerBound.rawValue), ports: range)
            }
        }
        try bus.attach(serial, ports: PlatformLayout.serialPorts)
        try bus.attach(realTimeClock, ports: PlatformLayout.realTimeClockPorts)
        try attach(timer, PlatformLayout.timerPorts, PlatformLayout.speakerPorts)
        try attach(
            pic, PlatformLayout.masterControllerPorts, PlatformLayout.slaveControllerPorts,
            PlatformLayout.edgeLevelPorts)
        try attach(keyboard, PlatformLayout.keyboardDataPorts, PlatformLayout.keyboardCommandPorts)
        try attach(power, PlatformLayout.sleepPorts, PlatformLayout.resetPorts)
        try bus.attach(ioapic, memory: PlatformLayout.ioapic, size: PlatformLayout.registerPage)
        try bus.attach(localAPICWindow, memory: PlatformLayout.localAPIC, size: PlatformLayout.registerPage)
    }

    private func installTables() throws(DevicesError) {
        do throws(GuestMemoryError) {
            for table in tables { try memory.write(table.bytes, at: table.address) }
            try generation.install()
        } catch { throw .memory(error) }
    }

    // MARK: Time

    /// Guest nanoseconds of the next event of any device; nil when nothing is armed.
    public var nextDeadline: UInt64? {
        var earliest: UInt64?
        for device in timed {
            guard let deadline = device.nextDeadline else { continue }
            earliest = min(earliest ?? deadline, deadline)
        }
        return earliest
    }

    /// Handles everything due at guest time `now`.
    public func expire(now: UInt64) {
        for device in timed {
            if let deadline = device.nextDeadline, deadline <= now { device.expire(now: now) }
        }
    }

    // MARK: Host events

    /// An NMI for every processor that listens on LINT1.
    public func injectNonMaskableInterrupt() {
        interrupts.backend?.raiseNMI()
        for apic in localAPICs { apic.pulseLocalInterrupt1() }
    }

    /// Takes all devices to power-on state and writes the ACPI tables again: a guest reboot.
    public func reset() throws(DevicesError) {
        for layer in layers { layer.reset() }
        interrupts.synchronize()
        try installTables()
    }

    // MARK: Save and restore

    /// The type of the state of the layer `name`; nil when the platform has no such layer.
    public func stateType(of name: String) -> (any (Codable & Sendable).Type)? {
        for layer in layers where layer.layerName == name { return Self.stateType(layer) }
        return nil
    }

    private static func stateType<Layer: PlatformDevice>(_ layer: Layer) -> any (Codable & Sendable).Type {
        Layer.State.self
    }

    /// The state of every layer, by name.
    public func saveStates() -> [(name: String, state: any Codable & Sendable)] {
        layers.map { ($0.layerName, $0.saveState()) }
    }

    /// Takes over the state of every layer, having validated all of it first.
    /// - Throws: for a layer that is missing, unknown, of another type or has a value out of range. Nothing has
    ///   changed then.
    public func restoreStates(_ states: [String: any Codable & Sendable]) throws(SnapshotError) {
        for name in states.keys.sorted() where stateType(of: name) == nil {
            let names = layers.map(\.layerName).joined(separator: ", ")
            throw .invalidValue(layer: name, field: "layer", value: name, allowed: "one of \(names)")
        }
        var assignments: [() -> Void] = []
        for layer in layers { assignments.append(try Self.prepare(layer, states[layer.layerName])) }
        for assign in assignments { assign() }
        interrupts.synchronize()
    }

    private static func prepare<Layer: PlatformDevice>(
        _ layer: Layer, _ state: (any Codable & Sendable)?
    ) throws(SnapshotError) -> () -> Void {
        guard let state = state as? Layer.State else {
            throw .invalidValue(
                layer: layer.layerName, field: "state", value: state == nil ? "missing" : "of another type",
                allowed: "the state of this layer")
        }
        try layer.validate(state)
        return { layer.assign(state) }
    }
}

/// The register page of the local APICs: each processor sees its own.
private final class LocalAPICWindow: BusDevice {
    private let localAPICs: [LocalAPIC]
    var current = 0

    init(_ localAPICs: [LocalAPIC]) { self.localAPICs = localAPICs }

    private var apic: LocalAPIC? { localAPICs.indices.contains(current) ? localAPICs[current] : nil }

    func read(offset: UInt64, width: AccessWidth) -> UInt64 {
        apic?.read(offset: offset, width: width) ?? width.openBus
    }

    func write(_ value: UInt64, offset: UInt64, width: AccessWidth) {
        apic?.write(value, offset: offset, width: width)
    }
}
