// SPDX-License-Identifier: Apache-2.0
// Opens a `.smolmachine` file: directory, manifest and index, in one pass that trusts nothing. docs/bundle-format.md.

internal import GuestMemory

/// An open bundle. Opening checks its whole structure and every hash but those of the members' data, which are checked
/// when the data is read. Any thread.
public final class BundleReader: Sendable {
    public let path: String
    public let manifest: Manifest

    let file: InputFile
    let index: MemoryIndex
    /// Starts of chunks that the guest will most likely use first.
    let workingSet: [GuestPhysicalAddress]
    /// In the order of the file; the manifest is the last.
    let entries: [ZipEntry]

    /// Opens the bundle at `path`: cost does not depend on the size of memory, only (slightly) on how much is used.
    public init(path: String) throws(BundleError) {
        let file = try InputFile(path: path)
        let (entries, directoryOffset) = try Self.readDirectory(file)
        guard let last = entries.last, last.name == BundleName.manifest else {
            throw .notABundle(path: path, reason: "its last member is not \(BundleName.manifest)")
        }
        guard last.size <= UInt64(BundleLimits.manifest) else {
            throw .tooLarge(member: last.name, size: last.size, limit: UInt64(BundleLimits.manifest))
        }
        guard last.size <= directoryOffset else {
            throw .damaged(member: last.name, reason: "it is larger than the file")
        }
        // The manifest ends where the directory starts, so its version is known before anything else is believed.
        let text = try file.read(last.name, at: directoryOffset - last.size, count: Int(last.size))
        let manifest = try Manifest.open(text, path: path)
        guard CRC32(text).value == last.crc else {
            throw .damaged(member: last.name, reason: "its bytes do not have the CRC-32 in the directory")
        }
        try Self.check(manifest.members, against: entries)
        try Self.checkLayout(entries, file, directoryOffset)

        self.path = path
        self.manifest = manifest
        self.file = file
        self.entries = entries
        let bytes = try Self.read(BundleName.memoryIndex, file, manifest, entries)
        let dataSize = entries.first { $0.name == BundleName.memoryData }?.size ?? 0
        index = try MemoryIndex(bytes, memoryBytes: manifest.configuration.memoryBytes, dataSize: dataSize)
        let hasWorkingSet = entries.contains { $0.name == BundleName.workingSet }
        workingSet =
            hasWorkingSet
            ? try WorkingSet.decode(
                try Self.read(BundleName.workingSet, file, manifest, entries), chunkSize: index.chunkSize,
                ranges: index.ranges)
            : []
    }

    // MARK: - Members

    /// Names of the layers that have state, in the order of the file.
    public var stateNames: [String] { manifest.members.compactMap { BundleName.stateName(of: $0.name) } }

    /// The JSON of `state/NAME.json`, verified.
    public func state(named name: String) throws(BundleError) -> [UInt8] { try read(BundleName.state(name)) }

    /// The kernel, verified.
    public func kernel() throws(BundleError) -> [UInt8] { try read(BundleName.kernel) }

    /// The initramfs, verified.
    public func initramfs() throws(BundleError) -> [UInt8] { try read(BundleName.initramfs) }

    /// How memory is stored.
    public var memoryStatistics: MemoryStatistics {
        MemoryStatistics(
            chunkSize: index.chunkSize, chunks: index.totalChunks, zeroChunks: index.totalChunks - index.count,
            compressedBytes: index.dataSize)
    }

    func read(_ name: String) throws(BundleError) -> [UInt8] { try Self.read(name, file, manifest, entries) }

    /// Where a member's data starts in the file.
    func dataOffset(of name: String) throws(BundleError) -> UInt64 {
        guard let entry = entries.first(where: { $0.name == name }) else { throw .noSuchMember(name) }
        return entry.offset + ZipLayout.headerSize(name: entry.name, at: entry.offset)
    }

