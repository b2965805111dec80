// SPDX-License-Identifier: Apache-2.0
// What a virtio network device shows its driver. Spec: virtio 1.2 §5.1.3 to §5.1.6.

internal import Bus

/// Feature bits of a network device. Spec: virtio 1.2 §5.1.3.
struct NetworkFeatures: OptionSet {
    var rawValue: UInt64
    static let checksum = Self(rawValue: 1 << 0)  // VIRTIO_NET_F_CSUM
    static let guestChecksum = Self(rawValue: 1 << 1)  // VIRTIO_NET_F_GUEST_CSUM
    static let mtu = Self(rawValue: 1 << 3)  // VIRTIO_NET_F_MTU
    static let address = Self(rawValue: 1 << 5)  // VIRTIO_NET_F_MAC
    static let guestSegmentation4 = Self(rawValue: 1 << 7)  // VIRTIO_NET_F_GUEST_TSO4
    static let guestSegmentation6 = Self(rawValue: 1 << 8)  // VIRTIO_NET_F_GUEST_TSO6
    static let hostSegmentation4 = Self(rawValue: 1 << 11)  // VIRTIO_NET_F_HOST_TSO4
    static let hostSegmentation6 = Self(rawValue: 1 << 12)  // VIRTIO_NET_F_HOST_TSO6
    static let mergeableBuffers = Self(rawValue: 1 << 15)  // VIRTIO_NET_F_MRG_RXBUF
    static let status = Self(rawValue: 1 << 16)  // VIRTIO_NET_F_STATUS

    /// The same whatever the host's side is, so that a copy can have another one.
    static let offered: Self = [
        .checksum, .guestChecksum, .mtu, .address, .guestSegmentation4, .guestSegmentation6, .hostSegmentation4,
        .hostSegmentation6, .mergeableBuffers, .status,
    ]
}

/// What precedes each frame: struct virtio_net_hdr. Spec: virtio 1.2 §5.1.6.
public struct NetworkHeader: Equatable, Sendable {
    /// Bytes.
    public static let size = 12
    /// Where the header has the number of buffers that a frame takes.
    static let buffersOffset = 10

    /// The checksum is to be completed. VIRTIO_NET_HDR_F_NEEDS_CSUM.
    public static let needsChecksum: UInt8 = 1
    /// The checksum was verified. VIRTIO_NET_HDR_F_DATA_VALID.
    public static let dataValid: UInt8 = 2

    public var flags: UInt8 = 0
    public var segmentation: UInt8 = 0  // gso_type
    public var headerLength: UInt16 = 0  // hdr_len
    public var segmentSize: UInt16 = 0  // gso_size
    public var checksumStart: UInt16 = 0  // csum_start
    public var checksumOffset: UInt16 = 0  // csum_offset

    public init(flags: UInt8 = 0) { self.flags = flags }

    /// The header in the first bytes of `packet`, which has as many.
    public init?(_ packet: [UInt8]) {
        guard packet.count >= Self.size else { return nil }
        func word(_ offset: Int) -> UInt16 { UInt16(packet[offset]) | UInt16(packet[offset + 1]) << 8 }
        flags = packet[0]
        segmentation = packet[1]
        headerLength = word(2)
        segmentSize = word(4)
        checksumStart = word(6)
        checksumOffset = word(8)
    }

    /// All twelve, for a frame in one buffer.
    var bytes: [UInt8] {
        var bytes = [flags, segmentation]
        for word in [headerLength, segmentSize, checksumStart, checksumOffset, 1] {
            bytes.append(UInt8(truncatingIfNeeded: word))
            bytes.append(UInt8(word >> 8))
        }
        return bytes
    }
}

/// The configuration space. Spec: virtio 1.2 §5.1.4.
struct NetworkConfigurationSpace {
    /// VIRTIO_NET_S_LINK_UP.
    private static let linkUp: UInt16 = 1

    var address: MACAddress
    var isLinkUp: Bool
    var mtu: UInt16

    private var bytes: [UInt8] {
        var bytes = address.bytes
        for word in [isLinkUp ? Self.linkUp : 0, 1 /* max_virtqueue_pairs */, mtu] {
            bytes.append(UInt8(truncatingIfNeeded: word))
            bytes.append(UInt8(word >> 8))
        }
        return bytes
    }

    /// Little-endian, as many bytes as the access has; zero behind the end.
    func read(offset: UInt64, width: AccessWidth) -> UInt64 {
        let bytes = bytes
        var value: UInt64 = 0
        for index in 0..<UInt64(width.rawValue) where offset &+ index < UInt64(bytes.count) {
            value |= UInt64(bytes[Int(offset &+ index)]) << (index * 8)
        }
        return value
    }
}
