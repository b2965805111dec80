// SPDX-License-Identifier: Apache-2.0
// An image that lets go of all it holds, so that the disk is what lies below.

extension Qcow2Layer {
    /// Forgets all clusters of the disk; internal snapshots keep theirs. Nothing may be under way.
    func empty() throws(DiskImageError) {
        for index in l1.indices {
            let offset = l1[index] & Entry.offsetMask
            guard offset != 0 else { continue }
            let table = try mappings.table(at: offset)
            for number in 0..<Int(entriesPerTable) { try giveUpCluster(table, number) }
            mappings.forget(offset)
            giveUp(offset >> clusterBits, 1)
            l1[index] = 0
        }
        l1Dirty = 0..<l1.count
        // Entries first, then the refcounts of what they led to.
        try close()
    }
}
