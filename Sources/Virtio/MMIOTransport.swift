// SPDX-License-Identifier: Apache-2.0
// Virtio over memory-mapped registers, version 2. Spec: virtio 1.2 §4.2.

public import Bus
public import GuestMemory
public import Snapshot

/// Bytes that one device's registers take on the bus.
public let virtioWindowSize: UInt64 = 0x200
/// Where in it the driver notifies a queue. Spec: virtio 1.2 §4.2.2, QueueNotify.
public let queueNotifyOffset = MMIORegister.queueNotify.rawValue

/// A device at its place on the bus, whatever kind it is.
public protocol VirtioSlot: BusDevice {
    /// The layer's name in a bundle, such as `virtio-blk0`.
    var layerName: String { get }
    /// Power-on.
    func reset()
    /// The driver has notified queues; which ones is not known.
    func notifyQueues()
    var stateType: any (Codable & Sendable).Type { get }
    func saveState() -> any Codable & Sendable
    /// Refuses a state that the device could not have saved; otherwise returns what takes it over.
    func prepare(_ state: (any Codable & Sendable)?) throws(SnapshotError) -> () -> Void
    /// After the interrupt controllers are restored: the line carries what the device says.
    func synchronizeInterrupt()
}

/// One device's registers. The machine's thread only.
public final class MMIOTransport<Device: VirtioDevice>: VirtioSlot, VirtioTransport {
    public struct State: Codable, Equatable, Sendable {
        var status: UInt32
        var deviceFeaturesSelect: UInt32
        var driverFeaturesSelect: UInt32
        var driverFeatures: UInt64
        var queueSelect: UInt32
        var interruptStatus: UInt32
        var configurationGeneration: UInt32
        var queues: [Virtqueue.State]
        var device: Device.DeviceState
    }

    private struct Status {
        static var driverOK: UInt32 { 4 }
        static var featuresOK: UInt32 { 8 }
        static var needsReset: UInt32 { 0x40 }
        static var failed: UInt32 { 0x80 }
        static var all: UInt32 { 0xcf }
    }

    private struct Interrupt {
        static var usedBuffer: UInt32 { 1 }
        static var configurationChange: UInt32 { 2 }
    }

    public let device: Device
    public let layerName: String
    public let memory: GuestMemory
    private let interrupt: InterruptLine
    private let queues: [Virtqueue]

    private var status: UInt32 = 0
    private var deviceFeaturesSelect: UInt32 = 0
    private var driverFeaturesSelect: UInt32 = 0
    private var driverFeatures: UInt64 = 0
    private var queueSelect: UInt32 = 0
    private var interruptStatus: UInt32 = 0
    private var configurationGeneration: UInt32 = 0
    /// Why the device needed a reset last.
    public private(set) var lastFault: VirtqueueFault?

    public init(_ device: Device, name: String, memory: GuestMemory, interrupt: InterruptLine) {
        self.device = device
        layerName = name
        self.memory = memory
        self.interrupt = interrupt
        queues = device.queueSizes.enumerated().map { Virtqueue(index: $0, largestSize: $1, memory: memory) }
    }

    private var offeredFeatures: UInt64 { device.deviceFeatures | TransportFeatures.offered }
    private var selectedQueue: Virtqueue? {
        queueSelect < UInt32(queues.count) ? queues[Int(queueSelect)] : nil
    }
    private var isActive: Bool { status & Status.driverOK != 0 && status & Status.needsReset == 0 }

    // MARK: Guest access

    public func read(offset: UInt64, width: AccessWidth) -> UInt64 {
        if offset >= MMIORegister.configuration {
            return device.readConfiguration(offset: offset - MMIORegister.configuration, width: width)
        }
        guard width == .doubleWord, let register = MMIORegister(rawValue: offset) else { return width.openBus }
        return UInt64(value(of: register))
    }

    private func value(of register: MMIORegister) -> UInt32 {
        switch register {
        case .magic: MMIORegister.magicValue
        case .version: 2
        case .deviceID: device.kind.rawValue
        case .vendorID: MMIORegister.vendor
        case .deviceFeatures:
            deviceFeaturesSelect < 2
                ? UInt32(truncatingIfNeeded: offeredFeatures >> UInt64(deviceFeaturesSelect * 32)) : 0
        case .queueSizeMax: UInt32(selectedQueue?.largestSize ?? 0)
        case .queueReady: selectedQueue?.isReady == true ? 1 : 0
        case .interruptStatus: interruptStatus
        case .status: status
        case .configurationGeneration: configurationGeneration
        // There is no shared memory: a length of all ones says so.
        case .sharedLengthLow, .sharedLengthHigh, .sharedBaseLow, .sharedBaseHigh: .max
        // The others can only be written.
        case .deviceFeaturesSelect, .driverFeatures, .driverFeaturesSelect, .queueSelect, .queueSize, .queueNotify,
            .interruptAcknowledge, .descriptorsLow, .descriptorsHigh, .driverLow, .driverHigh, .deviceLow, .deviceHigh,
            .sharedSelect:
            0
        }
    }

