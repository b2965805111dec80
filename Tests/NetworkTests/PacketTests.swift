// SPDX-License-Identifier: Apache-2.0
// Packets are read right, checksums are right, connections are followed.

import Testing
import Virtio
@testable import Network

struct InternetPacketTests {
    @Test func `a segment and a datagram are read`() throws {
        let segment = tcp(to: address("192.0.2.1"), port: 80, flags: [.synchronize], sequence: 7, acknowledgement: 9)
        let parsed = try #require(InternetPacket(segment, frame: 12))
        #expect(parsed.source == UserNetworkLayout.guest)
        #expect(parsed.destination == address("192.0.2.1"))
        #expect(
            parsed.transport
                == .tcp(
                    .init(
                        sourcePort: 40000, destinationPort: 80, sequence: 7, acknowledgement: 9, flags: [.synchronize]))
        )
        let datagram = udp(to: address("192.0.2.1"), port: 53, [1, 2, 3])
        guard case .udp(let read)? = InternetPacket(datagram, frame: 12)?.transport else {
            Issue.record("no datagram")
            return
        }
        #expect(Array(datagram[read.payload]) == [1, 2, 3])
    }

    @Test func `packets that are cut short or say wrong lengths are none`() {
        let whole = udp(to: address("192.0.2.1"), port: 53, [1, 2, 3])
        for count in 0..<whole.count { #expect(InternetPacket(Array(whole.prefix(count)), frame: 12) == nil) }
        for (offset, value) in [(26, 0x65), (26, 0x41), (26, 0x4f), (29, 10), (50, 0xff), (51, 7), (12 + 12, 0)] {
            var bad = whole
            bad[offset] = UInt8(value)
            #expect(InternetPacket(bad, frame: 12) == nil, "\(value) at \(offset)")
        }
    }

    @Test func `fragments have no ports`() {
        let first = packet(17, to: address("192.0.2.1"), [UInt8](repeating: 0, count: 16), fragment: 0x2000)
        #expect(InternetPacket(first, frame: 12)?.isFragment == true)
        #expect(InternetPacket(first, frame: 12)?.transport == .opaque)
        let second = packet(17, to: address("192.0.2.1"), [1], fragment: 1)
        #expect(InternetPacket(second, frame: 12)?.isFragment == true)
        let whole = packet(47, to: address("192.0.2.1"), [1], fragment: 0x4000)
        #expect(InternetPacket(whole, frame: 12)?.isFragment == false)
    }
}

struct InternetChecksumTests {
    @Test func `the example of RFC 1071, and odd and long inputs`() {
        let bytes: [UInt8] = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]
        #expect(InternetChecksum.sum(bytes, bytes.indices) == 0xddf2)
        let long = (0..<70_001).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        for range in [0..<70_001, 1..<70_000, 3..<4, 5..<5, 2..<13] {
            var expected: UInt32 = 0
            for (index, byte) in long[range].enumerated() {
                expected += index.isMultiple(of: 2) ? UInt32(byte) << 8 : UInt32(byte)
                expected = expected & 0xffff + expected >> 16
            }
            #expect(InternetChecksum.sum(long, range) == UInt16(expected), "\(range)")
        }
        #expect(InternetChecksum.sum(bytes, 0..<9) == 0)
    }

    @Test func `a checksum that was left to the device is completed, never outside of the packet`() throws {
        let right = tcp(to: address("192.0.2.1"), port: 80, flags: [.synchronize])
        var packet = right
        let initial = InternetChecksum.pseudoHeader(
            UserNetworkLayout.guest, address("192.0.2.1"), protocol: 6, length: 20)
        packet.set(word: InternetChecksum.sum([], 0..<0, initial: initial), at: 12 + 34 + 16)
        var header = NetworkHeader(flags: NetworkHeader.needsChecksum)
        header.checksumStart = 34
        header.checksumOffset = 16
        #expect(InternetChecksum.complete(&packet, frame: 12, header))
        #expect(packet == right)
        for (start, offset) in [(34, 19), (34, 0xffff), (0xffff, 0), (0xffff, 0xffff)] as [(UInt16, UInt16)] {
            header.checksumStart = start
            header.checksumOffset = offset
            #expect(!InternetChecksum.complete(&packet, frame: 12, header))
            #expect(packet == right)
        }
    }
}

struct ConnectionTableTests {
    private let peer = address("192.0.2.1")

    private func sent(
        _ table: inout ConnectionTable, _ flags: InternetPacket.TCPFlags, port: UInt16 = 80, ack: UInt32 = 5
    ) {
        let bytes = tcp(to: peer, port: port, flags: flags, acknowledgement: ack)
        guard let packet = InternetPacket(bytes, frame: 12), case .tcp(let segment) = packet.transport else { return }
        table.sent(segment, of: packet)
    }

    private func received(_ table: inout ConnectionTable, _ flags: InternetPacket.TCPFlags) {
        var bytes = tcp(to: UserNetworkLayout.guest, port: 40000, from: 80, flags: flags)
        bytes.replaceSubrange(38..<42, with: peer.bytes)
        guard let packet = InternetPacket(bytes, frame: 12), case .tcp(let segment) = packet.transport else { return }
        table.received(segment, of: packet)
    }

    @Test func `a connection is open from its first acknowledgement until both sides have finished`() {
        var table = ConnectionTable()
        sent(&table, [.synchronize])
        #expect(table.open.isEmpty)
        received(&table, [.synchronize, .acknowledge])
        sent(&table, [.acknowledge], ack: 77)
        #expect(
            table.open == [
                .init(
                    guestAddress: UserNetworkLayout.guest, guestPort: 40000, peerAddress: peer, peerPort: 80,
                    expected: 77)
            ])
        received(&table, [.finish, .acknowledge])
        #expect(table.open.count == 1)
        sent(&table, [.finish, .acknowledge])
        #expect(table.open.isEmpty)
        // What comes late does not open it again; a new connection with the same ports does.
        sent(&table, [.acknowledge])
        #expect(table.open.isEmpty)
        sent(&table, [.synchronize])
        sent(&table, [.acknowledge])
        #expect(table.open.count == 1)
    }

    @Test func `a reset from either side ends a connection`() {
        var table = ConnectionTable()
        sent(&table, [.acknowledge])
        received(&table, [.reset])
        #expect(table.open.isEmpty)
        sent(&table, [.acknowledge])
        sent(&table, [.reset, .acknowledge])
        #expect(table.open.isEmpty)
    }

    @Test func `a guest with any number of connections costs only so much`() {
        var table = ConnectionTable()
        for port in 1...UInt16(5000) { sent(&table, [.acknowledge], port: port) }
        #expect(table.open.count == NetworkSession.largestConnections)
        #expect(table.open.contains { $0.peerPort == 5000 })
        #expect(!table.open.contains { $0.peerPort == 1 })
    }
}
