// SPDX-License-Identifier: Apache-2.0
// A virtio socket device: streams between the guest's vsock ports and Unix sockets of the host. Spec: virtio 1.2 §5.10.

public import Bus
public import Snapshot

/// Carries streams in both directions with credit. The machine's thread only; nothing in it waits.
///
/// What the guest sends goes to the host's sockets at once or is kept, up to the credit that the guest was given. What the
/// host sends stays in its socket until the guest has a buffer and credit for it.
public final class VsockDevice: VirtioDevice {
    public struct DeviceState: Codable, Equatable, Sendable {
        /// The guest's own address.
        public var contextID: UInt64
        /// The guest's connections that it has not heard of since it asked for them, or is to hear have ended. Others are
        /// not part of the state: a restored machine's streams have nobody at the host's end.
        public var unanswered: [VsockPorts]
        /// The port that the host's end had last: the guest still knows connections with those up to it.
        public var lastHostPort: UInt32
    }

    enum Queue {
        static let receive = 0
        static let transmit = 1
        static let event = 2
    }

    private struct Features {
        static let stream: UInt64 = 1 << 0  // VIRTIO_VSOCK_F_STREAM
    }

    /// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, 32 bits.
    private static let transportReset: [UInt8] = [0, 0, 0, 0]
    /// Packets that wait for a buffer of the driver's beyond which it is not listened to.
    static let controlCapacity = 256
    /// Packets that one call takes before the machine's thread does something else.
    private static let largestBatch = 1024
    /// Connections at a time, in whatever phase.
    static let largestCount = 1024
    private static let scratchSize = 64 << 10

    private weak var transport: (any VirtioTransport)?
    private var queues: [Virtqueue] = []
    private var chain = DescriptorChain()
    private var scratch: [UInt8] = []

    /// Packets without data for the guest, in order.
    private var control: [VsockHeader] = []
    /// Connections that may have data for the guest, next one first.
    private var ready: [VsockConnection] = []
    /// The guest must be told that all of its connections have ended.
    private var isResetPending = false
    /// How far the event queue was when it was told; nothing else happens until its driver has seen it.
    private var resetSeenBehind: UInt16?
    /// The queues may have something that nobody told of.
    private var needsService = false

    // The host's side, in VsockHost.swift.
    var poller: HostPoller?
    var listener: HostSocket?
    /// Where the listener is, and what the guest's own connections start with.
    var path = ""
    var isAccepting = false
    var connections: [UInt64: VsockConnection] = [:]
    var byPorts: [VsockPorts: VsockConnection] = [:]
    var lastToken: UInt64 = 0
    var lastHostPort: UInt32 = 0

    public init() {}

    // MARK: Registers

    public var kind: VirtioDeviceKind { .socket }
    public var deviceFeatures: UInt64 { Features.stream }
    public var queueSizes: [UInt16] { [256, 256, 16] }

    public func readConfiguration(offset: UInt64, width: AccessWidth) -> UInt64 {
        offset < 8 ? VsockContext.guest >> (offset * 8) & width.openBus : 0
    }

    /// All of it is read-only.
    public func writeConfiguration(_ value: UInt64, offset: UInt64, width: AccessWidth) {}

    // MARK: The driver

    public func activate(_ transport: any VirtioTransport, queues: [Virtqueue], features: UInt64) {
        self.transport = transport
        self.queues = queues
        needsService = true
    }

    public func reset() {
        transport = nil
        queues = []
        control = []
        isResetPending = false
        resetSeenBehind = nil
        needsService = false
        endConnections()
    }

    public func notify(queue index: Int) { service() }

    /// Whether a driver listens to new connections.
    var isActive: Bool { transport != nil }

    /// Moves what can be moved between the queues and the sockets.
    func service() {
        guard let transport else { return }
        needsService = false
        do throws(VirtqueueFault) {
            if try settleReset() {
                var hasMore: Bool
                repeat {
                    hasMore = try takePackets()
                    try deliver()
                } while hasMore && control.isEmpty
                needsService = hasMore
            }
        } catch {
            transport.fail(error)
            reset()
            return
        }
        for queue in queues where queue.shouldInterrupt() { transport.raiseQueueInterrupt() }
    }

    /// Tells the driver of the reset; true when there is none that it has not seen. It has when it gives the event's buffer
    /// back: a connection made before would be reset, too.
    private func settleReset() throws(VirtqueueFault) -> Bool {
        guard let transport else { return false }
        let queue = queues[Queue.event]
        if isResetPending {
            guard try queue.pop(into: &chain) else {
                _ = queue.enableNotifications()
                return false
            }
            let written = chain.write(Self.transportReset, at: 0, transport.memory)
            resetSeenBehind = queue.availableIndex
            try queue.complete(chain.head, written: written ? UInt32(Self.transportReset.count) : 0)
            isResetPending = false
            queue.notifyOfNext()
        }
        guard let behind = resetSeenBehind else { return true }
        guard queue.availableIndex != behind else { return false }
        resetSeenBehind = nil
        askWaiting()
        return true
    }

    /// The guest's packets. Returns whether more wait, because many came or replies have no room.
    private func takePackets() throws(VirtqueueFault) -> Bool {
        let queue = queues[Queue.transmit]
        var count = 0
        repeat {
            while control.count < Self.controlCapacity, count < Self.largestBatch, try queue.pop(into: &chain) {
                guard let header = VsockHeader(chain.readBytes(limit: VsockHeader.size)) else {
                    throw .missingBuffer(queue: queue.index, head: chain.head)
                }
                handle(header, chain)
                try queue.complete(chain.head, written: 0)
                count += 1
            }
            if control.count >= Self.controlCapacity || count >= Self.largestBatch { return queue.hasPending }
        } while queue.enableNotifications()
        return false
    }

