// SPDX-License-Identifier: Apache-2.0
// Space in a qcow2 file: refcounts, free clusters, and when given-up ones may be used again.
// Spec: QEMU docs/interop/qcow2.txt, "Host cluster management".

extension Qcow2Layer {
    private func corrupt(_ reason: String) -> DiskImageError { .corrupt(path: file.path, reason: reason) }

    /// The refcount block of `cluster`; nil when it has none: all its refcounts are zero.
    private func refcountBlock(_ cluster: UInt64) throws(DiskImageError) -> Qcow2Table? {
        let index = cluster / refcountsPerBlock
        guard index < UInt64(refcountTable.count), refcountTable[Int(index)] != 0 else { return nil }
        return try refcounts.table(at: refcountTable[Int(index)])
    }

    func refcount(_ cluster: UInt64) throws(DiskImageError) -> UInt64 {
        guard let block = try refcountBlock(cluster) else { return 0 }
        return block.refcount(Int(cluster % refcountsPerBlock), order: header.refcountOrder)
    }

    /// Sets a refcount, making the block that holds it where there is none.
    func setRefcount(_ cluster: UInt64, _ value: UInt64) throws(DiskImageError) {
        let index = cluster / refcountsPerBlock
        if index >= UInt64(refcountTable.count) { try growRefcountTable(toHold: index) }
        if refcountTable[Int(index)] == 0 { try makeRefcountBlock(index) }
        guard let block = try refcountBlock(cluster) else { return }
        block.setRefcount(Int(cluster % refcountsPerBlock), order: header.refcountOrder, value)
    }

    /// A block describes itself from the first cluster of its range: nothing there is in use yet. Where a run is being
    /// allocated over that place, the block goes behind everything.
    private func makeRefcountBlock(_ index: UInt64) throws(DiskImageError) {
        var place = index * refcountsPerBlock
        if let run = reservedRun, run.contains(place) { place = highWater }
        guard place > 0 else { throw corrupt("its first refcount block is missing") }
        refcountTable[Int(index)] = place << clusterBits
        markRefcountTable(Int(index))
        noteUse(place, 1)
        _ = try refcounts.newTable(at: place << clusterBits)
        try setRefcount(place, 1)
    }

    private func markRefcountTable(_ index: Int) {
        guard let old = refcountTableDirty else {
            refcountTableDirty = index..<index + 1
            return
        }
        refcountTableDirty = min(old.lowerBound, index)..<max(old.upperBound, index + 1)
    }

    private func noteUse(_ cluster: UInt64, _ count: UInt64) { highWater = max(highWater, cluster + count) }

    /// Moves the refcount table to a place behind everything where it has room for block `index`.
    private func growRefcountTable(toHold index: UInt64) throws(DiskImageError) {
        let old = (start: header.refcountTableOffset >> clusterBits, count: UInt64(header.refcountTableClusters))
        let perCluster = clusterSize / 8
        // Room for half as much again, so that this stays rare.
        let entries = max(index + 2, UInt64(refcountTable.count) * 3 / 2)
        let clusters = (entries + perCluster - 1) / perCluster
        guard clusters * clusterSize <= max(Qcow2Header.Limit.refcountTableBytes, clusterSize) else {
            throw .invalidValue(
                field: "the image", value: "as large as its refcount table allows",
                allowed: "smaller, or of larger clusters")
        }
        refcountTable += [UInt64](repeating: 0, count: Int(clusters * perCluster) - refcountTable.count)
        let place = max(highWater, index * refcountsPerBlock)
        header.refcountTableOffset = place << clusterBits
        header.refcountTableClusters = UInt32(clusters)
        headerDirty = true
        refcountTableDirty = 0..<refcountTable.count
        try use(place..<place + clusters)
        giveUp(old.start, old.count)
    }

    // MARK: Allocation

    /// Up to `limit` free clusters in a row, now in use.
    func allocate(_ limit: UInt64) throws(DiskImageError) -> (first: UInt64, count: UInt64, isFresh: Bool) {
        var first = cursor
        while try isTaken(first) { first += 1 }
        let isFresh = file.isRegular && first >= highWater
        var count: UInt64 = 0
        while count < limit, try !isTaken(first + count) {
            noteUse(first + count, 1)
            try setRefcount(first + count, 1)
            count += 1
        }
        cursor = first + count
        return (first, count, isFresh)
    }