    public func write(_ value: UInt64, offset: UInt64, width: AccessWidth) {
        if offset >= MMIORegister.configuration {
            device.writeConfiguration(value, offset: offset - MMIORegister.configuration, width: width)
            return
        }
        guard width == .doubleWord, let register = MMIORegister(rawValue: offset) else { return }
        let value = UInt32(truncatingIfNeeded: value)
        switch register {
        case .queueNotify: notify(value)
        case .interruptAcknowledge: setInterruptStatus(interruptStatus & ~value)
        case .status: setStatus(value)
        case .deviceFeaturesSelect: deviceFeaturesSelect = value
        case .driverFeaturesSelect: driverFeaturesSelect = value
        case .driverFeatures: setDriverFeatures(value)
        case .queueSelect: queueSelect = value
        default: configureQueue(register, value)
        }
    }

    private func notify(_ index: UInt32) {
        guard isActive, index < UInt32(queues.count), queues[Int(index)].isReady else { return }
        device.notify(queue: Int(index))
    }

    public func notifyQueues() { for index in queues.indices { notify(UInt32(index)) } }

    private func setDriverFeatures(_ value: UInt32) {
        guard status & Status.featuresOK == 0, driverFeaturesSelect < 2 else { return }
        let shift = UInt64(driverFeaturesSelect * 32)
        driverFeatures = driverFeatures & ~(0xffff_ffff << shift) | UInt64(value) << shift
    }

    /// Queues take their settings between negotiation and the driver's start.
    private func configureQueue(_ register: MMIORegister, _ value: UInt32) {
        guard status & Status.driverOK == 0, let queue = selectedQueue else { return }
        func low(_ field: WritableKeyPath<Virtqueue.State, UInt64>) {
            queue.configure { $0[keyPath: field] = $0[keyPath: field] & ~0xffff_ffff | UInt64(value) }
        }
        func high(_ field: WritableKeyPath<Virtqueue.State, UInt64>) {
            queue.configure { $0[keyPath: field] = $0[keyPath: field] & 0xffff_ffff | UInt64(value) << 32 }
        }
        switch register {
        case .queueSize: queue.configure { $0.size = value }
        case .descriptorsLow: low(\.descriptors)
        case .descriptorsHigh: high(\.descriptors)
        case .driverLow: low(\.driver)
        case .driverHigh: high(\.driver)
        case .deviceLow: low(\.device)
        case .deviceHigh: high(\.device)
        case .queueReady:
            if value == 0 {
                queue.disable()
            } else {
                // A queue that cannot be stays not ready, which the driver reads back.
                do throws(VirtqueueFault) { try queue.enable() } catch { lastFault = error }
            }
        default: break
        }
    }

    /// Spec: virtio 1.2 §2.1 and §3.1.
    private func setStatus(_ value: UInt32) {
        guard value != 0 else { return reset() }
        // A driver must not clear bits; only a reset does.
        var added = value & Status.all & ~status & ~Status.needsReset
        if added & Status.featuresOK != 0 {
            let isAcceptable =
                driverFeatures & ~offeredFeatures == 0 && driverFeatures & TransportFeatures.version1 != 0
            if !isAcceptable { added &= ~Status.featuresOK }
        }
        if added & Status.driverOK != 0, (status | added) & Status.featuresOK == 0 { added &= ~Status.driverOK }
        status |= added
        if added & Status.driverOK != 0 { activate() }
    }

    private func activate() {
        for queue in queues { queue.usesEventIndex = driverFeatures & TransportFeatures.eventIndex != 0 }
        device.activate(self, queues: queues, features: driverFeatures)
    }

    public func reset() {
        device.reset()
        for queue in queues { queue.reset() }
        status = 0
        deviceFeaturesSelect = 0
        driverFeaturesSelect = 0
        driverFeatures = 0
        queueSelect = 0
        configurationGeneration = 0
        setInterruptStatus(0)
    }

    // MARK: Host events

    private func setInterruptStatus(_ value: UInt32) {
        interruptStatus = value & (Interrupt.usedBuffer | Interrupt.configurationChange)
        interrupt.set(interruptStatus != 0)
    }

    public func raiseQueueInterrupt() { setInterruptStatus(interruptStatus | Interrupt.usedBuffer) }

    public func raiseConfigurationChange() {
        configurationGeneration &+= 1
        if status & Status.driverOK != 0 { setInterruptStatus(interruptStatus | Interrupt.configurationChange) }
    }

