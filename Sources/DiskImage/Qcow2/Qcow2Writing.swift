// SPDX-License-Identifier: Apache-2.0
// Changing a qcow2 image: where new data goes, what the tables say afterwards, and in which order it reaches the disk.
//
// Data is written first; its L2 entries change in memory when it is. A flush writes refcounts, then (behind a barrier) L2
// tables, then (behind another, only for new L2 tables) L1 entries. Clusters that are given up keep their refcount until
// no table in the file leads to them. So whenever the process or the host dies, every table in the file leads to whole
// data, and at worst clusters are counted that nobody uses.

extension Qcow2Layer {
    private func corrupt(_ reason: String) -> DiskImageError { .corrupt(path: file.path, reason: reason) }

    // MARK: Planning

    func planWrite(at offset: UInt64, limit: UInt64) throws(DiskImageError) -> WriteStep {
        let limit = min(limit, size - offset)
        let cluster = offset >> clusterBits
        if let step = try planInPlace(offset, limit) { return step }
        let first = cluster % entriesPerTable
        let table = try mappingTable(cluster)
        let inside = offset & (clusterSize - 1)
        if let table, let host = try reusableHost(table, first) {
            let count = min(limit, clusterSize - inside)
            var step = WriteStep(offset: offset, count: count, hostOffset: host + inside)
            step.allocation = .init(cluster: cluster, hostOffset: host, clusters: 1, isNew: false)
            try fillUnits(&step, table, Int(first))
            return step
        }
        // New space for as many clusters in a row as need some.
        let last = (offset + limit - 1) >> clusterBits
        var wanted: UInt64 = 1
        while cluster + wanted <= last, first + wanted < entriesPerTable {
            if let table, try !needsSpace(table, first + wanted) { break }
            wanted += 1
        }
        let (place, clusters, isFresh) = try allocate(wanted)
        let count = min(limit, (clusters << clusterBits) - inside)
        var step = WriteStep(offset: offset, count: count, hostOffset: place << clusterBits + inside)
        step.isFresh = isFresh
        step.allocation = .init(cluster: cluster, hostOffset: place << clusterBits, clusters: clusters, isNew: true)
        step.fillHead = offset & (unit - 1)
        step.fillTail = fillBehind(offset + count)
        if hasSubclusters, let table { try keepOthers(&step, table, first) }
        return step
    }

    /// Bytes from `end` to the end of its unit, which may lie behind the disk's end: a larger disk finds zeros there.
    private func fillBehind(_ end: UInt64) -> UInt64 { (0 &- end) & (unit - 1) }

    /// A piece that lies in data that is the disk's alone.
    private func planInPlace(_ offset: UInt64, _ limit: UInt64) throws(DiskImageError) -> WriteStep? {
        let cluster = offset >> clusterBits
        let first = cluster % entriesPerTable
        guard let table = try mappingTable(cluster), isOwned(table, Int(first)),
            case .data(let host) = try extent(at: offset, limit: 1).mapping
        else { return nil }
        var count = min(limit, hasSubclusters ? try extent(at: offset, limit: limit).count : limit)
        // Only clusters that are owned and follow each other.
        let inside = offset & (clusterSize - 1)
        var covered = clusterSize - inside
        var next = first + 1
        if hasSubclusters {
            count = min(count, covered)
        } else {
            let base = host - inside
            while covered < count, next < entriesPerTable,
                table.entry(Int(next)) == base + (next - first) << clusterBits | Entry.copied
            {
                covered += clusterSize
                next += 1
            }
            count = min(count, covered)
        }
        return WriteStep(offset: offset, count: count, hostOffset: host)
    }

    private func isOwned(_ table: Qcow2Table, _ index: Int) -> Bool {
        let entry = table.entry(hasSubclusters ? index * 2 : index)
        return entry & Entry.copied != 0 && entry & Entry.compressed == 0
    }

    /// Space that the cluster has, but does not use all of; nil when it has none of its own.
    private func reusableHost(_ table: Qcow2Table, _ index: UInt64) throws(DiskImageError) -> UInt64? {
        guard isOwned(table, Int(index)) else { return nil }
        let host = table.entry(hasSubclusters ? Int(index) * 2 : Int(index)) & Entry.offsetMask
        guard host != 0 else { return nil }
        try checkHost(host, table, Int(index))
        return host
    }

    private func needsSpace(_ table: Qcow2Table, _ index: UInt64) throws(DiskImageError) -> Bool {
        try reusableHost(table, index) == nil
    }