    /// `count` free clusters in a row, now in use: for tables.
    func allocateContiguous(_ count: UInt64) throws(DiskImageError) -> UInt64 {
        var first = highWater
        var length: UInt64 = 0
        while length < count {
            if try refcount(first + length) != 0 {
                first += length + 1
                length = 0
            } else {
                length += 1
            }
        }
        try use(first..<first + count)
        return first
    }

    /// Puts free clusters in use.
    private func use(_ run: Range<UInt64>) throws(DiskImageError) {
        let outer = reservedRun
        reservedRun = run
        defer { reservedRun = outer }
        noteUse(run.lowerBound, run.upperBound - run.lowerBound)
        for cluster in run { try setRefcount(cluster, 1) }
    }

    /// Whether a cluster cannot be allocated: in use, or the place of a refcount block to come.
    private func isTaken(_ cluster: UInt64) throws(DiskImageError) -> Bool {
        guard let block = try refcountBlock(cluster) else { return cluster.isMultiple(of: refcountsPerBlock) }
        return block.refcount(Int(cluster % refcountsPerBlock), order: header.refcountOrder) != 0
    }

    /// Nothing refers to the clusters any more, once what has changed is in the file.
    func giveUp(_ cluster: UInt64, _ count: UInt64) {
        if givenUp.count > reclaimable, let last = givenUp.last, last.sequence == sequence,
            last.cluster + last.clusters == cluster
        {
            givenUp[givenUp.count - 1].clusters += count
        } else {
            givenUp.append((cluster, count, sequence))
        }
    }

    func reclaim(before oldest: UInt64) throws(DiskImageError) {
        let ready = isScratch ? givenUp.count : reclaimable
        var done = 0
        defer {
            givenUp.removeFirst(done)
            reclaimable = max(0, reclaimable - done)
        }
        while done < ready, givenUp[done].sequence < oldest {
            let (first, count, _) = givenUp[done]
            done += 1
            for cluster in first..<first + count { try release(cluster) }
        }
    }

    /// One reference less.
    func release(_ cluster: UInt64) throws(DiskImageError) {
        let count = try refcount(cluster)
        guard count > 0 else {
            throw corrupt(
                "the cluster at offset \(hexadecimal(cluster << clusterBits)) is in use but has no references")
        }
        try setRefcount(cluster, count - 1)
        if count == 1 {
            cursor = min(cursor, cluster)
            _ = file.punchHole(at: cluster << clusterBits, count: clusterSize)
        }
    }

    // MARK: Writing

    /// Writes the header's fixed part; the backing file's name stays where it is.
    func writeHeader() throws(DiskImageError) {
        let existing = try file.read("the header", at: 0, count: header.version == 2 ? 72 : 104)
        try file.write(header.fixedPart(backingOffset: nil, existing: existing), at: 0)
        headerDirty = false
    }

    /// Refcounts are not kept in the file while the image is open; its dirty bit says so.
    var isLazy: Bool {
        !isScratch && header.version >= 3 && header.compatible & Qcow2Header.lazyRefcounts != 0
            && header.refcountOrder == 4
    }

    /// Writes refcounts, then the table that leads to them, then the header that leads to that.
    /// - Returns: whether anything was written.
    func writeRefcounts(always: Bool) throws(DiskImageError) -> Bool {
        if isLazy && !always { return false }
        var written = false
        let dirty = refcounts.dirtyTables.sorted { $0.offset < $1.offset }
        for table in dirty {
            guard let (offset, bytes) = table.takeDirty() else { continue }
            do throws(DiskImageError) { try file.write(bytes, at: offset) } catch {
                table.markAllDirty()
                throw error
            }
            written = true
        }
        if let range = refcountTableDirty {
            if written, !isScratch { try file.sync() }
            try file.write(
                bigEndianBytes(refcountTable[range]), at: header.refcountTableOffset + UInt64(range.lowerBound) * 8)
            refcountTableDirty = nil
            written = true
            if headerDirty, !isScratch { try file.sync() }
        }
        if headerDirty {
            try writeHeader()
            written = true
        }
        return written
    }
}