    public func fail(_ fault: VirtqueueFault) {
        lastFault = fault
        guard status & Status.needsReset == 0 else { return }
        status |= Status.needsReset
        if status & Status.driverOK != 0 { setInterruptStatus(interruptStatus | Interrupt.configurationChange) }
    }

    // MARK: Save and restore

    public var stateType: any (Codable & Sendable).Type { State.self }

    public func saveState() -> any Codable & Sendable {
        State(
            status: status, deviceFeaturesSelect: deviceFeaturesSelect, driverFeaturesSelect: driverFeaturesSelect,
            driverFeatures: driverFeatures, queueSelect: queueSelect, interruptStatus: interruptStatus,
            configurationGeneration: configurationGeneration, queues: queues.map { $0.saveState() },
            device: device.saveDeviceState())
    }

    public func prepare(_ state: (any Codable & Sendable)?) throws(SnapshotError) -> () -> Void {
        guard let state = state as? State else {
            throw .invalidValue(
                layer: layerName, field: "state", value: state == nil ? "missing" : "of another type",
                allowed: "the state of this layer")
        }
        func check(_ isRight: Bool, _ field: String, _ value: UInt64, _ allowed: String) throws(SnapshotError) {
            try require(isRight, layer: layerName, field: field, value: value, allowed: allowed)
        }
        let allStatus = Status.all | Status.needsReset
        try check(state.status & ~allStatus == 0, "status", UInt64(state.status), "no bit outside of \(allStatus)")
        let isNegotiated = state.status & Status.featuresOK != 0
        try check(
            !isNegotiated || state.driverFeatures & ~offeredFeatures == 0, "driverFeatures", state.driverFeatures,
            "no bit outside of \(offeredFeatures)")
        try check(
            isNegotiated || state.status & Status.driverOK == 0, "status", UInt64(state.status),
            "DRIVER_OK only after FEATURES_OK")
        try check(state.interruptStatus & ~3 == 0, "interruptStatus", UInt64(state.interruptStatus), "0 to 3")
        try check(
            state.queues.count == queues.count, "queues", UInt64(state.queues.count), "\(queues.count) of them")
        for (queue, saved) in zip(queues, state.queues) { try queue.validate(saved, layer: layerName) }
        try device.validate(state.device)
        return { self.assign(state) }
    }

    private func assign(_ state: State) {
        device.reset()
        status = state.status
        deviceFeaturesSelect = state.deviceFeaturesSelect
        driverFeaturesSelect = state.driverFeaturesSelect
        driverFeatures = state.driverFeatures
        queueSelect = state.queueSelect
        interruptStatus = state.interruptStatus
        configurationGeneration = state.configurationGeneration
        for (queue, saved) in zip(queues, state.queues) { queue.assign(saved) }
        device.assign(state.device)
        if status & Status.driverOK != 0 { activate() }
    }

    public func synchronizeInterrupt() { interrupt.set(interruptStatus != 0) }
}

/// Offsets of the registers, in bytes. Spec: virtio 1.2 §4.2.2.
enum MMIORegister: UInt64 {
    case magic = 0x000  // MagicValue
    case version = 0x004
    case deviceID = 0x008
    case vendorID = 0x00c
    case deviceFeatures = 0x010
    case deviceFeaturesSelect = 0x014  // DeviceFeaturesSel
    case driverFeatures = 0x020
    case driverFeaturesSelect = 0x024  // DriverFeaturesSel
    case queueSelect = 0x030  // QueueSel
    case queueSizeMax = 0x034  // QueueNumMax
    case queueSize = 0x038  // QueueNum
    case queueReady = 0x044
    case queueNotify = 0x050
    case interruptStatus = 0x060
    case interruptAcknowledge = 0x064  // InterruptACK
    case status = 0x070
    case descriptorsLow = 0x080  // QueueDescLow
    case descriptorsHigh = 0x084
    case driverLow = 0x090  // QueueDriverLow
    case driverHigh = 0x094
    case deviceLow = 0x0a0  // QueueDeviceLow
    case deviceHigh = 0x0a4
    case sharedSelect = 0x0ac  // SHMSel
    case sharedLengthLow = 0x0b0  // SHMLenLow
    case sharedLengthHigh = 0x0b4
    case sharedBaseLow = 0x0b8  // SHMBaseLow
    case sharedBaseHigh = 0x0bc
    case configurationGeneration = 0x0fc  // ConfigGeneration

    /// Where the device's own configuration space starts.
    static let configuration: UInt64 = 0x100
    /// "virt", little-endian.
    static let magicValue: UInt32 = 0x7472_6976
    /// "SMOL", little-endian.
    static let vendor: UInt32 = 0x4c4f_4d53
}
