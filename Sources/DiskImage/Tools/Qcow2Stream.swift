// SPDX-License-Identifier: Apache-2.0
// Writes a disk as a new qcow2 image from its first cluster to its last: data, then tables, then the header at the start.

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// Sees an image's clusters as they are written.
public protocol ClusterObserver: AnyObject {
    /// A cluster of the file: its number and its bytes. Each comes once, in ascending order but for cluster 0, the header,
    /// which comes last.
    func wrote(cluster number: UInt64, _ bytes: UnsafeRawBufferPointer)
}

/// Makes qcow2 images of disks.
public enum Qcow2Stream {
    /// Writes `source` into the empty `file`. Clusters of zeros take no space.
    /// - Parameter options: `clusterSize`, `refcountBits`, `version`, backing file. With a backing file, what `source` has
    ///   not stored is the backing disk's, and zeros are stored as such.
    /// - Parameter base: the backing disk, so that only what differs from it is stored.
    /// - Parameter compresses: clusters that become smaller by it; not with an observer.
    public static func write(
        _ source: any DiskSource, to file: ImageFile, _ options: Qcow2Options, base: (any DiskSource)? = nil,
        compresses: Bool = false, observer: (any ClusterObserver)? = nil, progress: ((Double) -> Void)? = nil
    ) throws(DiskImageError) {
        guard !compresses || observer == nil else {
            throw .invalidValue(field: "compression", value: "on", allowed: "off for images that are observed")
        }
        var writer = try Writer(source, file, options, base, compresses, observer)
        try writer.writeData(progress)
        try writer.writeTables()
        progress?(1)
    }

    /// Whether whole sectors are all zero.
    static func isZero(_ bytes: UnsafeRawBufferPointer) -> Bool {
        var offset = 0
        while offset + 64 <= bytes.count {
            var bits: UInt64 = 0
            for word in 0..<8 {
                // SAFETY: 64 bytes from `offset` lie in the buffer.
                bits |= unsafe bytes.loadUnaligned(fromByteOffset: offset + word * 8, as: UInt64.self)
            }
            if bits != 0 { return false }
            offset += 64
        }
        return true
    }

    private struct Writer {
        private let source: any DiskSource
        private let file: ImageFile
        private let base: (any DiskSource)?
        private let observer: (any ClusterObserver)?
        private var header: Qcow2Header
        private let hasBacking: Bool
        private let cluster: UInt64
        /// The next cluster of the file.
        private var next: UInt64 = 1
        /// L2 tables with entries, by number.
        private var tables: [UInt64: [UInt64]] = [:]
        private let compressor: ParallelCompressor?
        /// Behind the last compressed cluster; at a cluster's end, the next one starts a cluster.
        private var packedEnd: UInt64 = 0
        /// How many compressed clusters have a part in a cluster of the file.
        private var packed: [UInt64: UInt64] = [:]

        init(
            _ source: any DiskSource, _ file: ImageFile, _ options: Qcow2Options, _ base: (any DiskSource)?,
            _ compresses: Bool, _ observer: (any ClusterObserver)?
        ) throws(DiskImageError) {
            self.source = source
            self.file = file
            self.base = base
            self.observer = observer
            header = try options.header(size: source.size)
            guard !header.hasExtendedL2 else {
                throw .invalidValue(
                    field: "subclusters", value: "on", allowed: "off for images that are written at once")
            }
            hasBacking = header.backingFile != nil
            cluster = header.clusterSize
            compressor = compresses ? try ParallelCompressor(header.compression, size: Int(cluster)) : nil
        }

        private var entriesPerTable: UInt64 { cluster / 8 }

        // MARK: Data