    /// Reads a member that the manifest has a hash for; its size is within the limits, which `Manifest.open` checked.
    private static func read(
        _ name: String, _ file: InputFile, _ manifest: Manifest, _ entries: [ZipEntry]
    ) throws(BundleError) -> [UInt8] {
        guard let entry = entries.first(where: { $0.name == name }),
            let member = manifest.members.first(where: { $0.name == name }), let hash = member.sha256
        else { throw .noSuchMember(name) }
        let start = entry.offset + ZipLayout.headerSize(name: entry.name, at: entry.offset)
        let bytes = try file.read(name, at: start, count: Int(member.size))
        guard hexadecimal(Digest.of(bytes)) == hash else {
            throw .damaged(member: name, reason: "its bytes do not have the SHA-256 in the manifest")
        }
        return bytes
    }

    // MARK: - Structure

    private static func readDirectory(_ file: InputFile) throws(BundleError) -> ([ZipEntry], offset: UInt64) {
        func notABundle(_ reason: String) -> BundleError { .notABundle(path: file.path, reason: reason) }
        guard file.size >= UInt64(ZipLayout.trailerSize) else { throw notABundle("it has only \(file.size) bytes") }
        let trailer = try file.read(
            "the end record", at: file.size - UInt64(ZipLayout.trailerSize), count: ZipLayout.trailerSize)
        guard let (offset, size) = ZipLayout.directoryRange(trailer: trailer, fileSize: file.size) else {
            throw notABundle("it does not end with the ZIP64 end record of one (cut off, or another kind of file)")
        }
        guard size <= UInt64(BundleLimits.centralDirectory) else {
            throw .tooLarge(member: "the central directory", size: size, limit: UInt64(BundleLimits.centralDirectory))
        }
        let directory = try file.read("the central directory", at: offset, count: Int(size))
        guard let entries = ZipLayout.entries(directory: directory),
            trailer
                == ZipLayout.trailer(entries: entries.count, directoryOffset: offset, directorySize: size)
        else { throw notABundle("its central directory is damaged") }
        return (entries, offset)
    }

    /// The directory has what the manifest lists, and the manifest.
    private static func check(_ members: [Manifest.Member], against entries: [ZipEntry]) throws(BundleError) {
        for (index, entry) in entries.dropLast().enumerated() {
            guard index < members.count, members[index].name == entry.name else {
                throw .damaged(
                    member: "the central directory",
                    reason: "it has '\(entry.name.prefix(80))' where the manifest does not")
            }
            guard members[index].size == entry.size else {
                throw .damaged(
                    member: entry.name,
                    reason: "it has \(entry.size) bytes in the directory, \(members[index].size) in the manifest")
            }
        }
        if entries.count <= members.count { throw .noSuchMember(members[entries.count - 1].name) }
    }

    /// Members lie one after the other without gap or overlap, each behind the one header that it can have.
    private static func checkLayout(
        _ entries: [ZipEntry], _ file: InputFile, _ directoryOffset: UInt64
    ) throws(BundleError) {
        var end: UInt64 = 0
        for entry in entries {
            guard entry.offset == end else {
                throw .damaged(member: entry.name, reason: "it starts at \(entry.offset), must start at \(end)")
            }
            let start = end + ZipLayout.headerSize(name: entry.name, at: end)
            guard start <= directoryOffset, entry.size <= directoryOffset - start else {
                throw .damaged(member: entry.name, reason: "its \(entry.size) bytes reach over the directory")
            }
            end = start + entry.size
        }
        guard end == directoryOffset else {
            throw .damaged(
                member: "the central directory", reason: "it starts at \(directoryOffset), must start at \(end)")
        }
        for entry in entries {
            let expected = ZipLayout.localHeader(entry)
            guard try file.read(entry.name, at: entry.offset, count: expected.count) == expected else {
                throw .damaged(member: entry.name, reason: "its local header is not the one that the directory implies")
            }
        }
    }
}

/// How a bundle stores memory.
public struct MemoryStatistics: Equatable, Sendable {
    /// Bytes.
    public let chunkSize: UInt64
    /// All of them.
    public let chunks: Int
    /// Those that are all zeros and take no space.
    public let zeroChunks: Int
    /// Size of `memory.data`.
    public let compressedBytes: UInt64
}
