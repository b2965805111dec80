// SPDX-License-Identifier: Apache-2.0
// A network of the guest's own behind this process: what it sends leaves through sockets, if the policy allows it.

public import Virtio

/// User-mode network address translation. The machine's thread only.
public final class UserNetwork: NetworkBackend, SlirpOwner {
    /// Between two looks at sockets while the guest is busy and sends nothing.
    private static let pollNanoseconds: UInt64 = 100_000
    /// Bytes that wait for buffers of the guest's.
    private static let queueCapacity = 4 << 20
    /// Peers of published UDP ports that the guest may answer to.
    private static let largestPeers = 1024

    private struct Peer: Hashable {
        var guestPort: UInt16
        var address: IPv4Address
        var port: UInt16
    }

    public weak var guest: (any NetworkGuest)?
    private let stack: SlirpStack
    /// Nil: everything may get out.
    private var policy: OutboundPolicy?
    /// The guest's ports that are published for UDP.
    private let datagramPorts: Set<UInt16>
    private var peers: Set<Peer> = []
    private var connections = ConnectionTable()
    /// The guest's Ethernet address, as it says.
    private var guestMAC = [UInt8](repeating: 0xff, count: 6)
    private var offloads: NetworkOffloads = []

    /// Frames for the guest, from `firstWaiting` on.
    private var waiting: [[UInt8]] = []
    private var firstWaiting = 0
    private var waitingBytes = 0
    private var lastPoll: UInt64 = 0
    private var hasSent = false

    /// - Parameters:
    ///   - policy: nil lets everything out.
    public init(mtu: UInt16, policy: OutboundPolicy?, publish: [PortForward]) throws(NetworkError) {
        stack = try SlirpStack(mtu: mtu)
        self.policy = policy
        datagramPorts = Set(publish.filter(\.isDatagram).map(\.guestPort))
        stack.owner = self
        for forward in publish { try stack.publish(forward) }
    }

    public func setOffloads(_ offloads: NetworkOffloads) { self.offloads = offloads }

    // MARK: From the guest

    public func transmit(_ packet: inout [UInt8]) {
        let frame = NetworkHeader.size
        guard let header = NetworkHeader(packet), packet.count >= frame + InternetPacket.ethernetHeader else { return }
        guestMAC = Array(packet[frame + 6..<frame + 12])
        hasSent = true
        switch InternetPacket.etherType(packet, frame: frame) {
        case InternetPacket.etherTypeARP: stack.take(packet, from: frame)
        case InternetPacket.etherTypeIPv4:
            guard let parsed = InternetPacket(packet, frame: frame), mayLeave(parsed, packet),
                InternetChecksum.complete(&packet, frame: frame, header)
            else { return }
            if case .tcp(let segment) = parsed.transport { connections.sent(segment, of: parsed) }
            stack.take(packet, from: frame)
        // Version 6 and others end here.
        default: break
        }
    }

    /// Whether the host sees a packet; the guest is told of those that a policy stops.
    private func mayLeave(_ packet: InternetPacket, _ bytes: [UInt8]) -> Bool {
        if isOwnBusiness(packet) { return true }
        guard UserNetworkLayout.isRoutable(packet.destination) else { return false }
        // libslirp 4.7 writes where it must not when it puts fragments together that no honest guest sends.
        if packet.isFragment { return refuse(packet, bytes) }
        guard let policy else { return true }
        if packet.destination == UserNetworkLayout.resolver, case .udp(let datagram) = packet.transport,
            datagram.destinationPort == DomainMessage.port
        {
            return mayResolve(datagram, packet, bytes, policy)
        }
        if policy.allows(packet.destination) { return true }
        switch packet.transport {
        // Only the first segment makes a connection: what follows belongs to one that was allowed, or came from outside.
        case .tcp(let segment):
            if !segment.flags.contains(.synchronize) || segment.flags.contains(.acknowledge) { return true }
        case .udp(let datagram):
            let peer = Peer(
                guestPort: datagram.sourcePort, address: packet.destination, port: datagram.destinationPort)
            if peers.contains(peer) { return true }
        case .icmp, .opaque: break
        }
        return refuse(packet, bytes)
    }

    private func refuse(_ packet: InternetPacket, _ bytes: [UInt8]) -> Bool {
        deliver(builder.prohibited(packet, in: bytes, from: UserNetworkLayout.gateway))
        return false
    }

    /// What the network itself answers, and no host sees: DHCP, and echo requests to the gateway and the resolver.
    private func isOwnBusiness(_ packet: InternetPacket) -> Bool {
        switch packet.transport {
        case .udp(let datagram):
            datagram.destinationPort == 67
                && [UserNetworkLayout.broadcast, UserNetworkLayout.gateway].contains(packet.destination)
        case .icmp(let type):
            type == 8 && [UserNetworkLayout.gateway, UserNetworkLayout.resolver].contains(packet.destination)
        case .tcp, .opaque: false
        }
    }

