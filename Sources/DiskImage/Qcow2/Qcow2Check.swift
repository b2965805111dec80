// SPDX-License-Identifier: Apache-2.0
// Does every reference to a cluster count, and does every count have its references? Repairs refcounts from the tables.

/// What a check of an image has found.
public struct DiskCheckReport: Equatable, Sendable {
    /// Clusters with fewer references counted than there are, entries that cannot be: data may be lost.
    public var corruptions = 0
    /// Clusters that are counted, but that nothing uses: only space is lost.
    public var leaks = 0
    /// The first of both, as sentences.
    public var findings: [String] = []
    public var corruptionsFixed = 0
    public var leaksFixed = 0
    /// Clusters of the disk, and how many of them are stored.
    public var totalClusters: UInt64 = 0
    public var allocatedClusters: UInt64 = 0
    public var compressedClusters: UInt64 = 0
    /// Stored clusters that do not follow the one before them.
    public var fragmentedClusters: UInt64 = 0
    /// Bytes up to the end of the last cluster in use.
    public var endOffset: UInt64 = 0

    public init() {}
}

/// What a repair may change.
public enum DiskRepair: String, Sendable, CaseIterable {
    case leaks
    case all
}

struct Qcow2Check {
    private static let longestList = 20
    /// Clusters of a file whose references are counted: 4 bytes of memory each.
    private static let mostClusters: UInt64 = 1 << 29

    /// Bits of entries that must be zero.
    private enum Reserved {
        static let l1: UInt64 = 0x7f00_0000_0000_01ff
        /// Of clusters that are not compressed; without the mark for zeros, which not all images have.
        static let l2: UInt64 = 0x3f00_0000_0000_01fe
    }

    private let layer: Qcow2Layer
    private var references: [UInt32] = []
    private(set) var report = DiskCheckReport()
    /// Entries of the refcount table that lead nowhere.
    private var badBlocks: [Int] = []

    init(_ layer: Qcow2Layer) { self.layer = layer }

    private var bits: UInt64 { layer.clusterBits }

    private mutating func corruption(_ text: String) {
        report.corruptions += 1
        if report.findings.count < Self.longestList { report.findings.append("ERROR: " + text) }
    }

    /// Counts `size` bytes at `offset` as used by `what`.
    private mutating func reference(_ offset: UInt64, _ size: UInt64, _ what: @autoclosure () -> String) {
        guard size > 0 else { return }
        let first = offset >> bits
        let (end, overflow) = offset.addingReportingOverflow(size - 1)
        guard !overflow, end >> bits < UInt64(references.count) else {
            corruption("\(what()) at offset \(hexadecimal(offset)) reaches behind the end of the file")
            return
        }
        for cluster in first...end >> bits where references[Int(cluster)] < .max { references[Int(cluster)] += 1 }
    }

    // MARK: Counting

    private mutating func count() throws(DiskImageError) {
        let clusters = layer.file.size >> bits + (layer.file.size & (layer.clusterSize - 1) == 0 ? 0 : 1)
        guard clusters <= Self.mostClusters else {
            throw .unsupported(path: layer.file.path, feature: "a file of \(layer.file.size) bytes for its clusters")
        }
        references = [UInt32](repeating: 0, count: Int(clusters))
        report = DiskCheckReport()
        let header = layer.header
        reference(0, layer.clusterSize, "the header")
        reference(header.l1Offset, UInt64(header.l1Entries) * 8, "the L1 table")
        try countTables(layer.l1, isActive: true)
        if header.snapshotCount > 0 {
            let (list, bytes) = try layer.readSnapshots()
            reference(header.snapshotTableOffset, bytes, "the snapshot table")
            for snapshot in list {
                reference(snapshot.l1Offset, UInt64(snapshot.l1Entries) * 8, "a snapshot's L1 table")
                let l1 = try layer.file.read(
                    "a snapshot's L1 table", at: snapshot.l1Offset, count: Int(snapshot.l1Entries) * 8)
                try countTables(l1.bigEndianTable, isActive: false)
            }
        }
        try countBitmaps()
        reference(header.refcountTableOffset, UInt64(header.refcountTableClusters) << bits, "the refcount table")
        for (index, offset) in layer.refcountTable.enumerated() where offset != 0 {
            guard offset & (layer.clusterSize - 1) == 0, offset < layer.file.size else {
                corruption("refcount block \(index) is misaligned or outside, at offset \(hexadecimal(offset))")
                // Its refcounts count as zero.
                layer.refcountTable[index] = 0
                badBlocks.append(index)
                continue
            }
            reference(offset, layer.clusterSize, "refcount block \(index)")
        }
    }

