// SPDX-License-Identifier: Apache-2.0
// An IPv4 packet in an Ethernet frame, as far as its headers go. Spec: RFC 791, RFC 793, RFC 768, RFC 792.

internal import Virtio

/// What one frame says; nil parts are not there or cannot be.
struct InternetPacket: Equatable {
    struct TCPFlags: OptionSet {
        let rawValue: UInt8
        static let finish = Self(rawValue: 1)  // FIN
        static let synchronize = Self(rawValue: 2)  // SYN
        static let reset = Self(rawValue: 4)  // RST
        static let acknowledge = Self(rawValue: 16)  // ACK
    }

    struct Segment: Equatable {
        var sourcePort: UInt16
        var destinationPort: UInt16
        var sequence: UInt32
        var acknowledgement: UInt32
        var flags: TCPFlags
    }

    struct Datagram: Equatable {
        var sourcePort: UInt16
        var destinationPort: UInt16
        /// Offsets in the bytes that were parsed.
        var payload: Range<Int>
    }

    enum Transport: Equatable {
        case tcp(Segment)
        case udp(Datagram)
        /// The message's type.
        case icmp(UInt8)
        /// A fragment, or another protocol.
        case opaque
    }

    static let ethernetHeader = 14
    static let etherTypeIPv4: UInt16 = 0x0800
    static let etherTypeARP: UInt16 = 0x0806
    private static let smallestHeader = 20
    private static let smallestTCPHeader = 20
    private static let udpHeader = 8

    var source: IPv4Address
    var destination: IPv4Address
    var isFragment: Bool
    var transport: Transport
    /// Where the packet starts in the bytes that were parsed, and how long its header is.
    var start: Int
    var headerLength: Int

    /// The packet whose Ethernet frame starts at `frame` in `bytes` and ends with them; nil when it is none or not whole.
    /// - Parameter isCut: `bytes` may end before the payload does.
    init?(_ bytes: [UInt8], frame: Int, isCut: Bool = false) {
        let start = frame + Self.ethernetHeader
        guard bytes.count >= start + Self.smallestHeader, Self.etherType(bytes, frame: frame) == Self.etherTypeIPv4,
            bytes[start] >> 4 == 4
        else { return nil }
        let headerLength = Int(bytes[start] & 15) * 4
        let totalLength = Int(bytes.word(start + 2))
        guard headerLength >= Self.smallestHeader, totalLength >= headerLength, bytes.count >= start + headerLength,
            isCut || bytes.count >= start + totalLength
        else { return nil }
        self.start = start
        self.headerLength = headerLength
        source = IPv4Address(bytes.doubleWord(start + 12))
        destination = IPv4Address(bytes.doubleWord(start + 16))
        // More fragments, or an offset.
        isFragment = bytes.word(start + 6) & 0x3fff != 0
        transport = .opaque
        if isFragment { return }
        let body = start + headerLength
        let end = min(start + totalLength, bytes.count)
        let length = totalLength - headerLength
        switch bytes[start + 9] {
        case 1:
            guard end > body else { return nil }
            transport = .icmp(bytes[body])
        case 6:
            guard length >= Self.smallestTCPHeader, end >= body + Self.smallestTCPHeader else { return nil }
            transport = .tcp(
                Segment(
                    sourcePort: bytes.word(body), destinationPort: bytes.word(body + 2),
                    sequence: bytes.doubleWord(body + 4), acknowledgement: bytes.doubleWord(body + 8),
                    flags: TCPFlags(rawValue: bytes[body + 13])))
        case 17:
            guard length >= Self.udpHeader, end >= body + Self.udpHeader else { return nil }
            let stated = Int(bytes.word(body + 4))
            guard stated >= Self.udpHeader, stated <= length else { return nil }
            transport = .udp(
                Datagram(
                    sourcePort: bytes.word(body), destinationPort: bytes.word(body + 2),
                    payload: body + Self.udpHeader..<max(body + Self.udpHeader, min(body + stated, end))))
        default: break
        }
    }

    /// What an Ethernet frame holds; 0 when it is too short to say.
    static func etherType(_ bytes: [UInt8], frame: Int) -> UInt16 {
        bytes.count >= frame + ethernetHeader ? bytes.word(frame + 12) : 0
    }
}

extension [UInt8] {
    /// Numbers in the order of the network. The caller has checked that they are there.
    func word(_ offset: Int) -> UInt16 { UInt16(self[offset]) << 8 | UInt16(self[offset + 1]) }
    func doubleWord(_ offset: Int) -> UInt32 { UInt32(word(offset)) << 16 | UInt32(word(offset + 2)) }

    mutating func append(word: UInt16) {
        append(UInt8(word >> 8))
        append(UInt8(truncatingIfNeeded: word))
    }

    mutating func append(doubleWord: UInt32) {
        append(word: UInt16(doubleWord >> 16))
        append(word: UInt16(truncatingIfNeeded: doubleWord))
    }

    mutating func set(word: UInt16, at offset: Int) {
        self[offset] = UInt8(word >> 8)
        self[offset + 1] = UInt8(truncatingIfNeeded: word)
    }
}
