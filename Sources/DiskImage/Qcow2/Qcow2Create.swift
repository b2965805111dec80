// SPDX-License-Identifier: Apache-2.0
// A new qcow2 image: header, refcounts and an empty L1 table, the same work whatever the size of disk or backing file.

/// What a new qcow2 image is like.
public struct Qcow2Options: Equatable, Sendable {
    /// 2 or 3.
    public var version = 3
    /// Bytes, a power of two from 512 to 2 MiB.
    public var clusterSize: UInt64 = 64 << 10
    /// 1, 2, 4, … 64.
    public var refcountBits = 16
    public var hasLazyRefcounts = false
    /// 32 subclusters to a cluster.
    public var hasExtendedL2 = false
    /// Of compressed clusters.
    public var compression = Qcow2Compression.zlib
    public var backingFile: String?
    public var backingFormat: DiskFormat?

    public init() {}

    /// The header of an image of `size` bytes, without its tables' places.
    func header(size: UInt64) throws(DiskImageError) -> Qcow2Header {
        func refuse(_ field: String, _ value: some CustomStringConvertible, _ allowed: String) -> DiskImageError {
            .invalidValue(field: field, value: value.description, allowed: allowed)
        }
        guard version == 2 || version == 3 else { throw refuse("the qcow2 version", version, "2 or 3") }
        guard clusterSize.nonzeroBitCount == 1, (512...2 << 20).contains(clusterSize) else {
            throw refuse("the cluster size", clusterSize, "a power of two from 512 to 2097152")
        }
        guard refcountBits.nonzeroBitCount == 1, (1...64).contains(refcountBits) else {
            throw refuse("the refcount width", refcountBits, "a power of two from 1 to 64")
        }
        guard size <= Qcow2Header.Limit.virtualSize else { throw refuse("the disk's size", size, "at most 2^61") }
        guard version == 3 || (refcountBits == 16 && !hasLazyRefcounts && !hasExtendedL2 && compression == .zlib) else {
            throw refuse(
                "the qcow2 version", version, "3 for other refcount widths, lazy refcounts, subclusters or zstd")
        }
        guard !hasExtendedL2 || clusterSize >= 16 << 10 else {
            throw refuse("the cluster size", clusterSize, "at least 16384 with subclusters")
        }
        var header = Qcow2Header()
        header.version = version
        header.clusterBits = clusterSize.trailingZeroBitCount
        header.size = size
        header.refcountOrder = refcountBits.trailingZeroBitCount
        header.compression = compression
        if hasExtendedL2 { header.incompatible.insert(.extendedL2) }
        if compression != .zlib { header.incompatible.insert(.compressionType) }
        if hasLazyRefcounts { header.compatible |= Qcow2Header.lazyRefcounts }
        header.backingFile = backingFile
        header.backingFormat = backingFormat?.rawValue
        let covered = clusterSize * (clusterSize / (hasExtendedL2 ? 16 : 8))
        let entries = (size + covered - 1) / covered
        guard entries * 8 <= Qcow2Header.Limit.l1Bytes else {
            throw refuse(
                "the disk's size", size, "at most \(Qcow2Header.Limit.l1Bytes / 8 * covered) with this cluster size")
        }
        header.l1Entries = UInt32(entries)
        return header
    }
}

enum Qcow2Create {
    /// Makes an empty image of `size` bytes in the empty `file`.
    static func empty(_ file: ImageFile, size: UInt64, _ options: Qcow2Options) throws(DiskImageError) {
        var header = try options.header(size: size)
        let cluster = header.clusterSize
        let l1Clusters = (UInt64(header.l1Entries) * 8 + cluster - 1) / cluster
        let perBlock = (cluster * 8) >> UInt64(header.refcountOrder)
        // Header, refcount table, refcount blocks, L1 table: the blocks count all of them.
        var blocks: UInt64 = 1
        var tables: UInt64 = 1
        while true {
            let total = 1 + tables + blocks + l1Clusters
            let neededBlocks = (total + perBlock - 1) / perBlock
            let neededTables = (neededBlocks * 8 + cluster - 1) / cluster
            if neededBlocks <= blocks, neededTables <= tables { break }
            blocks = max(blocks, neededBlocks)
            tables = max(tables, neededTables)
        }
        header.refcountTableOffset = cluster
        header.refcountTableClusters = UInt32(tables)
        let firstBlock = 1 + tables
        header.l1Offset = (firstBlock + blocks) * cluster
        let total = 1 + tables + blocks + l1Clusters

        try file.truncate(to: total * cluster)
        try file.write(bigEndianBytes((0..<blocks).map { (firstBlock + $0) * cluster }), at: cluster)
        var refcounts = Qcow2TableCache(file, clusterSize: cluster, bytes: blocks * cluster)
        for block in 0..<blocks {
            let table = try refcounts.newTable(at: (firstBlock + block) * cluster)
            for index in 0..<min(perBlock, total - block * perBlock) {
                table.setRefcount(Int(index), order: header.refcountOrder, 1)
            }
            guard let (offset, bytes) = table.takeDirty() else { continue }
            try file.write(bytes, at: offset)
        }
        // The header makes it an image: last.
        try file.write(try header.newImage(), at: 0)
    }

    /// An overlay without a name in `folder` for a disk of `size` bytes: subclusters of 4 KiB, so that a small write to new
    /// space copies nothing.
    static func scratchOverlay(size: UInt64, in folder: String) throws(DiskImageError) -> Qcow2Layer {
        var options = Qcow2Options()
        options.clusterSize = 128 << 10
        options.hasExtendedL2 = true
        options.backingFile = "base"
        let file = try ImageFile.scratch(in: folder)
        try empty(file, size: size, options)
        return try Qcow2Layer(file, isScratch: true)
    }
}