    private mutating func countTables(_ l1: [UInt64], isActive: Bool) throws(DiskImageError) {
        for (index, entry) in l1.enumerated() {
            var expected: UInt64?
            let offset = entry & Qcow2Layer.Entry.offsetMask
            if entry & Reserved.l1 != 0 || (entry != 0 && offset == 0) {
                corruption("L1 entry \(index) has bits that must be zero (\(hexadecimal(entry)))")
            }
            guard offset != 0 else { continue }
            guard offset & (layer.clusterSize - 1) == 0, offset < layer.file.size else {
                corruption("L2 table \(index) is misaligned or outside, at offset \(hexadecimal(offset))")
                continue
            }
            reference(offset, layer.clusterSize, "L2 table \(index)")
            let table = try layer.mappings.table(at: offset)
            for number in 0..<layer.entriesPerTable { countEntry(table, Int(number), isActive, &expected) }
        }
    }

    private mutating func countEntry(_ table: Qcow2Table, _ index: Int, _ isActive: Bool, _ expected: inout UInt64?) {
        let entry = table.entry(layer.hasSubclusters ? index * 2 : index)
        if entry & Qcow2Layer.Entry.compressed != 0 {
            let cluster = layer.compressedCluster(entry)
            reference(cluster.offset & ~511, UInt64(cluster.size) + (cluster.offset & 511), "a compressed cluster")
            if entry & Qcow2Layer.Entry.copied != 0 {
                corruption("a compressed cluster is marked as writable in place (entry \(hexadecimal(entry)))")
            }
            if layer.hasSubclusters, table.entry(index * 2 + 1) != 0 {
                corruption("a compressed cluster has subclusters (entry \(hexadecimal(entry)))")
            }
            if isActive {
                report.allocatedClusters += 1
                report.compressedClusters += 1
                report.fragmentedClusters += 1
            }
            return
        }
        let host = entry & Qcow2Layer.Entry.offsetMask
        let mayBeZero = layer.header.version >= 3 && !layer.hasSubclusters
        if entry & (mayBeZero ? Reserved.l2 : Reserved.l2 | Qcow2Layer.Entry.zero) != 0 {
            corruption("an L2 entry has bits that must be zero (\(hexadecimal(entry)))")
        }
        if layer.hasSubclusters {
            let bitmap = table.entry(index * 2 + 1)
            if bitmap & bitmap >> 32 & 0xffff_ffff != 0 || (host == 0 && bitmap & 0xffff_ffff != 0) {
                corruption("the subclusters of an entry contradict each other (bitmap \(hexadecimal(bitmap)))")
                return
            }
        }
        guard host != 0 else { return }
        guard host & (layer.clusterSize - 1) == 0 else {
            corruption("a cluster is misaligned, at offset \(hexadecimal(host))")
            return
        }
        reference(host, layer.clusterSize, "a cluster")
        guard isActive else { return }
        report.allocatedClusters += 1
        if let expected, expected != host { report.fragmentedClusters += 1 }
        expected = host + layer.clusterSize
    }

