// SPDX-License-Identifier: Apache-2.0
// The header of a qcow2 image, versions 2 and 3. Spec: QEMU docs/interop/qcow2.txt, "Header" and "Header extensions".

/// How compressed clusters are compressed.
public enum Qcow2Compression: UInt8, Sendable, CaseIterable {
    case zlib = 0
    case zstd = 1

    public var name: String { self == .zlib ? "zlib" : "zstd" }
}

/// Features that a reader must know.
struct Qcow2Incompatible: OptionSet, Sendable {
    var rawValue: UInt64
    static let dirty = Self(rawValue: 1 << 0)
    static let corrupt = Self(rawValue: 1 << 1)
    static let externalData = Self(rawValue: 1 << 2)
    static let compressionType = Self(rawValue: 1 << 3)
    static let extendedL2 = Self(rawValue: 1 << 4)
    static let known: Self = [.dirty, .corrupt, .externalData, .compressionType, .extendedL2]
}

struct Qcow2Header: Equatable, Sendable {
    static let magic: UInt32 = 0x5146_49fb
    static let lengthOfVersion2 = 72
    static let lengthOfVersion3 = 104
    /// Compatible feature bit 0.
    static let lazyRefcounts: UInt64 = 1

    enum Limit {
        static let clusterBits = 9...21
        static let l1Bytes: UInt64 = 32 << 20
        static let refcountTableBytes: UInt64 = 8 << 20
        static let snapshots = 65_536
        static let backingName = 1023
        /// What file offsets, signed 64 bits of them, can count with room to add clusters.
        static let virtualSize: UInt64 = 1 << 61
    }

    private enum ExtensionType {
        static let end: UInt32 = 0
        static let backingFormat: UInt32 = 0xe279_2aca
        static let featureNames: UInt32 = 0x6803_f857
        static let externalData: UInt32 = 0x4441_5441
        static let bitmaps: UInt32 = 0x2385_2875
    }

    /// Where persistent bitmaps are described; their clusters are in use.
    struct Bitmaps: Equatable, Sendable {
        var count: UInt32
        var directorySize: UInt64
        var directoryOffset: UInt64
    }

    var version = 3
    var backingFile: String?
    var backingFormat: String?
    var clusterBits = 16
    /// Virtual, in bytes.
    var size: UInt64 = 0
    var l1Entries: UInt32 = 0
    var l1Offset: UInt64 = 0
    var refcountTableOffset: UInt64 = 0
    var refcountTableClusters: UInt32 = 0
    var snapshotCount: UInt32 = 0
    var snapshotTableOffset: UInt64 = 0
    var incompatible: Qcow2Incompatible = []
    var compatible: UInt64 = 0
    var autoclear: UInt64 = 0
    var refcountOrder = 4
    var compression = Qcow2Compression.zlib
    var bitmaps: Bitmaps?

    var clusterSize: UInt64 { 1 << UInt64(clusterBits) }
    var hasExtendedL2: Bool { incompatible.contains(.extendedL2) }
    /// Bytes of the fixed part.
    private var fixedLength: Int { version == 2 ? Self.lengthOfVersion2 : Self.lengthOfVersion3 }

    // MARK: Reading

    init() {}

    /// Parses and validates the header of `file`.
    init(_ file: ImageFile) throws(DiskImageError) {
        func corrupt(_ reason: String) -> DiskImageError { .corrupt(path: file.path, reason: reason) }
        guard file.size >= UInt64(Self.lengthOfVersion2) else {
            throw corrupt("it has \(file.size) bytes, fewer than a qcow2 header")
        }
        let start = try file.read("the header", at: 0, count: Int(min(file.size, 4096)))
        guard start.bigEndian(UInt32.self, at: 0) == Self.magic else {
            throw corrupt("it does not start as a qcow2 image")
        }
        version = Int(start.bigEndian(UInt32.self, at: 4))
        guard version == 2 || version == 3 else {
            throw .unsupported(path: file.path, feature: "qcow2 version \(version)")
        }
        guard file.size >= UInt64(fixedLength) else { throw corrupt("it ends inside its header") }
        let bits = start.bigEndian(UInt32.self, at: 20)
        guard Limit.clusterBits.contains(Int(bits)) else {
            throw corrupt("its clusters have 2^\(bits) bytes, must be 2^9 to 2^21")
        }
        clusterBits = Int(bits)
        size = start.bigEndian(UInt64.self, at: 24)
        guard start.bigEndian(UInt32.self, at: 32) == 0 else {
            throw .unsupported(path: file.path, feature: "encryption")
        }
        l1Entries = start.bigEndian(UInt32.self, at: 36)
        l1Offset = start.bigEndian(UInt64.self, at: 40)
        refcountTableOffset = start.bigEndian(UInt64.self, at: 48)
        refcountTableClusters = start.bigEndian(UInt32.self, at: 56)
        snapshotCount = start.bigEndian(UInt32.self, at: 60)
        snapshotTableOffset = start.bigEndian(UInt64.self, at: 64)
        var headerLength = Self.lengthOfVersion2
        if version == 3 {
            incompatible = Qcow2Incompatible(rawValue: start.bigEndian(UInt64.self, at: 72))
            compatible = start.bigEndian(UInt64.self, at: 80)
            autoclear = start.bigEndian(UInt64.self, at: 88)
            refcountOrder = Int(start.bigEndian(UInt32.self, at: 96))
            headerLength = Int(start.bigEndian(UInt32.self, at: 100))
            guard headerLength >= Self.lengthOfVersion3, headerLength.isMultiple(of: 8),
                headerLength <= 1 << clusterBits
            else { throw corrupt("its header length is \(headerLength), must be 104 to a cluster, in steps of 8") }
        }
        let head = try file.read("the header", at: 0, count: Int(min(file.size, clusterSize)))
        let names = try readExtensions(head, from: headerLength, path: file.path)
        try checkFeatures(head, headerLength, names, path: file.path)
        try checkLimits(file)
        try readBackingFile(head, path: file.path)
    }

