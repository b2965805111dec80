// SPDX-License-Identifier: Apache-2.0
// A virtio network card with one pair of queues, between a driver and the host's side. Spec: virtio 1.2 §5.1.

public import Bus
internal import GuestMemory
public import Snapshot

/// The guest's network card. The machine's thread only.
public final class NetworkDevice: VirtioDevice, NetworkGuest {
    public struct DeviceState: Codable, Equatable, Sendable {
        public var address: MACAddress
        public var mtu: UInt16
        public var isLinkUp: Bool
        public var session: NetworkSession
    }

    private enum Queue {
        static let receive = 0
        static let transmit = 1
    }

    private static let queueSize: UInt16 = 256
    /// Of a frame, with a header of its own and one for a virtual network: the longest TCP segment.
    private static let largestFrame = 14 + 4 + 65535
    private static let smallestFrame = 14
    /// Frames that are taken in one go. A driver that lends memory of its own ring to the device could keep it busy for
    /// ever otherwise.
    private static let batch = 1024
    /// What the specification has for the MTU.
    public static let mtuRange = 68...65535

    public let address: MACAddress
    public let mtu: UInt16
    /// Nil: the cable is out.
    private let backend: (any NetworkBackend)?

    private weak var transport: (any VirtioTransport)?
    private var queues: [Virtqueue] = []
    private var hasMergeableBuffers = false
    private var chain = DescriptorChain()
    /// Another one: frames arrive while one is sent.
    private var received = DescriptorChain()
    private var packet: [UInt8] = []
    private var taken: [(head: UInt16, written: UInt32)] = []
    /// Frames may wait in the transmit queue for the machine's thread to come back.
    private var mustTransmit = false
    /// Of the machine that this one is a copy of, until `arrive` has dealt with it.
    private var resumed: DeviceState?
    /// Frames that went through, and those that neither side had room for or that could not be.
    public private(set) var statistics = (transmitted: UInt64(0), received: UInt64(0), dropped: UInt64(0))

    public init(address: MACAddress, mtu: UInt16, backend: (any NetworkBackend)?) {
        self.address = address
        self.mtu = mtu
        self.backend = backend
        backend?.guest = self
    }

    // MARK: Registers

    public var kind: VirtioDeviceKind { .network }
    public var queueSizes: [UInt16] { [Self.queueSize, Self.queueSize] }
    public var deviceFeatures: UInt64 { NetworkFeatures.offered.rawValue }

    public func readConfiguration(offset: UInt64, width: AccessWidth) -> UInt64 {
        NetworkConfigurationSpace(address: address, isLinkUp: backend != nil, mtu: mtu)
            .read(offset: offset, width: width)
    }

    /// Nothing can be set.
    public func writeConfiguration(_ value: UInt64, offset: UInt64, width: AccessWidth) {}

    // MARK: The driver

    public func activate(_ transport: any VirtioTransport, queues: [Virtqueue], features: UInt64) {
        self.transport = transport
        self.queues = queues
        let features = NetworkFeatures(rawValue: features)
        hasMergeableBuffers = features.contains(.mergeableBuffers)
        var offloads: NetworkOffloads = []
        if features.contains(.guestChecksum) {
            offloads.insert(.checksum)
            if features.contains(.guestSegmentation4) { offloads.insert(.segmentation4) }
            if features.contains(.guestSegmentation6) { offloads.insert(.segmentation6) }
        }
        backend?.setOffloads(offloads)
        mustTransmit = true
    }

    public func reset() {
        transport = nil
        queues = []
        mustTransmit = false
        resumed = nil
    }

    public func notify(queue index: Int) {
        arrive()
        if index == Queue.transmit { transmit() }
        // Room for what has arrived, or answers to what was sent.
        backend?.poll()
        signal()
    }

    private func signal() {
        guard let transport else { return }
        for queue in queues where queue.shouldInterrupt() { transport.raiseQueueInterrupt() }
    }

    // MARK: Transmission

    private func transmit() {
        guard let transport, queues.count > Queue.transmit else { return }
        let queue = queues[Queue.transmit]
        var left = Self.batch
        mustTransmit = false
        do throws(VirtqueueFault) {
            repeat {
                queue.disableNotifications()
                while left > 0, try queue.pop(into: &chain) {
                    left -= 1
                    transmitChain()
                    try queue.complete(chain.head, written: 0)
                }
                if left == 0, queue.hasPending {
                    mustTransmit = true
                    return
                }
            } while queue.enableNotifications()
        } catch {
            transport.fail(error)
        }
    }

