// SPDX-License-Identifier: Apache-2.0
// A virtio entropy device: random bytes from the host. Spec: virtio 1.2 §5.4.

public import Bus
public import Snapshot

/// Fills the driver's buffers with the host's random bytes. The machine's thread only.
public final class EntropyDevice: VirtioDevice {
    /// It has none.
    public struct DeviceState: Codable, Equatable, Sendable {}

    /// Bytes for one request: a driver asks for a few, a hostile one shall not keep the machine's thread busy.
    private static let largestAnswer = 64 << 10

    private weak var transport: (any VirtioTransport)?
    private var queue: Virtqueue?
    private var chain = DescriptorChain()
    private var generator = SystemRandomNumberGenerator()

    public init() {}

    public var kind: VirtioDeviceKind { .entropy }
    public var deviceFeatures: UInt64 { 0 }
    public var queueSizes: [UInt16] { [64] }

    /// It has no configuration space.
    public func readConfiguration(offset: UInt64, width: AccessWidth) -> UInt64 { width.openBus }
    public func writeConfiguration(_ value: UInt64, offset: UInt64, width: AccessWidth) {}

    public func activate(_ transport: any VirtioTransport, queues: [Virtqueue], features: UInt64) {
        self.transport = transport
        queue = queues.first
    }

    public func reset() {
        transport = nil
        queue = nil
    }

    public func notify(queue index: Int) {
        guard let transport, let queue else { return }
        do throws(VirtqueueFault) {
            while try queue.pop(into: &chain) {
                let count = Int(min(chain.writableCount, UInt64(Self.largestAnswer)))
                _ = chain.write(randomBytes(count), at: 0, transport.memory)
                try queue.complete(chain.head, written: UInt32(count))
            }
            _ = queue.enableNotifications()
        } catch {
            transport.fail(error)
        }
        if queue.shouldInterrupt() { transport.raiseQueueInterrupt() }
    }

    private func randomBytes(_ count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count + 8)
        while bytes.count < count {
            let word = generator.next()
            for shift in stride(from: UInt64(0), to: 64, by: 8) {
                bytes.append(UInt8(truncatingIfNeeded: word >> shift))
            }
        }
        return Array(bytes.prefix(count))
    }

    public func saveDeviceState() -> DeviceState { DeviceState() }
    public func validate(_ state: DeviceState) throws(SnapshotError) {}
    public func assign(_ state: DeviceState) {}
}
