// SPDX-License-Identifier: Apache-2.0
// L2 tables and refcount blocks in memory: one cluster each, read when needed, written when flushed.

/// One cluster of metadata.
@safe final class Qcow2Table {
    /// In the file.
    let offset: UInt64
    private let buffer: AlignedBuffer
    /// Bytes that the file does not have yet.
    private(set) var dirty: Range<Int>?
    fileprivate(set) var lastUse: UInt64 = 0
    /// A flush has its bytes, but the file does not yet.
    var isHeld = false

    fileprivate init(offset: UInt64, buffer: AlignedBuffer) {
        self.offset = offset
        self.buffer = buffer
    }

    /// The 64-bit entry `index`, which the caller bounds by the table's size.
    @inline(__always)
    func entry(_ index: Int) -> UInt64 {
        // SAFETY: callers take `index` modulo the entries of a cluster.
        unsafe UInt64(bigEndian: buffer.bytes.load(fromByteOffset: index &* 8, as: UInt64.self))
    }

    func setEntry(_ index: Int, _ value: UInt64) {
        // SAFETY: as in `entry`.
        unsafe buffer.bytes.storeBytes(of: value.bigEndian, toByteOffset: index &* 8, as: UInt64.self)
        touch(index &* 8..<index &* 8 &+ 8)
    }

    /// Refcount `index` of 2^`order` bits. Spec: "Refcount block entry"; less than a byte: least significant first.
    func refcount(_ index: Int, order: Int) -> UInt64 {
        if order < 3 {
            let bit = index << order
            // SAFETY: callers take `index` modulo the entries of a cluster.
            return unsafe UInt64(buffer.bytes[bit >> 3] >> UInt8(bit & 7)) & ((1 << (1 << UInt64(order))) - 1)
        }
        var value: UInt64 = 0
        let size = 1 << (order - 3)
        // SAFETY: as above.
        for byte in 0..<size { unsafe value = value << 8 | UInt64(buffer.bytes[index * size + byte]) }
        return value
    }

    func setRefcount(_ index: Int, order: Int, _ value: UInt64) {
        if order < 3 {
            let bit = index << order
            let mask = UInt8((1 << (1 << order)) - 1) << UInt8(bit & 7)
            let bits = UInt8(truncatingIfNeeded: value) << UInt8(bit & 7)
            // SAFETY: callers take `index` modulo the entries of a cluster.
            unsafe buffer.bytes[bit >> 3] = unsafe buffer.bytes[bit >> 3] & ~mask | bits & mask
            touch(bit >> 3..<bit >> 3 + 1)
            return
        }
        let size = 1 << (order - 3)
        for byte in 0..<size {
            // SAFETY: as above.
            unsafe buffer.bytes[index * size + byte] = UInt8(truncatingIfNeeded: value >> UInt64((size - 1 - byte) * 8))
        }
        touch(index * size..<(index + 1) * size)
    }

    private func touch(_ range: Range<Int>) {
        guard let old = dirty else {
            dirty = range
            return
        }
        dirty = min(old.lowerBound, range.lowerBound)..<max(old.upperBound, range.upperBound)
    }

    func markAllDirty() { dirty = unsafe 0..<buffer.bytes.count }

    /// The bytes to write, in whole sectors, and where; afterwards the table counts as written.
    func takeDirty() -> (offset: UInt64, bytes: [UInt8])? {
        guard let range = dirty else { return nil }
        dirty = nil
        let first = range.lowerBound & ~511
        // SAFETY: a cluster is whole sectors.
        let last = unsafe min((range.upperBound + 511) & ~511, buffer.bytes.count)
        return unsafe (offset + UInt64(first), Array(buffer.bytes[first..<last]))
    }

    func copy(from other: Qcow2Table) {
        // SAFETY: all tables of an image are one cluster.
        unsafe buffer.bytes.copyMemory(from: UnsafeRawBufferPointer(other.buffer.bytes))
        markAllDirty()
    }
}

/// Tables of one kind. What is dirty stays until it was written.
struct Qcow2TableCache {
    private let file: ImageFile
    private let clusterSize: Int
    /// Tables to keep, unless more are dirty.
    private let capacity: Int
    private var tables: [UInt64: Qcow2Table] = [:]
    private var latest: Qcow2Table?
    private var uses: UInt64 = 0

    /// - Parameter bytes: of memory to use.
    init(_ file: ImageFile, clusterSize: UInt64, bytes: UInt64) {
        self.file = file
        self.clusterSize = Int(clusterSize)
        capacity = Int(max(16, bytes / clusterSize))
    }

    /// The table at `offset`, which lies in the file.
    @inline(__always)
    mutating func table(at offset: UInt64) throws(DiskImageError) -> Qcow2Table {
        if let latest, latest.offset == offset { return latest }
        return try find(offset)
    }

    private mutating func find(_ offset: UInt64) throws(DiskImageError) -> Qcow2Table {
        uses += 1
        if let table = tables[offset] {
            table.lastUse = uses
            latest = table
            return table
        }
        let buffer = try AlignedBuffer(count: clusterSize)
        unsafe try file.read(at: offset, into: buffer.bytes)
        return insert(Qcow2Table(offset: offset, buffer: buffer))
    }

    /// A table of zeros, not in the file yet.
    mutating func newTable(at offset: UInt64) throws(DiskImageError) -> Qcow2Table {
        let table = insert(Qcow2Table(offset: offset, buffer: try .zeros(count: clusterSize)))
        table.markAllDirty()
        return table
    }

    private mutating func insert(_ table: Qcow2Table) -> Qcow2Table {
        if tables.count >= capacity { evict() }
        table.lastUse = uses
        tables[table.offset] = table
        latest = table
        return table
    }

    private mutating func evict() {
        let clean = tables.values.filter { $0.dirty == nil && !$0.isHeld }.sorted { $0.lastUse < $1.lastUse }
        for table in clean.prefix(max(1, capacity / 4)) { tables[table.offset] = nil }
        latest = nil
    }

    /// The cluster at `offset` is no table any more.
    mutating func forget(_ offset: UInt64) {
        tables[offset] = nil
        if latest?.offset == offset { latest = nil }
    }

    var dirtyTables: [Qcow2Table] { tables.values.filter { $0.dirty != nil } }
    var hasDirty: Bool { tables.values.contains { $0.dirty != nil } }
    /// Whether it is time to write what is dirty, so that memory stays bounded.
    var isCrowded: Bool { tables.count > capacity && hasDirty }
}
