// SPDX-License-Identifier: Apache-2.0
// A qcow2 image: its tables, and where they say that the disk's bytes are. Spec: QEMU docs/interop/qcow2.txt.

internal import CZlib
internal import CZstd

final class Qcow2Layer: ImageLayer {
    /// Bits of L1 and L2 entries.
    enum Entry {
        static let offsetMask: UInt64 = 0x00ff_ffff_ffff_fe00
        /// The cluster's refcount is one: it may be written in place.
        static let copied: UInt64 = 1 << 63
        static let compressed: UInt64 = 1 << 62
        static let zero: UInt64 = 1
    }

    /// Memory for L2 tables (enough for 256 GiB of disk in clusters of 64 KiB) and for refcount blocks.
    private static let mappingCacheBytes: UInt64 = 32 << 20
    private static let refcountCacheBytes: UInt64 = 8 << 20

    let file: ImageFile
    var header: Qcow2Header
    var l1: [UInt64]
    var l1Dirty: Range<Int>?
    var refcountTable: [UInt64]
    var refcountTableDirty: Range<Int>?
    var headerDirty = false
    var mappings: Qcow2TableCache
    var refcounts: Qcow2TableCache
    let hasBacking: Bool

    let clusterBits: UInt64
    let clusterSize: UInt64
    let entriesPerTable: UInt64
    let hasSubclusters: Bool
    /// What is data or not as a whole: a subcluster, or a cluster.
    let unit: UInt64
    let refcountsPerBlock: UInt64
    let format = DiskFormat.qcow2

    // Allocation: see Qcow2Allocator.swift.
    /// No cluster below is free.
    var cursor: UInt64 = 0
    /// Clusters from here on have never been used since the file was that long: they read as zero.
    var highWater: UInt64
    /// Old data was copied to new space since the last barrier.
    var hasMovedData = false
    /// The file's end at the last barrier.
    var syncedSize: UInt64
    /// A run of clusters that is being put in use.
    var reservedRun: Range<UInt64>?
    var sequence: UInt64 = 0
    var givenUp: [(cluster: UInt64, clusters: UInt64, sequence: UInt64)] = []
    /// Of `givenUp`: no table in the file refers to them any more.
    var reclaimable = 0
    /// What `reclaimable` becomes when the flush under way has ended.
    var reclaimablePlanned = 0
    /// It is thrown away with the machine: nothing needs to survive a crash.
    let isScratch: Bool

    private var expanded: AlignedBuffer?
    private var expandedCluster: CompressedCluster?

    var size: UInt64 { header.size }

    /// What an image is opened for.
    enum Purpose {
        case use
        /// To see what is wrong with it, and perhaps repair that: damaged tables and marks are let through.
        case examination
    }

    /// Opens the image in `file`, for requests.
    static func open(_ file: ImageFile) throws(DiskImageError) -> Qcow2Layer {
        try file.withoutReadAhead { () throws(DiskImageError) in try Qcow2Layer(file) }
    }

