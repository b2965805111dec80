// SPDX-License-Identifier: Apache-2.0
// The checksum of IP, TCP, UDP and ICMP. Spec: RFC 1071.

internal import Virtio

enum InternetChecksum {
    /// The sum of 16-bit words of `bytes` in `range` in ones' complement, not yet inverted, with `initial` added.
    static func sum(_ bytes: [UInt8], _ range: Range<Int>, initial: UInt32 = 0) -> UInt16 {
        guard range.lowerBound >= 0, range.upperBound <= bytes.count else { return 0 }
        var total = UInt64(initial)
        // SAFETY: `range` lies in `bytes`.
        unsafe bytes.withUnsafeBytes { buffer in
            let part = unsafe UnsafeRawBufferPointer(rebasing: buffer[range])
            var offset = 0
            // Four words at a time: sums of 32 bits in one of 64 that cannot overflow before 2^32 of them.
            while offset + 8 <= part.count {
                let eight = unsafe UInt64(bigEndian: part.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
                total &+= eight >> 32
                total &+= eight & 0xffff_ffff
                offset += 8
            }
            while offset + 2 <= part.count {
                total &+= unsafe UInt64(UInt16(bigEndian: part.loadUnaligned(fromByteOffset: offset, as: UInt16.self)))
                offset += 2
            }
            if offset < part.count { total &+= unsafe UInt64(part[offset]) << 8 }
        }
        while total >> 16 != 0 { total = (total & 0xffff) + total >> 16 }
        return UInt16(total)
    }

    /// Completes the checksum that a driver left to the device, for the frame that starts at `frame` in `packet`; false
    /// when the header asks for one outside of it. Spec: virtio 1.2 §5.1.6.2.
    static func complete(_ packet: inout [UInt8], frame: Int, _ header: NetworkHeader) -> Bool {
        guard header.flags & NetworkHeader.needsChecksum != 0 else { return true }
        let start = frame + Int(header.checksumStart)
        let field = start + Int(header.checksumOffset)
        guard field + 2 <= packet.count else { return false }
        let value = ~sum(packet, start..<packet.count)
        // For UDP zero means none; the other zero is as good for TCP.
        packet.set(word: value == 0 ? 0xffff : value, at: field)
        return true
    }

    /// The sum over the addresses, the protocol and the length, which TCP and UDP include.
    static func pseudoHeader(
        _ source: IPv4Address, _ destination: IPv4Address, protocol number: UInt8, length: Int
    ) -> UInt32 {
        let words = [source.rawValue, destination.rawValue].reduce(UInt32(0)) { $0 + $1 >> 16 + $1 & 0xffff }
        return words + UInt32(number) + UInt32(length)
    }
}
