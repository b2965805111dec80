// SPDX-License-Identifier: Apache-2.0
// What a virtio device offers its transport, and the transport the device. Spec: virtio 1.2 §2.

public import Bus
public import GuestMemory
public import Snapshot

/// Device ids. Spec: virtio 1.2 §5.
public enum VirtioDeviceKind: UInt32, Sendable {
    case network = 1
    case block = 2
    case console = 3
    case entropy = 4
    case balloon = 5
    case socket = 19
}

/// Feature bits that do not depend on the device. Spec: virtio 1.2 §6.
struct TransportFeatures {
    static let indirectDescriptors: UInt64 = 1 << 28  // VIRTIO_F_INDIRECT_DESC
    static let eventIndex: UInt64 = 1 << 29  // VIRTIO_F_EVENT_IDX
    static let version1: UInt64 = 1 << 32  // VIRTIO_F_VERSION_1
    static let offered = indirectDescriptors | eventIndex | version1
}

/// One kind of device behind a transport. The machine's thread only.
public protocol VirtioDevice: AnyObject {
    associatedtype DeviceState: Codable & Equatable & Sendable

    var kind: VirtioDeviceKind { get }
    /// The device's own feature bits; the transport adds its own.
    var deviceFeatures: UInt64 { get }
    /// The largest size of each queue.
    var queueSizes: [UInt16] { get }

    func readConfiguration(offset: UInt64, width: AccessWidth) -> UInt64
    func writeConfiguration(_ value: UInt64, offset: UInt64, width: AccessWidth)

    /// The driver is ready, or was when the machine was frozen: the device may use its queues until `reset`. Queues that
    /// the driver left out are never ready.
    func activate(_ transport: any VirtioTransport, queues: [Virtqueue], features: UInt64)
    /// The driver has made buffers available.
    func notify(queue index: Int)
    /// Forgets queues and features. After it the device touches no guest memory.
    func reset()

    func saveDeviceState() -> DeviceState
    func validate(_ state: DeviceState) throws(SnapshotError)
    /// Takes over a validated state. `activate` follows when the driver was ready.
    func assign(_ state: DeviceState)
}

/// A device's way to its driver.
public protocol VirtioTransport: AnyObject {
    var memory: GuestMemory { get }
    /// Buffers were used.
    func raiseQueueInterrupt()
    /// The configuration space has changed.
    func raiseConfigurationChange()
    /// The driver broke the rules: the device needs a reset, and is quiet until then.
    func fail(_ fault: VirtqueueFault)
}