    /// Opens the image in `file`.
    init(_ file: ImageFile, isScratch: Bool = false, for purpose: Purpose = .use) throws(DiskImageError) {
        let header = try Qcow2Header(file)
        if purpose == .use, file.isWritable, header.incompatible.contains(.corrupt) {
            throw .corrupt(path: file.path, reason: "it is marked as such; it can only be read (readonly), or repaired")
        }
        self.file = file
        self.header = header
        self.isScratch = isScratch
        hasBacking = header.backingFile != nil
        clusterBits = UInt64(header.clusterBits)
        clusterSize = header.clusterSize
        hasSubclusters = header.hasExtendedL2
        entriesPerTable = clusterSize / (hasSubclusters ? 16 : 8)
        unit = hasSubclusters ? clusterSize / 32 : clusterSize
        refcountsPerBlock = (clusterSize * 8) >> UInt64(header.refcountOrder)
        l1 = try file.read("the L1 table", at: header.l1Offset, count: Int(header.l1Entries) * 8).bigEndianTable
        let tableBytes = UInt64(header.refcountTableClusters) * clusterSize
        // What the file's end cuts off reads as zero.
        let stored = min(tableBytes, file.size - min(file.size, header.refcountTableOffset))
        refcountTable = try file.read(
            "the refcount table", at: header.refcountTableOffset, count: Int(stored) & ~7
        ).bigEndianTable
        refcountTable += [UInt64](repeating: 0, count: Int(tableBytes / 8) - refcountTable.count)
        mappings = Qcow2TableCache(file, clusterSize: clusterSize, bytes: Self.mappingCacheBytes)
        refcounts = Qcow2TableCache(file, clusterSize: clusterSize, bytes: Self.refcountCacheBytes)
        highWater = (file.size + clusterSize - 1) >> clusterBits
        syncedSize = file.size
        guard purpose == .use else { return }
        if file.isWritable || !header.incompatible.contains(.corrupt) { try checkTables() }
        if file.isWritable { try prepareForWriting() }
    }

    /// Refuses tables that are misaligned, outside, or on top of each other.
    private func checkTables() throws(DiskImageError) {
        var ranges: [(start: UInt64, size: UInt64, what: String)] = [(0, clusterSize, "the header")]
        if !l1.isEmpty { ranges.append((header.l1Offset, UInt64(l1.count) * 8, "the L1 table")) }
        ranges.append(
            (header.refcountTableOffset, UInt64(refcountTable.count) * 8, "the refcount table"))
        if header.snapshotCount > 0 { ranges.append((header.snapshotTableOffset, 40, "the snapshot table")) }
        for (index, entry) in l1.enumerated() where entry & Entry.offsetMask != 0 {
            ranges.append((entry & Entry.offsetMask, clusterSize, "L2 table \(index)"))
        }
        for (index, entry) in refcountTable.enumerated() where entry != 0 {
            ranges.append((entry, clusterSize, "refcount block \(index)"))
        }
        for (start, _, what) in ranges where start & (clusterSize - 1) != 0 || start >= max(file.size, 1) {
            throw .corrupt(
                path: file.path,
                reason: "\(what) at offset \(hexadecimal(start)) is misaligned or behind the file's end")
        }
        ranges.sort { $0.start < $1.start }
        for (first, second) in zip(ranges, ranges.dropFirst()) where second.start - first.start < first.size {
            throw .corrupt(
                path: file.path,
                reason: "\(second.what) at offset \(hexadecimal(second.start)) overlaps \(first.what) at "
                    + hexadecimal(first.start))
        }
    }

    /// What an image needs before its first change.
    private func prepareForWriting() throws(DiskImageError) {
        if header.incompatible.contains(.dirty) {
            var check = Qcow2Check(self)
            try check.rebuildRefcounts()
            header.incompatible.remove(.dirty)
            headerDirty = true
        }
        // What is not counted as in use would be given to new data.
        for (what, offset) in [
            ("the header", 0), ("the L1 table", header.l1Offset), ("the refcount table", header.refcountTableOffset),
        ] where offset != header.l1Offset || !l1.isEmpty {
            guard try refcount(offset >> clusterBits) > 0 else {
                throw .corrupt(
                    path: file.path,
                    reason:
                        "\(what) at offset \(hexadecimal(offset)) has no references ('smolvmm disk check --repair all' "
                        + "counts them again)")
            }
        }
        // Bitmaps and the like are not kept up to date: their owners must know.
        if header.autoclear != 0 {
            header.autoclear = 0
            headerDirty = true
        }
        if headerDirty {
            _ = try writeRefcounts(always: true)
            try writeHeader()
            try file.sync()
        }
    }

    // MARK: Mapping