    /// Reads the extensions; returns names of features by type and bit.
    private mutating func readExtensions(
        _ head: [UInt8], from start: Int, path: String
    ) throws(DiskImageError) -> [Int: String] {
        var names: [Int: String] = [:]
        var position = start
        while position + 8 <= head.count {
            let type = head.bigEndian(UInt32.self, at: position)
            let length = Int(head.bigEndian(UInt32.self, at: position + 4))
            if type == ExtensionType.end { break }
            // Version 2 images of old have no end mark: the backing file's name follows.
            let backing = head.bigEndian(UInt64.self, at: 8)
            if backing != 0, UInt64(position) >= backing { break }
            let data = position + 8
            guard length <= head.count - data else {
                throw .corrupt(
                    path: path,
                    reason:
                        "the header extension at offset \(hexadecimal(UInt64(position))) of \(length) bytes reaches "
                        + "over its first cluster")
            }
            switch type {
            case ExtensionType.backingFormat:
                backingFormat = String(decoding: head[data..<data + length], as: UTF8.self)
            case ExtensionType.featureNames:
                for entry in stride(from: data, to: data + length - 47, by: 48) where head[entry] == 0 {
                    let name = head[(entry + 2)..<(entry + 48)].prefix { $0 != 0 }.filter { $0 >= 0x20 && $0 < 0x7f }
                    names[Int(head[entry + 1])] = String(decoding: name, as: UTF8.self)
                }
            case ExtensionType.bitmaps where length >= 24:
                bitmaps = Bitmaps(
                    count: head.bigEndian(UInt32.self, at: data),
                    directorySize: head.bigEndian(UInt64.self, at: data + 8),
                    directoryOffset: head.bigEndian(UInt64.self, at: data + 16))
            default: break
            }
            position = data + (length + 7) & ~7
        }
        return names
    }

    private mutating func checkFeatures(
        _ head: [UInt8], _ headerLength: Int, _ names: [Int: String], path: String
    ) throws(DiskImageError) {
        let unknown = incompatible.subtracting(.known).rawValue
        if unknown != 0 {
            let list = (0..<64).filter { unknown & 1 << UInt64($0) != 0 }.map { bit in
                names[bit].map { "'\($0)' (bit \(bit))" } ?? "bit \(bit)"
            }
            throw .unsupported(path: path, feature: "the incompatible feature \(list.joined(separator: ", "))")
        }
        if incompatible.contains(.externalData) { throw .unsupported(path: path, feature: "an external data file") }
        if incompatible.contains(.compressionType) || headerLength > Self.lengthOfVersion3 {
            let type = head.bigEndian(UInt8.self, at: 104)
            guard let known = Qcow2Compression(rawValue: type) else {
                throw .unsupported(path: path, feature: "the compression type \(type)")
            }
            compression = known
        }
        guard (0...6).contains(refcountOrder) else {
            throw .corrupt(path: path, reason: "its refcounts have 2^\(refcountOrder) bits, must be 2^0 to 2^6")
        }
        if hasExtendedL2, clusterBits < 14 {
            throw .corrupt(path: path, reason: "it has subclusters in clusters of \(clusterSize) bytes, needs 16384")
        }
    }