    /// Units of an owned cluster that the write touches in part and that hold no data yet.
    private func fillUnits(_ step: inout WriteStep, _ table: Qcow2Table, _ index: Int) throws(DiskImageError) {
        let head = step.offset & (unit - 1)
        if head > 0, !isData(table, index, step.offset) { step.fillHead = head }
        let end = step.offset + step.count
        if !end.isMultiple(of: unit), !isData(table, index, end) { step.fillTail = fillBehind(end) }
    }

    private func isData(_ table: Qcow2Table, _ index: Int, _ offset: UInt64) -> Bool {
        guard hasSubclusters else { return false }
        let bit = (offset & (clusterSize - 1)) / unit
        return table.entry(index * 2 + 1) >> bit & 1 == 1
    }

    /// A cluster with subclusters that moves to new space takes the data along that it has elsewhere.
    private func keepOthers(_ step: inout WriteStep, _ table: Qcow2Table, _ first: UInt64) throws(DiskImageError) {
        guard let allocation = step.allocation else { return }
        func hasData(_ index: UInt64) -> Bool {
            let entry = table.entry(Int(index) * 2)
            return entry & Entry.compressed != 0 || table.entry(Int(index) * 2 + 1) & 0xffff_ffff != 0
        }
        if hasData(first) { step.fillHead = step.offset & (clusterSize - 1) }
        if hasData(first + allocation.clusters - 1) {
            let end = step.offset + step.count
            step.fillTail = (0 &- end) & (clusterSize - 1)
        }
    }

    // MARK: Publishing

    func publish(_ step: WriteStep) throws(DiskImageError) {
        guard let allocation = step.allocation else { return }
        // What was copied into new space may be old data that a flush has promised.
        if step.fillHead + step.fillTail > 0 { hasMovedData = true }
        let table = try writableTable(allocation.cluster)
        let start = step.offset - step.fillHead
        let end = step.offset + step.count + step.fillTail
        for number in 0..<allocation.clusters {
            let index = Int((allocation.cluster + number) % entriesPerTable)
            let host = allocation.hostOffset + number << clusterBits
            if allocation.isNew { try giveUpCluster(table, index) }
            if hasSubclusters {
                let base = (allocation.cluster + number) << clusterBits
                let from = (max(start, base) - base) / unit
                let to = (min(end, base + clusterSize) - base + unit - 1) / unit
                let touched = UInt64(UInt32(truncatingIfNeeded: (UInt64(1) << to) &- (UInt64(1) << from)))
                let old = table.entry(index * 2) & Entry.compressed != 0 ? 0 : table.entry(index * 2 + 1)
                table.setEntry(index * 2, host | Entry.copied)
                table.setEntry(index * 2 + 1, (old | touched) & ~(touched << 32))
            } else {
                table.setEntry(index, host | Entry.copied)
            }
        }
    }

    func abandon(_ step: WriteStep) {
        guard let allocation = step.allocation, allocation.isNew else { return }
        giveUp(allocation.hostOffset >> clusterBits, allocation.clusters)
    }

    /// What an entry led to is referred to once less.
    func giveUpCluster(_ table: Qcow2Table, _ index: Int) throws(DiskImageError) {
        let entry = table.entry(hasSubclusters ? index * 2 : index)
        if entry & Entry.compressed != 0 {
            let cluster = compressedCluster(entry)
            let first = cluster.offset >> clusterBits
            let last = (cluster.offset + UInt64(cluster.size) - 1) >> clusterBits
            giveUp(first, last - first + 1)
        } else if entry & Entry.offsetMask != 0 {
            giveUp((entry & Entry.offsetMask) >> clusterBits, 1)
        }
    }

    /// The L2 table of a cluster, the disk's alone; made or copied where needed.
    private func writableTable(_ cluster: UInt64) throws(DiskImageError) -> Qcow2Table {
        let index = Int(cluster / entriesPerTable)
        guard index < l1.count else { throw corrupt("its L1 table is too short for cluster \(cluster)") }
        let old = l1[index] & Entry.offsetMask
        if old != 0, l1[index] & Entry.copied != 0 { return try mappings.table(at: old) }
        let place = try allocate(1).first
        let table = try mappings.newTable(at: place << clusterBits)
        if old != 0 {
            table.copy(from: try mappings.table(at: old))
            giveUp(old >> clusterBits, 1)
        }
        l1[index] = place << clusterBits | Entry.copied
        let range = l1Dirty ?? index..<index + 1
        l1Dirty = min(range.lowerBound, index)..<max(range.upperBound, index + 1)
        return table
    }

