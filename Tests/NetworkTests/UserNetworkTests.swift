// SPDX-License-Identifier: Apache-2.0
// The user-mode network as packets see it: sockets of this host's loopback only.

import Testing
import Virtio
@testable import Network

struct UserNetworkTests {
    private func network(_ allow: [String]?) throws -> (UserNetwork, Guest) {
        let network = try UserNetwork(mtu: 1500, policy: try allow.map { try OutboundPolicy($0) }, publish: [])
        let guest = Guest()
        network.guest = guest
        return (network, guest)
    }

    private func send(_ network: UserNetwork, _ bytes: [UInt8]) {
        var bytes = bytes
        network.transmit(&bytes)
        network.poll()
    }

    @Test(arguments: [
        tcp(to: address("192.0.2.9"), port: 80, flags: [.synchronize]),
        udp(to: address("192.0.2.9"), port: 123, [1]),
        packet(1, to: address("192.0.2.9"), [8, 0, 0xf7, 0xff, 0, 0, 0, 0]),
        packet(6, to: address("192.0.2.9"), [UInt8](repeating: 0, count: 24), fragment: 0x2000),
        packet(6, to: UserNetworkLayout.gateway, [UInt8](repeating: 0, count: 24), fragment: 1),
        tcp(to: UserNetworkLayout.gateway, port: 80, flags: [.synchronize]),
        tcp(to: UserNetworkLayout.resolver, port: 53, flags: [.synchronize]),
        udp(to: UserNetworkLayout.gateway, port: 69, [1]),
        udp(to: UserNetworkLayout.resolver, port: 123, [1]),
    ])
    func `what a policy stops is answered as prohibited`(bytes: [UInt8]) throws {
        let (network, guest) = try network(["198.51.100.0/24"])
        send(network, bytes)
        let answer = try #require(guest.packets.first)
        #expect(answer.transport == .icmp(3))
        #expect(guest.frames[0][35] == 13)
        #expect(answer.source == UserNetworkLayout.gateway)
        #expect(answer.destination == UserNetworkLayout.guest)
        #expect(Array(guest.frames[0].prefix(6)) == guestMAC)
        #expect(InternetChecksum.sum(guest.frames[0], 14..<34) == 0xffff)
        #expect(InternetChecksum.sum(guest.frames[0], 34..<guest.frames[0].count) == 0xffff)
    }

    @Test(arguments: [0x2000, 0x2001, 1] as [UInt16], [nil, ["192.0.2.0/24"]])
    func `fragments are refused, policy or not`(fragment: UInt16, allow: [String]?) throws {
        let (network, guest) = try network(allow)
        send(network, packet(17, to: address("192.0.2.9"), [UInt8](repeating: 0, count: 24), fragment: fragment))
        let answer = try #require(guest.packets.first)
        #expect(answer.transport == .icmp(3))
        #expect(guest.frames[0][35] == 13)
    }

    @Test func `names that are not allowed are refused by name`() throws {
        let (network, guest) = try network(["example.org"])
        send(network, udp(to: UserNetworkLayout.resolver, port: 53, question("secret.example.com")))
        let answer = try #require(guest.packets.first)
        guard case .udp(let datagram) = answer.transport else {
            Issue.record("no datagram")
            return
        }
        let message = try #require(DomainMessage(guest.frames[0][datagram.payload]))
        #expect(message.name == "secret.example.com")
        #expect(Array(guest.frames[0][datagram.payload].prefix(4)) == [0x12, 0x34, 0x81, 5])
        #expect(datagram.destinationPort == 5000)
        let initial = InternetChecksum.pseudoHeader(
            answer.source, answer.destination, protocol: 17, length: guest.frames[0].count - 34)
        #expect(InternetChecksum.sum(guest.frames[0], 34..<guest.frames[0].count, initial: initial) == 0xffff)
    }

