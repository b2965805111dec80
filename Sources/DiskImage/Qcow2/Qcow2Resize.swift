// SPDX-License-Identifier: Apache-2.0
// A larger or smaller disk in the same qcow2 image.

extension Qcow2Layer {
    /// Writes tables that have changed, outside of a flush: nobody else uses the image.
    func writeMappings() throws(DiskImageError) {
        let plan = try beginFlush()
        do throws(DiskImageError) {
            for (offset, bytes) in plan.mappings + plan.roots { try file.write(bytes, at: offset) }
        } catch {
            endFlush(plan, failed: true)
            throw error
        }
        endFlush(plan, failed: false)
    }

    /// Makes the disk `newSize` bytes long. What is added reads as zero, what is cut off is lost. Nothing may be under way.
    func resize(to newSize: UInt64) throws(DiskImageError) {
        guard newSize <= Qcow2Header.Limit.virtualSize else {
            throw .invalidValue(field: "the disk's size", value: "\(newSize)", allowed: "at most 2^61")
        }
        let (snapshots, _) = try readSnapshots()
        guard snapshots.isEmpty || (header.version >= 3 && newSize >= size) else {
            throw .invalidValue(
                field: "the disk's size", value: "\(newSize)",
                allowed: "at least \(size): the image has internal snapshots")
        }
        let covered = clusterSize * entriesPerTable
        let entries = (newSize + covered - 1) / covered
        guard entries * 8 <= Qcow2Header.Limit.l1Bytes else {
            throw .invalidValue(
                field: "the disk's size", value: "\(newSize)",
                allowed: "at most \(Qcow2Header.Limit.l1Bytes / 8 * covered) with this cluster size")
        }
        if newSize < size {
            let from = (newSize + clusterSize - 1) & ~(clusterSize - 1)
            if from < size { _ = try zero(at: from, count: size - from, releasing: true) }
        }
        var oldTable: (cluster: UInt64, count: UInt64)?
        if entries > UInt64(l1.count) {
            oldTable =
                l1.isEmpty
                ? nil
                : (
                    header.l1Offset >> clusterBits, (UInt64(l1.count) * 8 + clusterSize - 1) >> clusterBits
                )
            let clusters = (entries * 8 + clusterSize - 1) >> clusterBits
            let place = try allocateContiguous(clusters)
            l1 += [UInt64](repeating: 0, count: Int(entries) - l1.count)
            l1Dirty = nil
            try file.write(
                bigEndianBytes(l1) + [UInt8](repeating: 0, count: Int((clusters << clusterBits) - entries * 8)),
                at: place << clusterBits)
            header.l1Offset = place << clusterBits
            header.l1Entries = UInt32(entries)
        }
        // Tables that the new L1 table leads to come first, then the header that leads to it.
        header.size = newSize
        _ = try writeRefcounts(always: true)
        try writeMappings()
        try file.sync()
        try writeHeader()
        try file.sync()
        if let oldTable { giveUp(oldTable.cluster, oldTable.count) }
        reclaimable = givenUp.count
        try reclaim(before: .max)
        try close()
    }
}