    // MARK: Zeros

    func zero(at offset: UInt64, count: UInt64, releasing: Bool) throws(DiskImageError) -> Bool {
        if header.version < 3, hasBacking { return false }
        for cluster in offset >> clusterBits..<(offset + count + clusterSize - 1) >> clusterBits {
            let index = Int(cluster % entriesPerTable)
            if !hasBacking {
                guard let table = try mappingTable(cluster) else { continue }
                if isBlank(table, index) { continue }
            }
            let table = try writableTable(cluster)
            let keeps = !releasing && header.version >= 3 && isOwned(table, index)
            let host = keeps ? table.entry(hasSubclusters ? index * 2 : index) & Entry.offsetMask : 0
            if host == 0 { try giveUpCluster(table, index) }
            let space = host == 0 ? 0 : host | Entry.copied
            if hasSubclusters {
                table.setEntry(index * 2, space)
                table.setEntry(index * 2 + 1, hasBacking || host != 0 ? 0xffff_ffff << 32 : 0)
            } else {
                table.setEntry(index, space | (hasBacking || host != 0 ? Entry.zero : 0))
            }
        }
        return true
    }

    private func isBlank(_ table: Qcow2Table, _ index: Int) -> Bool {
        hasSubclusters ? table.entry(index * 2) == 0 && table.entry(index * 2 + 1) == 0 : table.entry(index) == 0
    }

    /// Like zero, but nothing happens where that would not give space back or cannot be.
    func discard(at offset: UInt64, count: UInt64) throws(DiskImageError) {
        _ = try zero(at: offset, count: count, releasing: true)
    }

    // MARK: Flushing

    var isCrowded: Bool { mappings.isCrowded || refcounts.isCrowded }

    func beginFlush() throws(DiskImageError) -> FlushPlan {
        var plan = FlushPlan()
        let dirty = mappings.dirtyTables.sorted { $0.offset < $1.offset }
        if isLazy, !dirty.isEmpty || l1Dirty != nil, !header.incompatible.contains(.dirty) {
            header.incompatible.insert(.dirty)
            // Only this field: the refcount table may have a new place that nothing is written at yet.
            try file.write(bigEndianBytes([header.incompatible.rawValue]), at: 72)
            try file.sync()
        }
        let wroteRefcounts = try writeRefcounts(always: false)
        // Tables must not lead to moved data, or behind the file's end, before that is on the disk.
        let hasNewData = hasMovedData || file.size > syncedSize
        plan.needsBarrier = wroteRefcounts || (!dirty.isEmpty && hasNewData)
        hasMovedData = hasMovedData && dirty.isEmpty
        if plan.needsBarrier { syncedSize = file.size }
        for table in dirty {
            guard let piece = table.takeDirty() else { continue }
            table.isHeld = true
            plan.held.append(table)
            plan.mappings.append(piece)
        }
        if let range = l1Dirty {
            l1Dirty = nil
            plan.roots.append((header.l1Offset + UInt64(range.lowerBound) * 8, bigEndianBytes(l1[range])))
        }
        reclaimablePlanned = givenUp.count
        return plan
    }

    func endFlush(_ plan: FlushPlan, failed: Bool) {
        for table in plan.held {
            table.isHeld = false
            if failed { table.markAllDirty() }
        }
        if failed {
            hasMovedData = true
            if !plan.roots.isEmpty { l1Dirty = 0..<l1.count }
        } else {
            reclaimable = max(reclaimable, reclaimablePlanned)
        }
        reclaimablePlanned = 0
    }

    func close() throws(DiskImageError) {
        guard file.isWritable, !isScratch else { return }
        for _ in 0..<2 {
            let plan = try beginFlush()
            if plan.needsBarrier { try file.sync() }
            for (offset, bytes) in plan.mappings { try file.write(bytes, at: offset) }
            if !plan.roots.isEmpty { try file.sync() }
            for (offset, bytes) in plan.roots { try file.write(bytes, at: offset) }
            if !plan.mappings.isEmpty || !plan.roots.isEmpty { try file.sync() }
            endFlush(plan, failed: false)
            // What is given up now is written in the second round.
            try reclaim(before: .max)
        }
        if header.incompatible.contains(.dirty) {
            _ = try writeRefcounts(always: true)
            try file.sync()
            header.incompatible.remove(.dirty)
            try writeHeader()
        }
        try file.sync()
    }
}