    private func mayResolve(
        _ datagram: InternetPacket.Datagram, _ packet: InternetPacket, _ bytes: [UInt8], _ policy: OutboundPolicy
    ) -> Bool {
        guard let query = DomainMessage(bytes[datagram.payload]) else { return false }
        if query.isPlainQuestion, policy.allows(name: query.name) { return true }
        deliver(builder.answer(datagram, of: packet, with: query.refusal))
        return false
    }

    private var builder: FrameBuilder { FrameBuilder(gateway: UserNetworkLayout.gatewayMAC, guest: guestMAC) }

    // MARK: To the guest

    func stackSends(_ frame: UnsafeRawBufferPointer) {
        unsafe inspect(frame)
        if waiting.isEmpty, let guest, unsafe guest.receive(header, frame) { return }
        unsafe enqueue(Array(frame))
    }

    private func deliver(_ frame: [UInt8]) {
        enqueue(frame)
        flush()
    }

    /// libslirp has made the checksums, so there is nothing to verify.
    private var header: NetworkHeader {
        NetworkHeader(flags: offloads.contains(.checksum) ? NetworkHeader.dataValid : 0)
    }

    private func enqueue(_ frame: [UInt8]) {
        guard waitingBytes + frame.count <= Self.queueCapacity else { return }
        // Room that has become free at the front is used again when it is most of it.
        if firstWaiting > 1024, firstWaiting > waiting.count / 2 {
            waiting.removeFirst(firstWaiting)
            firstWaiting = 0
        }
        waiting.append(frame)
        waitingBytes += frame.count
    }

    private func flush() {
        guard let guest, !waiting.isEmpty else { return }
        while firstWaiting < waiting.count {
            // SAFETY: the array stays while its bytes are copied.
            guard unsafe waiting[firstWaiting].withUnsafeBytes({ unsafe guest.receive(header, $0) }) else { return }
            waitingBytes -= waiting[firstWaiting].count
            waiting[firstWaiting] = []
            firstWaiting += 1
        }
        waiting.removeAll(keepingCapacity: true)
        firstWaiting = 0
    }

    /// Notes what a frame for the guest says of its connections, of peers, and of allowed names.
    private func inspect(_ frame: UnsafeRawBufferPointer) {
        // Headers with all their options.
        let head = unsafe Array(frame.prefix(InternetPacket.ethernetHeader + 60 + 60))
        guard let packet = InternetPacket(head, frame: 0, isCut: true) else { return }
        switch packet.transport {
        case .tcp(let segment): connections.received(segment, of: packet)
        case .udp(let datagram):
            if datagramPorts.contains(datagram.destinationPort) {
                if peers.count >= Self.largestPeers { peers.removeAll() }
                peers.insert(
                    Peer(guestPort: datagram.destinationPort, address: packet.source, port: datagram.sourcePort))
            }
            guard policy != nil, packet.source == UserNetworkLayout.resolver,
                datagram.sourcePort == DomainMessage.port
            else { return }
            unsafe learn(Array(frame))
        case .icmp, .opaque: break
        }
    }

    private func learn(_ frame: [UInt8]) {
        guard case .udp(let datagram)? = InternetPacket(frame, frame: 0)?.transport,
            let answer = DomainMessage(frame[datagram.payload])
        else { return }
        policy?.learn(answer.addresses.map { .init(name: answer.name, address: $0) })
    }

    // MARK: The machine's thread

    public func poll() {
        flush()
        let now = SlirpStack.now
        guard hasSent || now &- lastPoll >= Self.pollNanoseconds else { return }
        hasSent = false
        lastPoll = now
        stack.poll()
    }

    public func prepareToWait() -> NetworkWait {
        let milliseconds = stack.prepareToWait()
        lastPoll = 0
        return NetworkWait(
            descriptor: stack.descriptor, nanoseconds: milliseconds.map { UInt64($0) * 1_000_000 })
    }

    // MARK: Save and restore

    public func saveSession() -> NetworkSession {
        var session = NetworkSession()
        session.connections = connections.open
        session.resolved = policy?.resolved ?? []
        return session
    }

    /// Ends the guest's connections: a reset that the guest does not expect at that place makes it ask, and libslirp, which
    /// knows no such connection, answers with another.
    public func resume(_ session: NetworkSession, guest address: MACAddress) {
        guestMAC = address.bytes
        policy?.learn(session.resolved)
        for connection in session.connections { enqueue(builder.reset(connection)) }
        flush()
    }
}
