// SPDX-License-Identifier: Apache-2.0
// One image of a chain: says where bytes of the disk are, and takes new ones when it is the topmost.

/// Where a run of a disk's bytes is found.
enum Mapping: Equatable {
    /// At this offset of the layer's file.
    case data(UInt64)
    case zero
    /// In the layer below, or zero when there is none.
    case hole
    /// In one compressed cluster; `offset` bytes into what it expands to.
    case compressed(CompressedCluster, offset: UInt64)
}

/// A compressed cluster. Spec: qcow2, "Compressed Clusters Descriptor".
struct CompressedCluster: Equatable {
    /// Of the first byte in the file.
    var offset: UInt64
    /// Bytes that may belong to it: up to the end of its last sector.
    var size: Int
}

/// A run of bytes that is found in one way.
struct Extent: Equatable {
    var mapping: Mapping
    /// Bytes, 1 or more.
    var count: UInt64
}

/// How one piece of a write reaches the topmost layer's file.
struct WriteStep {
    /// Of the piece on the disk.
    var offset: UInt64
    var count: UInt64
    /// Of the piece in the file.
    var hostOffset: UInt64
    /// Bytes before and behind the piece that must be written with it, from the disk's old contents.
    var fillHead: UInt64 = 0
    var fillTail: UInt64 = 0
    /// The space reads as zero until it is written.
    var isFresh = false
    /// Nil: the piece goes where the disk's bytes are already.
    var allocation: Allocation?

    /// New space for a run of clusters, which become part of the disk when their data is written.
    struct Allocation {
        /// The first cluster on the disk, and the space for it in the file.
        var cluster: UInt64
        var hostOffset: UInt64
        var clusters: UInt64
        /// False: the space belonged to the disk already, without being used.
        var isNew: Bool
    }
}

/// What a flush writes before the first barrier of the disk, and after it.
struct FlushPlan {
    /// Refcounts were written: they must be on the disk before what follows.
    var needsBarrier = false
    var mappings: [(offset: UInt64, bytes: [UInt8])] = []
    /// Entries of the L1 table: after `mappings` is on the disk.
    var roots: [(offset: UInt64, bytes: [UInt8])] = []
    var held: [Qcow2Table] = []
}

/// One image of a chain. One thread at a time.
protocol ImageLayer: AnyObject {
    var file: ImageFile { get }
    /// Of the disk that it describes, in bytes.
    var size: UInt64 { get }
    /// Bytes that are allocated together.
    var clusterSize: UInt64 { get }
    /// `raw` or `qcow2`.
    var format: DiskFormat { get }

    /// Where the byte at `offset`, below `size`, is, and up to `limit` bytes (1 or more) behind it that follow.
    func extent(at offset: UInt64, limit: UInt64) throws(DiskImageError) -> Extent
    /// Expands a compressed cluster; the buffer is valid until the next call.
    func expand(_ cluster: CompressedCluster) throws(DiskImageError) -> AlignedBuffer

    /// Plans the write of the next bytes from `offset`, at most `limit`.
    func planWrite(at offset: UInt64, limit: UInt64) throws(DiskImageError) -> WriteStep
    /// A planned write's data is in the file.
    func publish(_ step: WriteStep) throws(DiskImageError)
    /// A planned write did not happen.
    func abandon(_ step: WriteStep)
    /// Makes whole clusters read as zero; false when that needs writing zeros.
    /// - Parameter releasing: their space may be given back.
    func zero(at offset: UInt64, count: UInt64, releasing: Bool) throws(DiskImageError) -> Bool
    /// Lets whole clusters go.
    func discard(at offset: UInt64, count: UInt64) throws(DiskImageError)

    /// Notes the order of requests in which space was given up: it is used again only when nothing reads it any more.
    var sequence: UInt64 { get set }
    /// Whether a flush is due to bound memory.
    var isCrowded: Bool { get }
    /// Writes what comes first, and says what comes next.
    func beginFlush() throws(DiskImageError) -> FlushPlan
    func endFlush(_ plan: FlushPlan, failed: Bool)
    /// Uses space again that was given up before request `sequence`.
    func reclaim(before sequence: UInt64) throws(DiskImageError)

    func resize(to size: UInt64) throws(DiskImageError)
    /// Leaves the file whole and marked so.
    func close() throws(DiskImageError)
}

/// The formats of image files.
public enum DiskFormat: String, Sendable, CaseIterable {
    case raw
    case qcow2

    /// The format of a file by its first bytes.
    static func probe(_ file: ImageFile) throws(DiskImageError) -> DiskFormat {
        guard file.size >= 4 else { return .raw }
        let first = try file.withoutReadAhead { () throws(DiskImageError) in
            try file.read("the first bytes", at: 0, count: 4)
        }
        return first.bigEndian(UInt32.self, at: 0) == Qcow2Header.magic ? .qcow2 : .raw
    }
}
