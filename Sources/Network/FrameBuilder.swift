// SPDX-License-Identifier: Apache-2.0
// Frames that the network answers the guest with by itself. Spec: RFC 793 §3.4, RFC 792, RFC 1812 §5.2.7.1.

internal import Virtio

/// Makes frames from the gateway to the guest.
struct FrameBuilder {
    private static let timeToLive: UInt8 = 64

    private enum ProtocolNumber {
        static let icmp: UInt8 = 1
        static let tcp: UInt8 = 6
        static let udp: UInt8 = 17
    }

    /// Of the gateway, and of the guest: six bytes each.
    let gateway: [UInt8]
    let guest: [UInt8]

    /// Tells the guest that a connection is no more.
    func reset(_ connection: NetworkSession.Connection) -> [UInt8] {
        var segment: [UInt8] = []
        segment.append(word: connection.peerPort)
        segment.append(word: connection.guestPort)
        segment.append(doubleWord: connection.expected)
        segment.append(doubleWord: 0)
        segment.append(5 << 4)  // five words of header
        segment.append(InternetPacket.TCPFlags.reset.rawValue)
        segment += [0, 0, 0, 0, 0, 0]  // window, checksum, urgent pointer
        return packet(
            ProtocolNumber.tcp, from: connection.peerAddress, to: connection.guestAddress, segment, checksumAt: 16)
    }

    /// Tells the guest that its packet was filtered: destination unreachable, administratively prohibited.
    func prohibited(_ refused: InternetPacket, in bytes: [UInt8], from address: IPv4Address) -> [UInt8] {
        let quoted = bytes[refused.start..<min(refused.start + refused.headerLength + 8, bytes.count)]
        var message: [UInt8] = [3, 13, 0, 0, 0, 0, 0, 0] + quoted
        message.set(word: ~InternetChecksum.sum(message, message.indices), at: 2)
        return packet(ProtocolNumber.icmp, from: address, to: refused.source, message, checksumAt: nil)
    }

    /// Answers a datagram with another.
    func answer(_ datagram: InternetPacket.Datagram, of packet: InternetPacket, with payload: [UInt8]) -> [UInt8] {
        var body: [UInt8] = []
        body.append(word: datagram.destinationPort)
        body.append(word: datagram.sourcePort)
        body.append(word: UInt16(8 + payload.count))
        body.append(word: 0)
        return self.packet(
            ProtocolNumber.udp, from: packet.destination, to: packet.source, body + payload, checksumAt: 6)
    }

    /// A frame with a packet; `checksumAt` is where the body has its checksum, over itself and the pseudo-header.
    private func packet(
        _ number: UInt8, from source: IPv4Address, to destination: IPv4Address, _ body: [UInt8], checksumAt: Int?
    ) -> [UInt8] {
        var body = body
        if let checksumAt {
            let initial = InternetChecksum.pseudoHeader(source, destination, protocol: number, length: body.count)
            let value = ~InternetChecksum.sum(body, body.indices, initial: initial)
            body.set(word: value == 0 ? 0xffff : value, at: checksumAt)
        }
        var header: [UInt8] = [0x45, 0]
        header.append(word: UInt16(20 + body.count))
        header += [0, 0, 0x40, 0, Self.timeToLive, number, 0, 0]  // not to be fragmented
        header += source.bytes + destination.bytes
        header.set(word: ~InternetChecksum.sum(header, header.indices), at: 10)
        var frame = guest + gateway
        frame.append(word: InternetPacket.etherTypeIPv4)
        return frame + header + body
    }
}