    /// Spec: qcow2, "Bitmaps extension". Only what they use is of interest.
    private mutating func countBitmaps() throws(DiskImageError) {
        guard let bitmaps = layer.header.bitmaps, bitmaps.directorySize <= 64 << 20 else { return }
        reference(bitmaps.directoryOffset, bitmaps.directorySize, "the bitmap directory")
        let directory = try layer.file.read(
            "the bitmap directory", at: bitmaps.directoryOffset, count: Int(bitmaps.directorySize))
        var position = 0
        while position + 24 <= directory.count {
            let table = directory.bigEndian(UInt64.self, at: position)
            let entries = directory.bigEndian(UInt32.self, at: position + 8)
            let size =
                24 + Int(directory.bigEndian(UInt16.self, at: position + 18))
                + Int(directory.bigEndian(UInt32.self, at: position + 20))
            reference(table, UInt64(entries) * 8, "a bitmap's table")
            guard entries <= 8 << 20 else { break }
            for entry in try layer.file.read("a bitmap's table", at: table, count: Int(entries) * 8).bigEndianTable
            where entry & Qcow2Layer.Entry.offsetMask != 0 {
                reference(entry & Qcow2Layer.Entry.offsetMask, layer.clusterSize, "a bitmap")
            }
            position += (size + 7) & ~7
        }
    }

    // MARK: Checking

    /// Compares counts with references, and what may be written in place with the counts.
    mutating func run() throws(DiskImageError) -> DiskCheckReport {
        try count()
        report.totalClusters = (layer.size + layer.clusterSize - 1) >> bits
        var last: UInt64 = 0
        let covered = UInt64(layer.refcountTable.count) * layer.refcountsPerBlock
        var cluster: UInt64 = 0
        while cluster < max(UInt64(references.count), 1), cluster < covered || cluster < UInt64(references.count) {
            let stored = cluster < covered ? try layer.refcount(cluster) : 0
            let wanted = UInt64(references[Int(cluster)])
            if stored != 0 || wanted != 0 { last = cluster }
            if stored != wanted {
                let text = "cluster \(cluster) refcount=\(stored) reference=\(wanted)"
                if stored > wanted {
                    report.leaks += 1
                    if report.findings.count < Self.longestList { report.findings.append("Leaked " + text) }
                } else {
                    corruption(text)
                }
            }
            cluster += 1
        }
        report.endOffset = (last + 1) << bits
        try checkCopied(fixing: false)
        return report
    }

    /// COPIED must be set exactly where the refcount is one. Returns how many entries were fixed.
    @discardableResult
    private mutating func checkCopied(fixing: Bool) throws(DiskImageError) -> Int {
        var fixed = 0
        let copied = Qcow2Layer.Entry.copied
        func shouldBeSet(_ offset: UInt64) throws(DiskImageError) -> Bool { try layer.refcount(offset >> bits) == 1 }
        for (index, entry) in layer.l1.enumerated() where entry & Qcow2Layer.Entry.offsetMask != 0 {
            let offset = entry & Qcow2Layer.Entry.offsetMask
            guard offset & (layer.clusterSize - 1) == 0, offset < layer.file.size else { continue }
            if try shouldBeSet(offset) != (entry & copied != 0) {
                if fixing {
                    layer.l1[index] = entry ^ copied
                    layer.l1Dirty = 0..<layer.l1.count
                    fixed += 1
                } else {
                    corruption("the COPIED flag of L1 entry \(index) is wrong (\(hexadecimal(entry)))")
                }
            }
            let table = try layer.mappings.table(at: offset)
            for number in 0..<Int(layer.entriesPerTable) {
                let position = layer.hasSubclusters ? number * 2 : number
                let value = table.entry(position)
                let host = value & Qcow2Layer.Entry.offsetMask
                guard value & Qcow2Layer.Entry.compressed == 0, host != 0, host & (layer.clusterSize - 1) == 0,
                    try shouldBeSet(host) != (value & copied != 0)
                else { continue }
                if fixing {
                    table.setEntry(position, value ^ copied)
                    fixed += 1
                } else {
                    corruption("the COPIED flag of the cluster at \(hexadecimal(host)) is wrong")
                }
            }
        }
        return fixed
    }

