// SPDX-License-Identifier: Apache-2.0
// The machine's virtio devices: disks in the order of the configuration, the network, then what it names beside them.

internal import Bundle
internal import Bus
internal import Devices
internal import DiskImage
internal import GuestMemory
internal import Snapshot
internal import Virtio

/// Virtio devices at their places on the bus.
final class MachineVirtio {
    let disks: [BlockDevice]
    let network: NetworkDevice?
    private(set) var console: ConsoleDevice?
    private(set) var balloon: BalloonDevice?
    private(set) var vsock: VsockDevice?
    /// When sockets are looked at again while the guest is busy, and how many nanoseconds later again.
    private var socketsDue: UInt64 = 0
    private static let socketInterval: UInt64 = 100_000
    /// Every device, in the order of the bus.
    let slots: [any VirtioSlot]

    init(_ configuration: MachineConfiguration, images: [DiskImage], platform: Platform, bus: Bus, memory: GuestMemory)
        throws
    {
        var slots: [any VirtioSlot] = []
        func place<Device: VirtioDevice>(_ device: Device, _ name: String) {
            slots.append(
                MMIOTransport(
                    device, name: name, memory: memory,
                    interrupt: InterruptLine(platform.interrupts, PlatformLayout.Line.free[slots.count])))
        }
        var disks: [BlockDevice] = []
        for (index, (disk, image)) in zip(configuration.disks, images).enumerated() {
            let device = BlockDevice(disk: image, serial: disk.id, queues: min(configuration.cpus, 8))
            disks.append(device)
            place(device, "virtio-blk\(index)")
        }
        network = try configuration.network?.makeDevice()
        if let network { place(network, "virtio-net") }
        for name in configuration.devices {
            switch MachineDevice(rawValue: name) {
            case .console:
                let device = ConsoleDevice()
                console = device
                place(device, "virtio-console")
            case .entropy: place(EntropyDevice(), "virtio-entropy")
            case .balloon:
                let device = BalloonDevice()
                balloon = device
                place(device, "virtio-balloon")
            case .vsock:
                let device = VsockDevice()
                vsock = device
                place(device, "virtio-vsock")
            case nil: break
            }
        }
        self.disks = disks
        self.slots = slots
        for (index, slot) in slots.enumerated() {
            try bus.attach(slot, memory: PlatformLayout.virtioWindow(index), size: virtioWindowSize)
        }
    }

    /// How many devices the configuration asks for, if it can have them.
    static func count(_ configuration: MachineConfiguration) throws(MachineError) -> Int {
        for name in configuration.devices where MachineDevice(rawValue: name) == nil {
            throw .invalidConfiguration(
                field: "a device", value: "'\(name)'",
                allowed: MachineDevice.allCases.map(\.rawValue).joined(separator: ", ") + " (or update smolvmm)")
        }
        let hasConsole = configuration.devices.contains(MachineDevice.console.rawValue)
        guard MachineConsole(rawValue: configuration.console).map({ $0 == .serial || hasConsole }) == true else {
            throw .invalidConfiguration(
                field: "the console", value: "'\(configuration.console)'",
                allowed: hasConsole ? "serial or hvc0" : "serial, without a device 'console'")
        }
        let others = configuration.devices.count + (configuration.network == nil ? 0 : 1)
        let count = configuration.disks.count + others
        guard count <= PlatformLayout.largestVirtioCount else {
            throw .invalidConfiguration(
                field: "the number of disks", value: "\(configuration.disks.count)",
                allowed: "at most \(PlatformLayout.largestVirtioCount - others)")
        }
        return count
    }

    func reset() { for slot in slots { slot.reset() } }

    // MARK: Host events

    /// Hands ended requests, and what came through sockets and networks, to the guest. `now` is any clock of nanoseconds that
    /// goes on.
    func poll(now: UInt64) {
        for disk in disks where disk.isBusy || disk.hasWork { disk.poll() }
        if let vsock, now >= socketsDue || vsock.hasWork {
            vsock.poll()
            socketsDue = now &+ Self.socketInterval
        }
        network?.poll()
    }

    /// The machine has waited for `descriptors`: sockets are looked at by the next `poll`.
    func hasWaited() { socketsDue = 0 }

    /// Whether `poll` has something to do at once.
    var hasWork: Bool { disks.contains { $0.hasWork } || vsock?.hasWork == true || network?.hasWork == true }

    /// Waits until no request is under way.
    func drain() { for disk in disks { disk.drain() } }

    /// Become readable when requests of disks end that are under way.
    private var requestDescriptors: [Int32] { disks.compactMap { $0.isBusy ? $0.completionDescriptor : nil } }

    /// A bit for each disk with requests under way; a machine has far fewer than 64 disks.
    var busyDisks: UInt64 {
        disks.indices.reduce(0) { disks[$1].isBusy ? $0 | 1 << UInt64($1) : $0 }
    }

    /// What the machine's thread waits for: descriptors that become readable when there is something to `poll`, and the
    /// nanoseconds after which there is in any case.
    func prepareToWait() -> (descriptors: [Int32], nanoseconds: UInt64?) {
        let network = network?.prepareToWait()
        return (requestDescriptors + [vsock?.descriptor, network?.descriptor].compactMap(\.self), network?.nanoseconds)
    }

    /// Views of all disks as they are now, with nothing under way.
    func freezeDisks(scratchFolder: String, aboveBases: Bool) throws(MachineError) -> [FrozenDisk] {
        var views: [FrozenDisk] = []
        do throws(DiskImageError) {
            for disk in disks {
                views.append(try disk.disk.freeze(scratchFolder: scratchFolder, aboveBases: aboveBases))
            }
        } catch {
            thawDisks()
            throw .disk(error.description)
        }
        return views
    }

    /// Nobody reads the views any more.
    func thawDisks() { for disk in disks { disk.disk.thaw() } }

    /// Leaves every image whole; what went wrong, as sentences.
    func close() -> [String] {
        var failures: [String] = []
        for disk in disks {
            do throws(DiskImageError) { try disk.disk.close() } catch { failures.append(error.description) }
        }
        return failures
    }

    // MARK: Save and restore

    func saveStates() -> [(name: String, state: any Codable & Sendable)] {
        slots.map { ($0.layerName, $0.saveState()) }
    }

    func stateType(of name: String) -> (any (Codable & Sendable).Type)? {
        slots.first { $0.layerName == name }?.stateType
    }

    /// Validates all states, then returns what takes them over.
    func prepare(_ states: [String: any Codable & Sendable]) throws(SnapshotError) -> () -> Void {
        var assignments: [() -> Void] = []
        for slot in slots { assignments.append(try slot.prepare(states[slot.layerName])) }
        return { for assign in assignments { assign() } }
    }

    func synchronizeInterrupts() { for slot in slots { slot.synchronizeInterrupt() } }
}
