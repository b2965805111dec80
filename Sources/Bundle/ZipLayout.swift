// SPDX-License-Identifier: Apache-2.0
// The one ZIP64 layout that a bundle has: every byte outside the members' data follows from their names, sizes and CRCs.
// PKWARE APPNOTE 6.3.9, sections 4.3 and 4.5.

/// One member as the central directory has it.
struct ZipEntry: Equatable, Sendable {
    var name: String
    var size: UInt64
    var crc: UInt32
    /// Of the local header.
    var offset: UInt64
}

/// Builds and takes apart the archive's structure.
enum ZipLayout {
    static let alignment: UInt64 = 4096
    /// ZIP64 end record, its locator, end record: always there, always without comments.
    static let trailerSize = 56 + 20 + 22

    private static let localHeaderSize = 30
    private static let directoryEntrySize = 46
    private static let localSignature: UInt32 = 0x0403_4b50
    private static let directorySignature: UInt32 = 0x0201_4b50
    private static let endSignature: UInt32 = 0x0605_4b50
    private static let zip64EndSignature: UInt32 = 0x0606_4b50
    private static let locatorSignature: UInt32 = 0x0706_4b50
    /// 4.5: ZIP64.
    private static let version: UInt16 = 45
    private static let madeBy: UInt16 = 3 << 8 | version
    /// 1980-01-01, the earliest that ZIP can say: the real time is in the manifest.
    private static let date: UInt16 = 0x0021
    private static let fileMode: UInt32 = 0o100644 << 16
    private static let zip64ExtraField: UInt16 = 0x0001
    /// Registered as the Android alignment field: the alignment, then padding.
    private static let alignmentExtraField: UInt16 = 0xd935

    /// Bytes from the start of a member's local header at `offset` to its data, which is aligned.
    static func headerSize(name: String, at offset: UInt64) -> UInt64 {
        let smallest = UInt64(localHeaderSize + name.utf8.count + 20 + 6)
        let end = offset &+ smallest
        return smallest + (0 &- end) % alignment
    }

    /// The local header with its padding.
    static func localHeader(_ entry: ZipEntry) -> [UInt8] {
        let size = headerSize(name: entry.name, at: entry.offset)
        let extra = Int(size) - localHeaderSize - entry.name.utf8.count
        var bytes: [UInt8] = []
        bytes.append(littleEndian: localSignature)
        appendCommon(entry, to: &bytes)
        bytes.append(littleEndian: UInt16(extra))
        bytes += Array(entry.name.utf8)
        bytes.append(littleEndian: zip64ExtraField)
        bytes.append(littleEndian: UInt16(16))
        bytes.append(littleEndian: entry.size)
        bytes.append(littleEndian: entry.size)
        bytes.append(littleEndian: alignmentExtraField)
        bytes.append(littleEndian: UInt16(extra - 20 - 4))
        bytes.append(littleEndian: UInt16(alignment))
        bytes += [UInt8](repeating: 0, count: Int(size) - bytes.count)
        return bytes
    }

    /// From "version needed" to the length of the name: the same in both headers.
    private static func appendCommon(_ entry: ZipEntry, to bytes: inout [UInt8]) {
        bytes.append(littleEndian: version)
        bytes.append(littleEndian: UInt16(0))  // flags
        bytes.append(littleEndian: UInt16(0))  // method: stored
        bytes.append(littleEndian: UInt16(0))  // time
        bytes.append(littleEndian: date)
        bytes.append(littleEndian: entry.crc)
        bytes.append(littleEndian: UInt32.max)  // sizes are in the ZIP64 extra field
        bytes.append(littleEndian: UInt32.max)
        bytes.append(littleEndian: UInt16(entry.name.utf8.count))
    }