    @Test(arguments: ["127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "255.255.255.255"])
    func `packets that no network carries go nowhere, policy or not`(text: String) throws {
        for allow in [nil, ["0.0.0.0/0", text]] {
            let (network, guest) = try network(allow)
            send(network, tcp(to: address(text), port: 22, flags: [.synchronize]))
            send(network, udp(to: address(text), port: 22, [1]))
            #expect(guest.packets.isEmpty)
        }
    }

    @Test func `a segment of no known connection is reset`() throws {
        let (network, guest) = try network(nil)
        send(network, arp)
        send(network, tcp(to: address("192.0.2.1"), port: 80, flags: [.acknowledge], acknowledgement: 1234))
        guard case .tcp(let segment)? = guest.packets.last?.transport else {
            Issue.record("no answer")
            return
        }
        #expect(segment.flags.contains(.reset))
        #expect(segment.sequence == 1234)
    }

    @Test func `a copy's connections are reset where the guest expects it`() throws {
        let (network, guest) = try network(nil)
        var session = NetworkSession()
        session.connections = [
            .init(
                guestAddress: UserNetworkLayout.guest, guestPort: 40000, peerAddress: address("192.0.2.1"),
                peerPort: 80, expected: 4321)
        ]
        network.resume(session, guest: try #require(MACAddress("02:00:00:00:00:01")))
        guard let answer = guest.packets.first, case .tcp(let segment) = answer.transport else {
            Issue.record("no reset")
            return
        }
        #expect(segment.flags == .reset)
        #expect(segment.sequence == 4321)
        #expect(segment.destinationPort == 40000 && segment.sourcePort == 80)
        let initial = InternetChecksum.pseudoHeader(answer.source, answer.destination, protocol: 6, length: 20)
        #expect(InternetChecksum.sum(guest.frames[0], 34..<54, initial: initial) == 0xffff)
    }

    @Test func `addresses that a name had are allowed in a copy, too`() throws {
        let (network, _) = try network(["example.org"])
        var session = NetworkSession()
        let allowed = NetworkSession.Resolution(name: "example.org", address: address("192.0.2.44"))
        session.resolved = [allowed, .init(name: "other.org", address: address("192.0.2.45"))]
        network.resume(session, guest: try #require(MACAddress("02:00:00:00:00:01")))
        #expect(network.saveSession().resolved == [allowed])
    }

    @Test func `a published datagram's sender may be answered, and nobody else, whatever the policy`() throws {
        let host = try HostSocket()
        let forward = PortForward(
            isDatagram: true, hostAddress: "127.0.0.1", hostPort: try HostSocket().port, guestPort: 9)
        let network = try UserNetwork(mtu: 1500, policy: try OutboundPolicy([]), publish: [forward])
        let guest = Guest()
        network.guest = guest
        send(network, arp)
        host.send([1, 2, 3], to: forward.hostPort)
        for _ in 0..<1000 where guest.packets.isEmpty {
            host.pause()
            network.poll()
        }
        let packet = try #require(guest.packets.first)
        guard case .udp(let datagram) = packet.transport else {
            Issue.record("no datagram")
            return
        }
        #expect(datagram.destinationPort == 9)
        send(network, udp(to: packet.source, port: datagram.sourcePort, from: 9, [4, 5]))
        #expect(host.receive() == [4, 5])
        send(network, udp(to: packet.source, port: datagram.sourcePort &+ 1, from: 9, [6]))
        #expect(guest.packets.last?.transport == .icmp(3))
    }

    @Test func `frames wait for a guest that has no room, up to a bound`() throws {
        let (network, guest) = try network([])
        guest.hasRoom = false
        for _ in 0..<100_000 { send(network, udp(to: address("192.0.2.9"), port: 1, [1])) }
        guest.hasRoom = true
        network.poll()
        #expect(guest.frames.count > 1000)
        #expect(guest.frames.count < 100_000)
    }

    @Test func `frames at random do not trap`() throws {
        var generator = SystemRandomNumberGenerator()
        for allow in [nil, ["192.0.2.0/24", "example.org"]] {
            let (network, _) = try network(allow)
            let seeds = [
                tcp(to: UserNetworkLayout.gateway, port: 1, flags: [.synchronize]), arp,
                udp(to: UserNetworkLayout.resolver, port: 53, question("example.com")),
                udp(to: UserNetworkLayout.broadcast, port: 67, [UInt8](repeating: 1, count: 300)),
            ]
            for round in 0..<8000 {
                var bytes = seeds[round % seeds.count]
                for _ in 0..<Int.random(in: 1..<6) {
                    bytes[Int.random(in: 0..<min(bytes.count, 90))] = UInt8.random(in: 0...255, using: &generator)
                }
                // To nobody but this host.
                if bytes[24] == 8, bytes[25] == 0 { bytes.replaceSubrange(42..<46, with: [10, 0, 2, 2]) }
                if round.isMultiple(of: 7) { bytes.removeLast(Int.random(in: 0..<bytes.count - 26)) }
                send(network, bytes)
            }
        }
    }

    @Test func `a port that is taken is refused by its number`() throws {
        let forward = PortForward(isDatagram: false, hostAddress: "192.0.2.1", hostPort: 80, guestPort: 80)
        let error = #expect(throws: NetworkError.self) {
            try UserNetwork(mtu: 1500, policy: nil, publish: [forward])
        }
        #expect(error?.description.contains("192.0.2.1:80:80") == true)
    }

    @Test func `an interface that is not there is refused with what to do`() {
        let error = #expect(throws: NetworkError.self) { try TapNetwork(interface: "no-such-tap0") }
        #expect(error?.description.contains("ip tuntap add no-such-tap0") == true)
    }

    /// Who has 10.0.2.2? The guest.
    private var arp: [UInt8] {
        [UInt8](repeating: 0, count: 12) + [UInt8](repeating: 0xff, count: 6) + guestMAC
            + [8, 6, 0, 1, 8, 0, 6, 4, 0, 1] + guestMAC + UserNetworkLayout.guest.bytes
            + [0, 0, 0, 0, 0, 0] + UserNetworkLayout.gateway.bytes
    }
}
