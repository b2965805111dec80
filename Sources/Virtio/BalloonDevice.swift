// SPDX-License-Identifier: Apache-2.0
// A virtio memory balloon: pages that the guest does not need are given back to the host. Spec: virtio 1.2 §5.5.

public import Bus
internal import GuestMemory
public import Snapshot

/// Takes pages that the driver puts into the balloon or reports as free. The machine's thread only.
public final class BalloonDevice: VirtioDevice {
    public struct DeviceState: Codable, Equatable, Sendable {
        /// Pages of 4 KiB that the balloon shall have, and has as the driver says.
        public var target: UInt32
        public var actual: UInt32
    }

    private struct Features {
        static let deflateOnOutOfMemory: UInt64 = 1 << 2  // VIRTIO_BALLOON_F_DEFLATE_ON_OOM
        static let pageReporting: UInt64 = 1 << 5  // VIRTIO_BALLOON_F_REPORTING
    }

    private enum Queue: Int {
        case inflate = 0
        case deflate = 1
        /// The third one, because neither statistics nor free page hints are offered.
        case reporting = 2
    }

    private enum Register {
        static let pages: UInt64 = 0  // num_pages
        static let actual: UInt64 = 4
        static let size: UInt64 = 8
    }

    private static let pageShift: UInt64 = 12
    /// Bytes of what the balloon counts in.
    public static let pageSize: UInt64 = 1 << pageShift
    /// Page numbers that are looked at in one request; the driver sends 256.
    private static let largestRequest = 64 << 10

    private weak var transport: (any VirtioTransport)?
    private var queues: [Virtqueue] = []
    private var chain = DescriptorChain()
    private var target: UInt32 = 0
    private var actual: UInt32 = 0
    /// Bytes given back since power-on.
    public private(set) var releasedBytes: UInt64 = 0

    public init() {}

    // MARK: Registers

    public var kind: VirtioDeviceKind { .balloon }
    public var deviceFeatures: UInt64 { Features.deflateOnOutOfMemory | Features.pageReporting }
    public var queueSizes: [UInt16] { [128, 128, 128] }

    public func readConfiguration(offset: UInt64, width: AccessWidth) -> UInt64 {
        let registers = UInt64(target) | UInt64(actual) << 32
        guard offset < Register.size else { return 0 }
        return registers >> (offset * 8) & width.openBus
    }

    public func writeConfiguration(_ value: UInt64, offset: UInt64, width: AccessWidth) {
        if offset == Register.actual, width == .doubleWord { actual = UInt32(truncatingIfNeeded: value) }
    }

    // MARK: The driver

    public func activate(_ transport: any VirtioTransport, queues: [Virtqueue], features: UInt64) {
        self.transport = transport
        self.queues = queues
    }

    public func reset() {
        transport = nil
        queues = []
        actual = 0
    }

    public func notify(queue index: Int) {
        guard let transport, let role = Queue(rawValue: index), queues.indices.contains(index) else { return }
        let queue = queues[index]
        do throws(VirtqueueFault) {
            while try queue.pop(into: &chain) {
                switch role {
                case .inflate: inflate(transport.memory)
                // A page that the guest takes back is RAM of zeros until it writes it.
                case .deflate: break
                case .reporting:
                    for buffer in chain.writable { release(buffer.address, UInt64(buffer.count), transport.memory) }
                }
                try queue.complete(chain.head, written: 0)
            }
            _ = queue.enableNotifications()
        } catch {
            transport.fail(error)
        }
        if queue.shouldInterrupt() { transport.raiseQueueInterrupt() }
    }

    /// The chain has numbers of pages, 32 bits each.
    private func inflate(_ memory: GuestMemory) {
        let bytes = chain.readBytes(limit: Self.largestRequest)
        for start in stride(from: 0, to: bytes.count - 3, by: 4) {
            let number = (0..<4).reduce(UInt64(0)) { $0 | UInt64(bytes[start + $1]) << UInt64($1 * 8) }
            release(GuestPhysicalAddress(number << Self.pageShift), 1 << Self.pageShift, memory)
        }
    }

    private func release(_ address: GuestPhysicalAddress, _ count: UInt64, _ memory: GuestMemory) {
        releasedBytes &+= memory.release(address, count: count)
    }

    // MARK: Host events

    /// Asks the driver to fill the balloon to `pages` pages of 4 KiB.
    public func setTarget(pages: UInt32) {
        target = pages
        transport?.raiseConfigurationChange()
    }

    /// Pages that the driver says it has put into the balloon.
    public var pages: UInt32 { actual }

    // MARK: Save and restore

    public func saveDeviceState() -> DeviceState { DeviceState(target: target, actual: actual) }
    public func validate(_ state: DeviceState) throws(SnapshotError) {}

    public func assign(_ state: DeviceState) {
        target = state.target
        actual = state.actual
    }
}