    // MARK: Repairing

    /// Checks, fixes what `repair` allows, and checks what is in the file then.
    mutating func run(_ repair: DiskRepair) throws(DiskImageError) -> DiskCheckReport {
        let before = try run()
        if before.corruptions + before.leaks > 0 { try checkFoundations() }
        if before.corruptions > 0, repair == .leaks {
            try setRefcounts { stored, wanted in stored > wanted }
        } else if before.corruptions + before.leaks > 0 {
            try dropBadBlocks()
            try setRefcounts { $0 != $1 }
            // The counts are right now: entries follow them.
            try checkCopied(fixing: true)
        }
        if repair == .all {
            layer.headerDirty = layer.headerDirty || layer.header.incompatible.contains(.corrupt)
            layer.header.incompatible.remove(.corrupt)
        }
        // Of what goes when it is not kept up to date, only bitmaps were looked at.
        if layer.header.autoclear & ~1 != 0 {
            layer.header.autoclear &= 1
            layer.headerDirty = true
        }
        // Refcounts that are kept in memory while an image is in use are what this is about.
        _ = try layer.writeRefcounts(always: true)
        try layer.file.sync()
        if repair == .all || before.corruptions == 0 { try layer.close() }
        var again = Qcow2Check(try Qcow2Layer(layer.file, for: .examination))
        var after = try again.run()
        after.corruptionsFixed = max(0, before.corruptions - after.corruptions)
        after.leaksFixed = max(0, before.leaks - after.leaks)
        after.findings = before.findings
        return after
    }

    /// What a repair writes to must not be something else, too.
    private func checkFoundations() throws(DiskImageError) {
        let header = layer.header
        for (what, offset, size) in [
            ("the header", 0, layer.clusterSize), ("the L1 table", header.l1Offset, UInt64(header.l1Entries) * 8),
            ("the refcount table", header.refcountTableOffset, UInt64(header.refcountTableClusters) << bits),
        ] where size > 0 {
            for cluster in offset >> bits...(offset + size - 1) >> bits
            where cluster < UInt64(references.count) && references[Int(cluster)] > 1 {
                throw .corrupt(
                    path: layer.file.path,
                    reason: "\(what) at offset \(hexadecimal(offset)) is also used for something else, which cannot be "
                        + "repaired")
            }
        }
    }

    /// Lets go of refcount blocks that cannot be, or that are something else, too: new ones are made from the references.
    private mutating func dropBadBlocks() throws(DiskImageError) {
        for (index, offset) in layer.refcountTable.enumerated() where offset != 0 && references[Int(offset >> bits)] > 1
        {
            layer.refcounts.forget(offset)
            layer.refcountTable[index] = 0
            references[Int(offset >> bits)] -= 1
            badBlocks.append(index)
        }
        if !badBlocks.isEmpty { layer.refcountTableDirty = 0..<layer.refcountTable.count }
    }

    /// After a crash of whoever had refcounts in memory: counts them again.
    mutating func rebuildRefcounts() throws(DiskImageError) {
        try count()
        try setRefcounts { $0 != $1 }
        try checkCopied(fixing: true)
        try layer.writeMappings()
    }

    private func setRefcounts(where isWrong: (UInt64, UInt64) -> Bool) throws(DiskImageError) {
        // New refcount blocks go behind everything: any cluster before may be in use.
        layer.reservedRun = 0..<layer.highWater
        defer { layer.reservedRun = nil }
        let limit = layer.header.refcountOrder == 6 ? UInt64.max : (1 << (1 << UInt64(layer.header.refcountOrder))) - 1
        for (cluster, wanted) in references.enumerated() {
            let stored = try layer.refcount(UInt64(cluster))
            if isWrong(stored, UInt64(wanted)) { try layer.setRefcount(UInt64(cluster), min(UInt64(wanted), limit)) }
        }
        layer.cursor = 0
    }
}