    /// The L2 table of the cluster; nil when it has none.
    @inline(__always)
    func mappingTable(_ cluster: UInt64) throws(DiskImageError) -> Qcow2Table? {
        let index = Int(cluster / entriesPerTable)
        guard index < l1.count else { return nil }
        let offset = l1[index] & Entry.offsetMask
        guard offset != 0 else { return nil }
        return try mappings.table(at: offset)
    }

    func extent(at offset: UInt64, limit: UInt64) throws(DiskImageError) -> Extent {
        let limit = min(limit, size - offset)
        let cluster = offset >> clusterBits
        let first = cluster % entriesPerTable
        guard let table = try mappingTable(cluster) else {
            let covered = ((entriesPerTable - first) << clusterBits) - (offset & (clusterSize - 1))
            return Extent(mapping: .hole, count: min(limit, covered))
        }
        var inside = offset & (clusterSize - 1)
        let mapping: Mapping
        var count: UInt64
        (mapping, count) = try classify(table, Int(first), inside)
        var total = min(count, limit)
        var next = first
        // Further clusters, as long as they go on where the last one ended.
        while total < limit {
            inside += count
            if inside == clusterSize {
                inside = 0
                next += 1
                guard next < entriesPerTable else { break }
            }
            let (following, more) = try classify(table, Int(next), inside)
            switch (mapping, following) {
            case (.data(let start), .data(let further)) where start + total == further: break
            case (.zero, .zero), (.hole, .hole): break
            default: return Extent(mapping: mapping, count: total)
            }
            count = more
            total = min(total + more, limit)
        }
        if case .compressed = mapping { total = min(total, clusterSize - (offset & (clusterSize - 1))) }
        return Extent(mapping: mapping, count: total)
    }

    /// What cluster `index` of `table` is from `inside` bytes on, and for how many bytes.
    private func classify(_ table: Qcow2Table, _ index: Int, _ inside: UInt64) throws(DiskImageError) -> (
        Mapping, UInt64
    ) {
        let rest = clusterSize - inside
        let entry = table.entry(hasSubclusters ? index * 2 : index)
        if entry & Entry.compressed != 0 {
            return (.compressed(compressedCluster(entry), offset: inside), rest)
        }
        let host = entry & Entry.offsetMask
        try checkHost(host, table, index)
        if hasSubclusters {
            return try classifySubclusters(table, index, host, inside)
        }
        if header.version >= 3, entry & Entry.zero != 0 { return (.zero, rest) }
        return (host == 0 ? .hole : .data(host + inside), rest)
    }

    /// Refuses a cluster that cannot be where an entry says: data is in the file before an entry leads to it.
    func checkHost(_ host: UInt64, _ table: Qcow2Table, _ index: Int) throws(DiskImageError) {
        guard host & (clusterSize - 1) == 0, host == 0 || host < file.size else {
            throw .corrupt(
                path: file.path,
                reason: "the cluster at offset \(hexadecimal(host)) is misaligned or behind the file's end (L2 "
                    + "table at \(hexadecimal(table.offset)), entry \(index))")
        }
    }

    private func classifySubclusters(
        _ table: Qcow2Table, _ index: Int, _ host: UInt64, _ inside: UInt64
    ) throws(DiskImageError) -> (Mapping, UInt64) {
        let bitmap = table.entry(index * 2 + 1)
        let allocated = UInt32(truncatingIfNeeded: bitmap)
        let zeros = UInt32(truncatingIfNeeded: bitmap >> 32)
        guard allocated & zeros == 0, host != 0 || allocated == 0 else {
            throw .corrupt(
                path: file.path,
                reason: "the subclusters of entry \(index) of the L2 table at \(hexadecimal(table.offset)) contradict "
                    + "each other")
        }
        let start = UInt32(inside / unit)
        let pattern = allocated >> start & 1 | (zeros >> start & 1) << 1
        var end = start + 1
        while end < 32, allocated >> end & 1 | (zeros >> end & 1) << 1 == pattern { end += 1 }
        let count = UInt64(end) * unit - inside
        switch pattern {
        case 1: return (.data(host + inside), count)
        case 2: return (.zero, count)
        default: return (.hole, count)
        }
    }