    /// Control packets, then data of each connection in turn, as long as the driver has buffers.
    private func deliver() throws(VirtqueueFault) {
        let queue = queues[Queue.receive]
        repeat {
            var sent = 0
            while sent < control.count, try queue.pop(into: &chain) {
                var header = control[sent]
                byPorts[VsockPorts(host: header.sourcePort, guest: header.destinationPort)]?.fill(&header)
                try put(header, data: 0, queue)
                sent += 1
            }
            control.removeFirst(sent)
            guard control.isEmpty else { continue }
            while let connection = ready.first {
                ready.removeFirst()
                connection.isQueued = false
                guard connection.isReadyForGuest else { continue }
                guard try queue.pop(into: &chain) else {
                    enqueue(connection, first: true)
                    break
                }
                try deliver(connection, queue)
            }
        } while (!control.isEmpty || !ready.isEmpty) && queue.enableNotifications()
    }

    /// One packet of a connection's data into the chain that was taken.
    private func deliver(_ connection: VsockConnection, _ queue: Virtqueue) throws(VirtqueueFault) {
        let room = Int(clamping: chain.writableCount) - VsockHeader.size
        guard room > 0 else { throw .missingBuffer(queue: queue.index, head: chain.head) }
        if scratch.isEmpty { scratch = [UInt8](repeating: 0, count: Self.scratchSize) }
        switch connection.socket.receive(&scratch, limit: min(room, Int(connection.guestCredit))) {
        case .done(let count):
            var header = VsockHeader(.data, connection.ports, guest: VsockContext.guest)
            header.length = UInt32(count)
            connection.fill(&header)
            connection.didSend(count)
            try put(header, data: count, queue)
            enqueue(connection)
        case .later:
            queue.putBack()
            connection.isReadable = false
        case .end:
            queue.putBack()
            connection.isReadable = false
            hostEnds(connection)
        }
    }

    /// Writes a packet whose data are the first `count` bytes of `scratch`.
    private func put(_ header: VsockHeader, data count: Int, _ queue: Virtqueue) throws(VirtqueueFault) {
        guard let transport, chain.write(header.bytes, at: 0, transport.memory),
            chain.write(scratch[..<count], at: VsockHeader.size, transport.memory)
        else { throw .missingBuffer(queue: queue.index, head: chain.head) }
        try queue.complete(chain.head, written: UInt32(VsockHeader.size + count))
    }

    // MARK: Packets for the guest

    func queue(_ operation: VsockOperation, _ ports: VsockPorts, flags: VsockShutdown = []) {
        control.append(VsockHeader(operation, ports, guest: VsockContext.guest, flags: flags))
    }

    /// Tells the guest of new room, once until it has heard of it.
    func queueCredit(_ connection: VsockConnection) {
        guard connection.needsCreditUpdate, !connection.isCreditQueued else { return }
        connection.isCreditQueued = true
        queue(.creditUpdate, connection.ports)
    }

    /// The client that wanted this connection is gone: the guest is not asked, or told that it is over.
    func cancel(_ connection: VsockConnection) {
        let request = control.firstIndex {
            $0.operation == VsockOperation.request.rawValue && $0.sourcePort == connection.ports.host
                && $0.destinationPort == connection.ports.guest
        }
        if let request { control.remove(at: request) } else { queue(.reset, connection.ports) }
    }

    /// Takes a connection up among those that have something for the guest, if it has.
    func enqueue(_ connection: VsockConnection, first: Bool = false) {
        guard !connection.isQueued, connection.isReadyForGuest else { return }
        connection.isQueued = true
        if first { ready.insert(connection, at: 0) } else { ready.append(connection) }
    }

    func dequeueAll() { ready = [] }

    /// Whether new connections may be asked for.
    var mayAsk: Bool { isActive && !isResetPending && resetSeenBehind == nil }

    /// Whether `poll` has something to do at once.
    public var hasWork: Bool { needsService }

    // MARK: Save and restore

    public func saveDeviceState() -> DeviceState {
        let ends = control.filter {
            $0.operation == VsockOperation.response.rawValue || $0.operation == VsockOperation.reset.rawValue
        }
        return DeviceState(
            contextID: VsockContext.guest,
            unanswered: ends.map { VsockPorts(host: $0.sourcePort, guest: $0.destinationPort) },
            lastHostPort: lastHostPort)
    }

    public func validate(_ state: DeviceState) throws(SnapshotError) {
        try require(
            state.contextID == VsockContext.guest, layer: "virtio-vsock", field: "contextID", value: state.contextID,
            allowed: "\(VsockContext.guest)")
        let limit = Self.controlCapacity + Self.largestCount
        try require(
            state.unanswered.count <= limit, layer: "virtio-vsock", field: "unanswered", value: state.unanswered.count,
            allowed: "at most \(limit)")
    }

    public func assign(_ state: DeviceState) {
        endConnections()
        control = []
        for ports in state.unanswered { queue(.reset, ports) }
        isResetPending = true
        resetSeenBehind = nil
        lastHostPort = state.lastHostPort
    }
}