    static func directory(_ entries: [ZipEntry]) -> [UInt8] {
        var bytes: [UInt8] = []
        for entry in entries {
            bytes.append(littleEndian: directorySignature)
            bytes.append(littleEndian: madeBy)
            appendCommon(entry, to: &bytes)
            bytes.append(littleEndian: UInt16(28))  // length of the extra field
            bytes.append(littleEndian: UInt16(0))  // length of the comment
            bytes.append(littleEndian: UInt16(0))  // disk
            bytes.append(littleEndian: UInt16(0))  // internal attributes
            bytes.append(littleEndian: fileMode)
            bytes.append(littleEndian: UInt32.max)  // offset is in the ZIP64 extra field
            bytes += Array(entry.name.utf8)
            bytes.append(littleEndian: zip64ExtraField)
            bytes.append(littleEndian: UInt16(24))
            bytes.append(littleEndian: entry.size)
            bytes.append(littleEndian: entry.size)
            bytes.append(littleEndian: entry.offset)
        }
        return bytes
    }

    /// What follows the central directory, to the end of the file.
    static func trailer(entries: Int, directoryOffset: UInt64, directorySize: UInt64) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(littleEndian: zip64EndSignature)
        bytes.append(littleEndian: UInt64(44))  // bytes of the record that follow
        bytes.append(littleEndian: madeBy)
        bytes.append(littleEndian: version)
        bytes.append(littleEndian: UInt32(0))  // this disk
        bytes.append(littleEndian: UInt32(0))  // the directory's disk
        bytes.append(littleEndian: UInt64(entries))
        bytes.append(littleEndian: UInt64(entries))
        bytes.append(littleEndian: directorySize)
        bytes.append(littleEndian: directoryOffset)

        bytes.append(littleEndian: locatorSignature)
        bytes.append(littleEndian: UInt32(0))
        bytes.append(littleEndian: directoryOffset &+ directorySize)
        bytes.append(littleEndian: UInt32(1))  // disks

        bytes.append(littleEndian: endSignature)
        bytes.append(littleEndian: UInt32(0))  // both disks
        bytes.append(littleEndian: UInt16.max)  // the rest is in the ZIP64 record
        bytes.append(littleEndian: UInt16.max)
        bytes.append(littleEndian: UInt32.max)
        bytes.append(littleEndian: UInt32.max)
        bytes.append(littleEndian: UInt16(0))  // length of the comment
        return bytes
    }

    /// Where the central directory lies, from the file's last `trailerSize` bytes; nil when they are not a trailer.
    static func directoryRange(trailer bytes: [UInt8], fileSize: UInt64) -> (offset: UInt64, size: UInt64)? {
        guard let entries = bytes.integer(UInt64.self, at: 24), entries <= UInt64(BundleLimits.members),
            let size = bytes.integer(UInt64.self, at: 40), let offset = bytes.integer(UInt64.self, at: 48),
            size <= fileSize, offset <= fileSize - size,
            offset + size + UInt64(trailerSize) == fileSize,
            bytes == trailer(entries: Int(entries), directoryOffset: offset, directorySize: size)
        else { return nil }
        return (offset, size)
    }

    /// The entries of a central directory; nil unless it is exactly how `directory` would write them.
    static func entries(directory bytes: [UInt8]) -> [ZipEntry]? {
        var entries: [ZipEntry] = []
        var position = 0
        while position < bytes.count {
            guard entries.count < BundleLimits.members,
                let crc = bytes.integer(UInt32.self, at: position + 16),
                let nameSize = bytes.integer(UInt16.self, at: position + 28)
            else { return nil }
            let nameStart = position + directoryEntrySize
            let extra = nameStart + Int(nameSize)
            guard let size = bytes.integer(UInt64.self, at: extra + 4),
                let offset = bytes.integer(UInt64.self, at: extra + 20)
            else { return nil }
            let name = String(decoding: bytes[nameStart..<extra], as: UTF8.self)
            entries.append(ZipEntry(name: name, size: size, crc: crc, offset: offset))
            position = extra + 28
        }
        return directory(entries) == bytes ? entries : nil
    }
}