        mutating func writeData(_ progress: ((Double) -> Void)?) throws(DiskImageError) {
            // Several clusters at a time, as far as the disk stores them without a gap.
            let batch = max(1, (compressor == nil ? 1 << 20 : 4 << 20) / cluster)
            let buffer = try AlignedBuffer(count: Int(batch * cluster))
            let old = try AlignedBuffer(count: base == nil ? 0 : Int(batch * cluster))
            var offset: UInt64 = 0
            while let stored = try nextStored(from: offset) {
                var number = stored.lowerBound / cluster
                let end = (stored.upperBound + cluster - 1) / cluster
                while number < end {
                    let count = min(batch, end - number)
                    // SAFETY: `count` is at most `batch`.
                    let bytes = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<Int(count * cluster)])
                    unsafe try source.read(at: number * cluster, into: bytes)
                    if let base {
                        unsafe try base.read(
                            at: number * cluster,
                            into: UnsafeMutableRawBufferPointer(rebasing: old.bytes[..<Int(count * cluster)]))
                    }
                    unsafe try write(number, UnsafeRawBufferPointer(bytes), UnsafeRawBufferPointer(old.bytes))
                    number += count
                    progress?(min(1, Double(number * cluster) / Double(max(source.size, 1))))
                }
                offset = end * cluster
                if offset >= source.size { break }
            }
        }

        /// The first range that the disk or its base may store.
        private func nextStored(from offset: UInt64) throws(DiskImageError) -> Range<UInt64>? {
            let stored = try observer == nil ? nextRun(from: offset) : source.nextStored(from: offset)
            guard let base, offset < base.size, let below = try base.nextStored(from: offset),
                below.lowerBound < stored?.lowerBound ?? source.size
            else { return stored }
            return below.lowerBound..<min(below.upperBound, source.size)
        }

        /// The first range that the disk stores, with what follows it without a gap: enough to be compressed at once.
        private func nextRun(from offset: UInt64) throws(DiskImageError) -> Range<UInt64>? {
            guard var run = try source.nextStored(from: offset) else { return nil }
            while run.upperBound - run.lowerBound < 4 << 20, run.upperBound < source.size,
                let more = try source.nextStored(from: run.upperBound), more.lowerBound == run.upperBound
            {
                run = run.lowerBound..<more.upperBound
            }
            return run
        }

        private enum Content {
            /// What is there without doing anything: of the base, or zero.
            case same
            case zero
            case data
        }

        private func content(_ bytes: UnsafeRawBufferPointer, _ old: UnsafeRawBufferPointer) -> Content {
            if base != nil, let new = bytes.baseAddress, let before = old.baseAddress,
                // SAFETY: with a base, both are one cluster.
                unsafe memcmp(new, before, bytes.count) == 0
            {
                return .same
            }
            guard unsafe Qcow2Stream.isZero(bytes) else { return .data }
            // Version 2 has no entry for zeros.
            return !hasBacking ? .same : header.version >= 3 ? .zero : .data
        }

        /// Writes clusters of the disk from `number` on; runs of those that have data at once.
        private mutating func write(
            _ number: UInt64, _ bytes: UnsafeRawBufferPointer, _ old: UnsafeRawBufferPointer
        ) throws(DiskImageError) {
            let size = Int(cluster)
            var contents: [Content] = []
            for start in stride(from: 0, to: bytes.count, by: size) {
                // SAFETY: whole clusters; `old` is as long as `bytes` where there is a base.
                let now = unsafe UnsafeRawBufferPointer(rebasing: bytes[start..<start + size])
                let before = unsafe base == nil ? old : UnsafeRawBufferPointer(rebasing: old[start..<start + size])
                unsafe contents.append(content(now, before))
            }
            let compressed = unsafe compressor?.compress(bytes, where: contents.map { $0 == .data })
            var run = 0
            for index in 0...contents.count {
                let isEnd = index == contents.count
                let small = isEnd ? nil : compressed?[index]
                if !isEnd, contents[index] == .data, small == nil { continue }
                if run < index {
                    // SAFETY: as above.
                    unsafe try append(
                        number + UInt64(run), UnsafeRawBufferPointer(rebasing: bytes[run * size..<index * size]))
                }
                run = index + 1
                if let small {
                    try append(number + UInt64(index), compressed: small)
                } else if !isEnd, contents[index] == .zero {
                    setEntry(number + UInt64(index), Qcow2Layer.Entry.zero)
                }
            }
        }

        /// A compressed cluster behind the last one where the file has room there, else in a new cluster of the file.
        private mutating func append(_ number: UInt64, compressed bytes: [UInt8]) throws(DiskImageError) {
            let count = UInt64(bytes.count)
            var start = packedEnd
            let current = start / cluster
            let mostReferences =
                header.refcountOrder == 6 ? .max : (UInt64(1) << (1 << UInt64(header.refcountOrder))) - 1
            let leavesCluster = (start + count - 1) / cluster != current
            if start.isMultiple(of: cluster) || packed[current, default: 0] >= mostReferences
                || (leavesCluster && current + 1 != next)
            {
                start = next * cluster
            }
            let end = start + count
            next = max(next, (end + cluster - 1) / cluster)
            for place in start / cluster...(end - 1) / cluster { packed[place, default: 0] += 1 }
            packedEnd = end
            let offsetBits = 62 - (UInt64(header.clusterBits) - 8)
            guard end < 1 << offsetBits else {
                throw .invalidValue(field: "the image", value: "\(end) bytes long", allowed: "smaller to be compressed")
            }
            let sectors = (end - 1) / 512 - start / 512
            setEntry(number, start | sectors << offsetBits | Qcow2Layer.Entry.compressed)
            try file.write(bytes, at: start)
        }

        /// Clusters of the disk at the end of the file.
        private mutating func append(_ number: UInt64, _ bytes: UnsafeRawBufferPointer) throws(DiskImageError) {
            for index in 0..<UInt64(bytes.count) / cluster {
                setEntry(number + index, (next + index) * cluster | Qcow2Layer.Entry.copied)
            }
            unsafe try write(bytes)
        }

        private mutating func setEntry(_ number: UInt64, _ entry: UInt64) {
            let (table, entries) = (number / entriesPerTable, entriesPerTable)
            tables[table, default: [UInt64](repeating: 0, count: Int(entries))][Int(number % entries)] = entry
        }

        /// The next clusters of the file.
        private mutating func write(_ bytes: UnsafeRawBufferPointer) throws(DiskImageError) {
            unsafe try file.write(bytes, at: next * cluster)
            if let observer {
                for index in 0..<bytes.count / Int(cluster) {
                    let start = index * Int(cluster)
                    // SAFETY: whole clusters.
                    unsafe observer.wrote(
                        cluster: next + UInt64(index),
                        UnsafeRawBufferPointer(rebasing: bytes[start..<start + Int(cluster)]))
                }
            }
            next += UInt64(bytes.count) / cluster
        }

        // MARK: Tables

        /// The next clusters of the file, filled up with zeros.
        private mutating func writePadded(_ bytes: [UInt8]) throws(DiskImageError) -> UInt64 {
            let place = next * cluster
            let padded = bytes + [UInt8](repeating: 0, count: Int((0 &- UInt64(bytes.count)) % cluster))
            var failure: DiskImageError?
            // SAFETY: the buffer is only used inside the closure.
            unsafe padded.withUnsafeBytes { buffer in
                do throws(DiskImageError) { unsafe try write(buffer) } catch { failure = error }
            }
            if let failure { throw failure }
            return place
        }

        mutating func writeTables() throws(DiskImageError) {
            var l1 = [UInt64](repeating: 0, count: Int(header.l1Entries))
            for number in tables.keys.sorted() {
                guard let table = tables.removeValue(forKey: number) else { continue }
                l1[Int(number)] = try writePadded(bigEndianBytes(table)) | Qcow2Layer.Entry.copied
            }
            header.l1Offset = try writePadded(bigEndianBytes(l1))
            try writeRefcounts()
            var first = try header.newImage()
            first += [UInt8](repeating: 0, count: Int(cluster) - first.count)
            try file.write(first, at: 0)
            // SAFETY: the buffer is only used inside the closure.
            unsafe first.withUnsafeBytes { unsafe observer?.wrote(cluster: 0, $0) }
        }

        /// Every cluster of the file has one reference, those of the refcounts included.
        private mutating func writeRefcounts() throws(DiskImageError) {
            let perBlock = (cluster * 8) >> UInt64(header.refcountOrder)
            var blocks: UInt64 = 0
            var tableClusters: UInt64 = 1
            while true {
                let total = next + blocks + tableClusters
                let needed = (total + perBlock - 1) / perBlock
                let neededTable = max(1, (needed * 8 + cluster - 1) / cluster)
                if needed == blocks, neededTable == tableClusters { break }
                blocks = max(needed, blocks)
                tableClusters = max(neededTable, tableClusters)
            }
            let total = next + blocks + tableClusters
            let firstBlock = next
            var cache = Qcow2TableCache(file, clusterSize: cluster, bytes: cluster)
            for block in 0..<blocks {
                let table = try cache.newTable(at: next * cluster)
                for index in 0..<min(perBlock, total - min(total, block * perBlock)) {
                    let count = packed[block * perBlock + index] ?? 1
                    table.setRefcount(Int(index), order: header.refcountOrder, count)
                }
                guard let (_, bytes) = table.takeDirty() else { continue }
                cache.forget(table.offset)
                _ = try writePadded(bytes)
            }
            header.refcountTableOffset = try writePadded(
                bigEndianBytes((0..<blocks).map { (firstBlock + $0) * cluster })
                    + [UInt8](repeating: 0, count: Int(tableClusters * cluster - blocks * 8)))
            header.refcountTableClusters = UInt32(tableClusters)
        }
    }
}
