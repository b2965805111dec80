// SPDX-License-Identifier: Apache-2.0
// Internal snapshots of a qcow2 image: listed and read, not made. Spec: qcow2, "Snapshots".

/// One internal snapshot.
public struct DiskSnapshot: Equatable, Sendable {
    public var id: String
    public var name: String
    /// Seconds since 1970.
    public var date: UInt32
    public var dateNanoseconds: UInt32
    /// Guest nanoseconds.
    public var vmClock: UInt64
    /// Bytes of a saved machine's state.
    public var vmStateSize: UInt64
    /// Of the disk at that time, in bytes.
    public var diskSize: UInt64
    /// Instructions that had been executed, where they were counted.
    public var instructions: UInt64?
    var l1Offset: UInt64
    var l1Entries: UInt32
}

extension Qcow2Layer {
    private static let largestTable: UInt64 = 64 << 20
    private static let fixedLength = 40

    /// The image's snapshots, in the order of its table, and the bytes that the table takes.
    func readSnapshots() throws(DiskImageError) -> (list: [DiskSnapshot], bytes: UInt64) {
        var list: [DiskSnapshot] = []
        var position = header.snapshotTableOffset
        func corrupt(_ reason: String) -> DiskImageError {
            .corrupt(path: file.path, reason: "the snapshot at offset \(hexadecimal(position)) \(reason)")
        }
        for _ in 0..<header.snapshotCount {
            guard position - header.snapshotTableOffset <= Self.largestTable else { throw corrupt("is too far back") }
            let fixed = try file.read("a snapshot", at: position, count: Self.fixedLength)
            let extraSize = Int(fixed.bigEndian(UInt32.self, at: 36))
            let idSize = Int(fixed.bigEndian(UInt16.self, at: 12))
            let nameSize = Int(fixed.bigEndian(UInt16.self, at: 14))
            guard extraSize <= 1024 else {
                throw corrupt("has \(extraSize) bytes of extra data, at most 1024 are possible")
            }
            let rest = try file.read("a snapshot", at: position + 40, count: extraSize + idSize + nameSize)
            let texts = rest.dropFirst(extraSize)
            let snapshot = DiskSnapshot(
                id: String(decoding: texts.prefix(idSize), as: UTF8.self),
                name: String(decoding: texts.dropFirst(idSize), as: UTF8.self),
                date: fixed.bigEndian(UInt32.self, at: 16), dateNanoseconds: fixed.bigEndian(UInt32.self, at: 20),
                vmClock: fixed.bigEndian(UInt64.self, at: 24),
                vmStateSize: extraSize >= 8
                    ? rest.bigEndian(UInt64.self, at: 0) : UInt64(fixed.bigEndian(UInt32.self, at: 32)),
                diskSize: extraSize >= 16 ? rest.bigEndian(UInt64.self, at: 8) : size,
                instructions: extraSize >= 24 ? Self.instructions(rest.bigEndian(UInt64.self, at: 16)) : nil,
                l1Offset: fixed.bigEndian(UInt64.self, at: 0), l1Entries: fixed.bigEndian(UInt32.self, at: 8))
            guard snapshot.l1Offset & (clusterSize - 1) == 0, snapshot.l1Offset <= file.size,
                UInt64(snapshot.l1Entries) * 8 <= min(Qcow2Header.Limit.l1Bytes, file.size - snapshot.l1Offset)
            else { throw corrupt("has its L1 table misaligned or outside, at \(hexadecimal(snapshot.l1Offset))") }
            list.append(snapshot)
            position += UInt64((40 + rest.count + 7) & ~7)
        }
        return (list, position - header.snapshotTableOffset)
    }

    /// All ones stand for none.
    private static func instructions(_ stored: UInt64) -> UInt64? { stored == .max ? nil : stored }

    /// Turns a read-only layer to the disk as it was at the snapshot with this id or name.
    func show(snapshot wanted: String) throws(DiskImageError) {
        let (list, _) = try readSnapshots()
        guard !file.isWritable,
            let found = list.first(where: { $0.id == wanted }) ?? list.first(where: { $0.name == wanted })
        else {
            let names = list.map(\.name).joined(separator: ", ")
            throw .invalidValue(
                field: "the snapshot", value: "'\(wanted)'",
                allowed: list.isEmpty ? "none: there are none" : "one of \(names)")
        }
        let perTable = clusterSize * entriesPerTable
        guard found.diskSize <= UInt64(found.l1Entries) * perTable else {
            throw .corrupt(path: file.path, reason: "the L1 table of snapshot '\(found.name)' is too short")
        }
        l1 = try file.read("a snapshot's L1 table", at: found.l1Offset, count: Int(found.l1Entries) * 8).bigEndianTable
        header.size = found.diskSize
    }
}
