// SPDX-License-Identifier: Apache-2.0
// Packets as a guest makes them.

@testable import Network
import Virtio

let guestMAC: [UInt8] = [2, 0, 0, 0, 0, 1]

/// An IPv4 address that a test has written right.
func address(_ text: String) -> IPv4Address { IPv4Address(text) ?? IPv4Address(0) }

/// A frame from the guest, header of the device included.
func packet(
    _ number: UInt8, to destination: IPv4Address, _ body: [UInt8], from source: IPv4Address = UserNetworkLayout.guest,
    fragment: UInt16 = 0, header: [UInt8] = [UInt8](repeating: 0, count: 12)
) -> [UInt8] {
    var ip: [UInt8] = [0x45, 0]
    ip.append(word: UInt16(20 + body.count))
    ip.append(word: 0)
    ip.append(word: fragment)
    ip += [64, number, 0, 0] + source.bytes + destination.bytes
    ip.set(word: ~InternetChecksum.sum(ip, ip.indices), at: 10)
    return header + UserNetworkLayout.gatewayMAC + guestMAC + [0x08, 0x00] + ip + body
}

/// A TCP segment with its checksum.
func tcp(
    to destination: IPv4Address, port: UInt16, from sourcePort: UInt16 = 40000, flags: InternetPacket.TCPFlags,
    sequence: UInt32 = 1, acknowledgement: UInt32 = 0
) -> [UInt8] {
    var body: [UInt8] = []
    body.append(word: sourcePort)
    body.append(word: port)
    body.append(doubleWord: sequence)
    body.append(doubleWord: acknowledgement)
    body += [0x50, flags.rawValue, 0xff, 0xff, 0, 0, 0, 0]
    let initial = InternetChecksum.pseudoHeader(
        UserNetworkLayout.guest, destination, protocol: 6, length: body.count)
    body.set(word: ~InternetChecksum.sum(body, body.indices, initial: initial), at: 16)
    return packet(6, to: destination, body)
}

/// A UDP datagram without a checksum, which is allowed.
func udp(to destination: IPv4Address, port: UInt16, from sourcePort: UInt16 = 5000, _ payload: [UInt8]) -> [UInt8] {
    var body: [UInt8] = []
    for word in [sourcePort, port, UInt16(8 + payload.count), 0] { body.append(word: word) }
    return packet(17, to: destination, body + payload)
}

/// A question for the addresses of `name`, with `more` behind it.
func question(_ name: String, more: [UInt8] = [], records: UInt8 = 0) -> [UInt8] {
    let labels = name.split(separator: ".").flatMap { [UInt8($0.utf8.count)] + Array($0.utf8) }
    return [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, records] + labels + [0, 0, 1, 0, 1] + more
}

/// Keeps what the network has for the guest.
final class Guest: NetworkGuest {
    var frames: [[UInt8]] = []
    var hasRoom = true

    func receive(_ header: NetworkHeader, _ frame: UnsafeRawBufferPointer) -> Bool {
        if hasRoom { unsafe frames.append(Array(frame)) }
        return hasRoom
    }

    /// Frames that are no ARP.
    var packets: [InternetPacket] { frames.compactMap { InternetPacket($0, frame: 0) } }
}