    private func checkLimits(_ file: ImageFile) throws(DiskImageError) {
        func corrupt(_ reason: String) -> DiskImageError { .corrupt(path: file.path, reason: reason) }
        guard size <= Limit.virtualSize else { throw corrupt("its virtual size is \(size), at most 2^61 is possible") }
        let perL2 = clusterSize / (hasExtendedL2 ? 16 : 8)
        let needed = (size + clusterSize * perL2 - 1) / (clusterSize * perL2)
        guard UInt64(l1Entries) * 8 <= Limit.l1Bytes else {
            throw corrupt("its L1 table has \(l1Entries) entries, at most \(Limit.l1Bytes / 8) are possible")
        }
        guard UInt64(l1Entries) >= needed else {
            throw corrupt("its L1 table has \(l1Entries) entries, \(size) bytes need \(needed)")
        }
        let tableBytes = UInt64(refcountTableClusters) << UInt64(clusterBits)
        guard refcountTableClusters > 0, tableBytes <= max(Limit.refcountTableBytes, clusterSize) else {
            throw corrupt("its refcount table has \(refcountTableClusters) clusters, must be 1 to 8 MiB")
        }
        guard snapshotCount <= Limit.snapshots else {
            throw corrupt("it has \(snapshotCount) snapshots, at most \(Limit.snapshots) are possible")
        }
        for (what, offset, bytes) in [
            ("the L1 table", l1Offset, UInt64(l1Entries) * 8), ("the refcount table", refcountTableOffset, tableBytes),
        ] where bytes > 0 {
            guard offset & (clusterSize - 1) == 0, offset >= clusterSize, offset <= file.size,
                bytes <= max(file.size, tableBytes == bytes ? offset + bytes : 0) - offset
            else {
                throw corrupt("\(what) at offset \(hexadecimal(offset)) is misaligned or reaches behind the file's end")
            }
        }
        guard snapshotCount == 0 || (snapshotTableOffset & (clusterSize - 1) == 0 && snapshotTableOffset <= file.size)
        else {
            throw corrupt("the snapshot table at offset \(hexadecimal(snapshotTableOffset)) is misaligned or outside")
        }
    }

    private mutating func readBackingFile(_ head: [UInt8], path: String) throws(DiskImageError) {
        let offset = head.bigEndian(UInt64.self, at: 8)
        let length = Int(head.bigEndian(UInt32.self, at: 16))
        guard offset != 0 else { return }
        guard length <= Limit.backingName, offset <= UInt64(head.count), length <= head.count - Int(offset) else {
            throw .corrupt(
                path: path,
                reason: "the backing file's name of \(length) bytes at offset \(hexadecimal(offset)) is too long")
        }
        let name = head[Int(offset)..<Int(offset) + length]
        guard !name.contains(0), length > 0 else {
            throw .corrupt(path: path, reason: "the backing file's name is empty or has a zero byte")
        }
        backingFile = String(decoding: name, as: UTF8.self)
    }

    // MARK: Writing

    /// The fixed part: everything that changes while an image is open.
    var fixedPart: [UInt8] { fixedPart(backingOffset: nil, existing: nil) }

    /// - Parameter existing: a header whose backing file's place is kept.
    func fixedPart(backingOffset: UInt64?, existing: [UInt8]?) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(bigEndian: Self.magic)
        bytes.append(bigEndian: UInt32(version))
        bytes.append(bigEndian: existing?.bigEndian(UInt64.self, at: 8) ?? backingOffset ?? 0)
        bytes.append(
            bigEndian: existing?.bigEndian(UInt32.self, at: 16) ?? UInt32(backingFile?.utf8.count ?? 0))
        bytes.append(bigEndian: UInt32(clusterBits))
        bytes.append(bigEndian: size)
        bytes.append(bigEndian: UInt32(0))  // no encryption
        bytes.append(bigEndian: l1Entries)
        bytes.append(bigEndian: l1Offset)
        bytes.append(bigEndian: refcountTableOffset)
        bytes.append(bigEndian: refcountTableClusters)
        bytes.append(bigEndian: snapshotCount)
        bytes.append(bigEndian: snapshotTableOffset)
        guard version == 3 else { return bytes }
        bytes.append(bigEndian: incompatible.rawValue)
        bytes.append(bigEndian: compatible)
        bytes.append(bigEndian: autoclear)
        bytes.append(bigEndian: UInt32(refcountOrder))
        bytes.append(bigEndian: existing?.bigEndian(UInt32.self, at: 100) ?? UInt32(Self.lengthOfVersion3 + 8))
        return bytes
    }

    /// The whole header of a new image: fixed part, compression type, extensions, backing file's name.
    /// - Throws: `invalidValue` when that does not fit in a cluster.
    func newImage() throws(DiskImageError) -> [UInt8] {
        var rest: [UInt8] = []
        if version == 3 { rest += [compression.rawValue, 0, 0, 0, 0, 0, 0, 0] }
        if let backingFormat, backingFile != nil {
            rest.append(bigEndian: ExtensionType.backingFormat)
            rest.append(bigEndian: UInt32(backingFormat.utf8.count))
            rest += Array(backingFormat.utf8)
            rest += [UInt8](repeating: 0, count: -backingFormat.utf8.count & 7)
        }
        rest += [UInt8](repeating: 0, count: 8)  // end of the extensions
        let backingOffset = backingFile == nil ? nil : UInt64(fixedLength + rest.count)
        var bytes = fixedPart(backingOffset: backingOffset, existing: nil) + rest
        bytes += Array((backingFile ?? "").utf8)
        guard (backingFile?.utf8.count ?? 0) <= Limit.backingName, UInt64(bytes.count) <= clusterSize else {
            throw .invalidValue(
                field: "the backing file's name", value: "\(backingFile?.utf8.count ?? 0) bytes long",
                allowed: "at most 1023 bytes, and to fit in the first cluster")
        }
        return bytes
    }
}
