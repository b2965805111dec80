// SPDX-License-Identifier: Apache-2.0
// One stream between a Unix socket of the host and a port of the guest, and its credit. Spec: virtio 1.2 §5.10.6.3.

/// The machine's thread only.
final class VsockConnection {
    enum Phase {
        /// The host's client has not yet said where it wants to go.
        case greeting
        /// It has, but the guest cannot be asked yet.
        case waiting
        /// The guest has been asked.
        case requested
        case open
        /// The guest's end is gone: what it sent still goes to the host, then the host's end closes.
        case draining
    }

    /// Bytes on their way to the host that are kept for it: what the guest may send without hearing from us.
    static let capacity: UInt32 = 256 << 10
    /// The guest is told of room when this much is new.
    private static let creditStep = capacity / 4

    /// Names the connection to the poller.
    let token: UInt64
    let socket: HostSocket
    var phase: Phase
    var ports: VsockPorts

    /// The host's end has something to read; remembered until a read finds nothing.
    var isReadable = false
    /// It stands in the device's list of those that have something for the guest.
    var isQueued = false
    /// A credit update waits for a buffer of the guest's.
    var isCreditQueued = false
    /// The host's end closed, or shut down both directions.
    var isHungUp = false
    /// What the guest was told that the host does not do any more, and said itself.
    var hostShutdown: VsockShutdown = []
    var guestShutdown: VsockShutdown = []

    // MARK: Towards the guest

    private var guestBuffer: UInt32 = 0
    private var guestForwarded: UInt32 = 0
    private var sent: UInt32 = 0

    /// Bytes that the guest has room for, by its own word. A guest that lies gets nothing, or more than it can take.
    var guestCredit: UInt32 {
        let underWay = sent &- guestForwarded
        return underWay < guestBuffer ? guestBuffer - underWay : 0
    }

    func updateGuest(_ header: VsockHeader) {
        guestBuffer = header.bufferSize
        guestForwarded = header.forwarded
    }

    func didSend(_ count: Int) { sent &+= UInt32(truncatingIfNeeded: count) }

    /// Whether the host's end may have bytes that the guest would take.
    var isReadyForGuest: Bool {
        phase == .open && isReadable && guestCredit > 0 && !hostShutdown.contains(.send)
            && !guestShutdown.contains(.receive)
    }

    // MARK: Towards the host

    /// Bytes that the host's end did not take yet.
    private(set) var outgoing = ByteQueue()
    private(set) var forwarded: UInt32 = 0
    private var toldForwarded: UInt32 = 0

    /// False when the guest sends more than it was given credit for.
    func accepts(_ count: UInt32) -> Bool { UInt64(outgoing.count) + UInt64(count) <= UInt64(Self.capacity) }

    /// `count` bytes of the guest's went to the host at once, or into nothing.
    func didForward(_ count: Int) { forwarded &+= UInt32(truncatingIfNeeded: count) }

    func keep(_ bytes: UnsafeRawBufferPointer) { unsafe outgoing.append(bytes) }

    /// Sends what is kept; false when the host's end takes nothing any more.
    func flush() -> Bool {
        while !outgoing.isEmpty {
            let result = socket.send(outgoing.bytes)
            switch result {
            case .done(let count):
                outgoing.removeFirst(count)
                didForward(count)
            case .later: return true
            case .closed:
                discard()
                return false
            }
        }
        return true
    }

    func discard() {
        didForward(outgoing.count)
        outgoing.removeFirst(outgoing.count)
    }

    var needsCreditUpdate: Bool { forwarded &- toldForwarded >= Self.creditStep }

    /// Puts our side of the credit into a packet for the guest.
    func fill(_ header: inout VsockHeader) {
        header.bufferSize = Self.capacity
        header.forwarded = forwarded
        toldForwarded = forwarded
        isCreditQueued = false
    }

    init(token: UInt64, socket: HostSocket, phase: Phase, ports: VsockPorts) {
        self.token = token
        self.socket = socket
        self.phase = phase
        self.ports = ports
    }
}

/// Bytes that come at one end and go at the other.
struct ByteQueue {
    private var storage: [UInt8] = []
    private var start = 0

    var count: Int { storage.count - start }
    var isEmpty: Bool { count == 0 }
    var bytes: ArraySlice<UInt8> { storage[start...] }

    mutating func append(_ bytes: UnsafeRawBufferPointer) { unsafe storage.append(contentsOf: bytes) }

    mutating func removeFirst(_ count: Int) {
        start += count
        if start == storage.count {
            storage.removeAll(keepingCapacity: start <= 64 << 10)
            start = 0
        } else if start > storage.count / 2 {
            storage.removeFirst(start)
            start = 0
        }
    }
}