    /// Spec: qcow2, "Compressed Clusters Descriptor".
    func compressedCluster(_ entry: UInt64) -> CompressedCluster {
        let offsetBits = 62 - (clusterBits - 8)
        let offset = entry & ((1 << offsetBits) - 1)
        let sectors = (entry & ((1 << 62) - 1)) >> offsetBits
        return CompressedCluster(offset: offset, size: Int((sectors + 1) * 512 - (offset & 511)))
    }

    // MARK: Compressed clusters

    func expand(_ cluster: CompressedCluster) throws(DiskImageError) -> AlignedBuffer {
        if let expanded, expandedCluster == cluster { return expanded }
        let target: AlignedBuffer
        if let expanded { target = expanded } else { target = try AlignedBuffer(count: Int(clusterSize)) }
        expandedCluster = nil
        guard cluster.offset < file.size else {
            throw .corrupt(
                path: file.path,
                reason: "the compressed cluster at offset \(hexadecimal(cluster.offset)) is behind the file's end")
        }
        let size = min(UInt64(cluster.size), file.size - cluster.offset)
        let packed = try file.read("a compressed cluster", at: cluster.offset, count: Int(size))
        guard Self.decompress(packed, header.compression, into: target) else {
            throw .corrupt(
                path: file.path,
                reason: "the compressed cluster at offset \(hexadecimal(cluster.offset)) does not expand to "
                    + "\(clusterSize) bytes (\(header.compression.name))")
        }
        expanded = target
        expandedCluster = cluster
        return target
    }

    private static func decompress(_ packed: [UInt8], _ type: Qcow2Compression, into target: AlignedBuffer) -> Bool {
        unsafe packed.withUnsafeBytes { source in
            switch type {
            case .zlib: unsafe inflate(source, into: target.bytes)
            case .zstd: unsafe decompressZstd(source, into: target.bytes)
            }
        }
    }

    /// Raw deflate with a window of 4 KiB (or more); what follows the stream is of other clusters.
    private static func inflate(_ source: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer) -> Bool {
        var stream = unsafe z_stream()
        guard
            unsafe inflateInit2_(&stream, -15, zlibVersion(), Int32(MemoryLayout<z_stream>.size)) == Z_OK
        else { return false }
        defer { unsafe _ = inflateEnd(&stream) }
        unsafe stream.next_in = UnsafeMutablePointer(
            mutating: source.baseAddress?.assumingMemoryBound(to: UInt8.self))
        unsafe stream.avail_in = UInt32(source.count)
        unsafe stream.next_out = target.baseAddress?.assumingMemoryBound(to: UInt8.self)
        unsafe stream.avail_out = UInt32(target.count)
        // SAFETY: the counts are those of the buffers.
        let result = unsafe CZlib.inflate(&stream, Z_FINISH)
        return unsafe (result == Z_STREAM_END || result == Z_BUF_ERROR) && stream.avail_out == 0
    }

    private static func decompressZstd(
        _ source: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer
    ) -> Bool {
        guard let stream = unsafe ZSTD_createDStream() else { return false }
        defer { unsafe _ = ZSTD_freeDStream(stream) }
        var input = unsafe ZSTD_inBuffer(src: source.baseAddress, size: source.count, pos: 0)
        var output = unsafe ZSTD_outBuffer(dst: target.baseAddress, size: target.count, pos: 0)
        // What follows the frame, to the end of the sector, is of other clusters: stop when the cluster is full.
        while unsafe output.pos < output.size {
            let before = unsafe (output.pos, input.pos)
            // SAFETY: both describe the buffers with their sizes.
            let result = unsafe ZSTD_decompressStream(stream, &output, &input)
            if ZSTD_isError(result) != 0 { return false }
            if unsafe before == (output.pos, input.pos) { return false }
        }
        return true
    }
}
