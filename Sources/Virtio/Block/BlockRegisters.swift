// SPDX-License-Identifier: Apache-2.0
// What a virtio block device shows its driver. Spec: virtio 1.2 §5.2.3 to §5.2.6.

internal import Bus

/// Feature bits of a block device. Spec: virtio 1.2 §5.2.3.
struct BlockFeatures: OptionSet {
    var rawValue: UInt64
    static let segmentMax = Self(rawValue: 1 << 2)  // VIRTIO_BLK_F_SEG_MAX
    static let readOnly = Self(rawValue: 1 << 5)  // VIRTIO_BLK_F_RO
    static let blockSize = Self(rawValue: 1 << 6)  // VIRTIO_BLK_F_BLK_SIZE
    static let flush = Self(rawValue: 1 << 9)  // VIRTIO_BLK_F_FLUSH
    static let topology = Self(rawValue: 1 << 10)  // VIRTIO_BLK_F_TOPOLOGY
    static let multipleQueues = Self(rawValue: 1 << 12)  // VIRTIO_BLK_F_MQ
    static let discard = Self(rawValue: 1 << 13)  // VIRTIO_BLK_F_DISCARD
    static let writeZeroes = Self(rawValue: 1 << 14)  // VIRTIO_BLK_F_WRITE_ZEROES
}

/// What a request asks for. Spec: virtio 1.2 §5.2.6.
enum BlockRequestType: UInt32 {
    case read = 0  // VIRTIO_BLK_T_IN
    case write = 1  // VIRTIO_BLK_T_OUT
    case flush = 4
    case identify = 8  // VIRTIO_BLK_T_GET_ID
    case discard = 11
    case writeZeroes = 13
}

/// How a request ended: its last byte.
enum BlockStatus: UInt8 {
    case ok = 0
    case ioError = 1  // VIRTIO_BLK_S_IOERR
    case unsupported = 2  // VIRTIO_BLK_S_UNSUPP
}

/// The configuration space. Spec: virtio 1.2 §5.2.4.
struct BlockConfiguration {
    /// Bytes of a sector: what requests count in.
    static let sectorSize: UInt64 = 512
    /// Data segments of one request; with header and status they fit in a queue.
    static let segmentMax: UInt32 = 254
    /// Sectors of one discarded or zeroed range: 512 MiB.
    static let rangeSectors: UInt32 = 1 << 20
    /// Ranges of one request.
    static let rangeMax: UInt32 = 16

    /// In sectors.
    var capacity: UInt64
    /// The device's logical block, in bytes.
    var blockSize: UInt32
    var queues: UInt16
    /// In sectors: what discards should be multiples of.
    var clusterSectors: UInt32

    /// All 60 bytes.
    var bytes: [UInt8] {
        var bytes: [UInt8] = []
        func append<Value: FixedWidthInteger>(_ value: Value) {
            for shift in stride(from: 0, to: Value.bitWidth, by: 8) {
                bytes.append(UInt8(truncatingIfNeeded: value >> Value(shift)))
            }
        }
        append(capacity)
        append(UInt32(0))  // size_max: not offered
        append(Self.segmentMax)
        append(UInt32(0))  // geometry: not offered
        append(blockSize)
        append(UInt8(max(0, 12 - blockSize.trailingZeroBitCount)))  // physical blocks of 4 KiB
        append(UInt8(0))  // alignment_offset
        append(UInt16(4096 / min(blockSize, 4096)))  // min_io_size, in blocks
        append(clusterSectors * 512 / blockSize)  // opt_io_size, in blocks
        append(UInt8(1))  // writeback
        append(UInt8(0))
        append(queues)
        append(Self.rangeSectors)  // max_discard_sectors
        append(Self.rangeMax)  // max_discard_seg
        append(clusterSectors)  // discard_sector_alignment
        append(Self.rangeSectors)  // max_write_zeroes_sectors
        append(Self.rangeMax)  // max_write_zeroes_seg
        append(UInt8(1))  // write_zeroes_may_unmap
        append(UInt8(0))
        append(UInt16(0))
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