    private func transmitChain() {
        let range = UInt64(NetworkHeader.size + Self.smallestFrame)...UInt64(NetworkHeader.size + Self.largestFrame)
        guard let backend, range.contains(chain.readableCount) else {
            statistics.dropped += 1
            return
        }
        // Taken out of the object: what the backend answers comes back to it.
        var packet = self.packet
        self.packet = []
        packet.removeAll(keepingCapacity: true)
        chain.read(into: &packet)
        backend.transmit(&packet)
        statistics.transmitted += 1
        self.packet = packet
    }

    // MARK: Reception

    public var hasRoom: Bool { queues.count > Queue.receive && queues[Queue.receive].hasPending }

    public func receive(_ header: NetworkHeader, _ frame: UnsafeRawBufferPointer) -> Bool {
        guard let transport, queues.count > Queue.receive else { return false }
        do throws(VirtqueueFault) {
            return unsafe try place(header, frame, queues[Queue.receive], transport.memory)
        } catch {
            transport.fail(error)
            return false
        }
    }

    /// Copies a frame into as many chains as it needs; without enough of them all stay where they are.
    private func place(
        _ header: NetworkHeader, _ frame: UnsafeRawBufferPointer, _ queue: Virtqueue, _ memory: GuestMemory
    ) throws(VirtqueueFault) -> Bool {
        taken.removeAll(keepingCapacity: true)
        var done = 0
        var buffersField: [GuestPhysicalAddress] = []
        repeat {
            guard try queue.pop(into: &received) else {
                // The driver shall tell when it has lent more, unless it just has.
                if queue.enableNotifications() { continue }
                queue.putBack(taken.count)
                return false
            }
            let offset = taken.isEmpty ? NetworkHeader.size : 0
            guard received.writableCount > UInt64(offset) else {
                throw .missingBuffer(queue: queue.index, head: received.head)
            }
            if taken.isEmpty {
                _ = received.write(header.bytes, at: 0, memory)
                buffersField = received.addresses(at: NetworkHeader.buffersOffset, count: 2)
            }
            let count = min(frame.count - done, Int(clamping: received.writableCount) - offset)
            // SAFETY: `done` + `count` is at most the frame's.
            unsafe received.write(UnsafeRawBufferPointer(rebasing: frame[done..<done + count]), at: offset, memory)
            done += count
            taken.append((received.head, UInt32(offset + count)))
            if !hasMergeableBuffers, done < frame.count {
                // A driver without mergeable buffers lends ones that are long enough; this frame is lost.
                queue.putBack(1)
                statistics.dropped += 1
                return true
            }
        } while done < frame.count
        for (address, shift) in zip(buffersField, [0, 8]) {
            // The chain was checked to lie in RAM, which does not go away.
            do throws(GuestMemoryError) {
                try memory.store(UInt8(truncatingIfNeeded: taken.count >> shift), at: address)
            } catch { break }
        }
        try queue.complete(taken)
        statistics.received += 1
        return true
    }

    // MARK: Host events

    /// Moves what waits on either side.
    public func poll() {
        guard transport != nil else { return }
        arrive()
        if mustTransmit { transmit() }
        backend?.poll()
        signal()
    }

    /// In a copy: deals with what the original left open.
    private func arrive() {
        guard let transport, let resumed else { return }
        self.resumed = nil
        backend?.resume(resumed.session, guest: address)
        if resumed.isLinkUp != (backend != nil) { transport.raiseConfigurationChange() }
    }

    /// Whether `poll` has something to do at once.
    public var hasWork: Bool { transport != nil && (mustTransmit || resumed != nil) }

    /// What may be waited for before the next `poll`.
    public func prepareToWait() -> NetworkWait {
        guard transport != nil, let backend else { return NetworkWait() }
        return backend.prepareToWait()
    }

    // MARK: Save and restore

    public func saveDeviceState() -> DeviceState {
        DeviceState(
            address: address, mtu: mtu, isLinkUp: backend != nil,
            session: resumed?.session ?? backend?.saveSession() ?? NetworkSession())
    }

    public func validate(_ state: DeviceState) throws(SnapshotError) {
        func check(_ isRight: Bool, _ field: String, _ value: String, _ allowed: String) throws(SnapshotError) {
            try require(isRight, layer: "virtio-net", field: field, value: value, allowed: allowed)
        }
        try check(state.address == address, "address", "\(state.address)", "the configuration's, \(address)")
        try check(state.mtu == mtu, "mtu", "\(state.mtu)", "the configuration's, \(mtu)")
        let connections = state.session.connections.count
        try check(
            connections <= NetworkSession.largestConnections, "session.connections", "\(connections) of them",
            "at most \(NetworkSession.largestConnections)")
        let resolved = state.session.resolved.count
        try check(
            resolved <= NetworkSession.largestResolved, "session.resolved", "\(resolved) of them",
            "at most \(NetworkSession.largestResolved)")
    }

    /// The connections are dealt with when the machine runs: its memory may be restored later than this state.
    public func assign(_ state: DeviceState) { resumed = state }
}
