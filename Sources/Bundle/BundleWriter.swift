// SPDX-License-Identifier: Apache-2.0
// Writes a `.smolmachine` file: all of it, or nothing. docs/bundle-format.md.

internal import Host
internal import DiskImage
public import GuestMemory

/// What goes into a bundle.
public struct BundleContents: Sendable {
    public var configuration: MachineConfiguration
    /// The snapshot that the machine was restored from.
    public var parent: BundleIdentifier?
    /// One per layer, as `encodeState` makes them.
    public var states: [(name: String, json: [UInt8])]
    public var kernel: [UInt8]
    public var initramfs: [UInt8]
    public var memory: any MemorySource
    /// One for each of the configuration's.
    public var disks: [BundleDiskContents] = []
    /// Where the guest will most likely use memory first.
    public var workingSet: [GuestPhysicalAddress] = []

    public init(
        configuration: MachineConfiguration, parent: BundleIdentifier? = nil, states: [(name: String, json: [UInt8])],
        kernel: [UInt8], initramfs: [UInt8], memory: any MemorySource
    ) {
        self.configuration = configuration
        self.parent = parent
        self.states = states
        self.kernel = kernel
        self.initramfs = initramfs
        self.memory = memory
    }
}

/// Writes bundles.
public enum BundleWriter {
    /// What the manifest names as the writer.
    public static let generator = "smolvmm"

    /// Writes `contents` to `path`, replacing a file that is there only when the new one is whole and on the disk.
    /// - Parameters:
    ///   - threads: that compress, this one included.
    ///   - progress: called here with 0 to 1.
    /// - Throws: and then `path` is what it was before.
    public static func write(
        _ contents: BundleContents, to path: String, threads: Int = 2, progress: ((Double) -> Void)? = nil
    ) throws(BundleError) -> Manifest {
        try check(contents)
        let file = try OutputFile(path: path)
        var archive = ArchiveWriter(file: file)
        try archive.add(BundleName.kernel, contents.kernel)
        try archive.add(BundleName.initramfs, contents.initramfs)
        for state in contents.states { try archive.add(BundleName.state(state.name), state.json) }
        for (index, disk) in contents.disks.enumerated() {
            try archive.add(disk, contents.configuration.disks[index], index)
        }

        let memory = MemoryWriter(
            source: contents.memory, file: file, start: archive.dataOffset(of: BundleName.memoryData))
        withHelperThreads(threads - 1) {
            memory.work(report: nil)
        } body: {
            memory.work(report: progress)
        }
        let (size, crc, index) = try memory.finish()
        try archive.addWritten(BundleName.memoryData, size: size, crc: crc)
        try archive.add(BundleName.memoryIndex, index)
        let workingSet = WorkingSet.encode(
            contents.workingSet, chunkSize: MemoryWriter.chunkSize, ranges: contents.memory.ranges)
        if !workingSet.isEmpty { try archive.add(BundleName.workingSet, workingSet) }

        var manifest = Manifest(
            formatVersion: Manifest.newestFormat, generator: generator,
            lineage: Manifest.Lineage(id: .random(), parent: contents.parent, created: UTCTime.now()),
            configuration: contents.configuration, members: archive.members, root: Manifest.blankRoot)
        try archive.add(BundleName.manifest, try manifest.seal())
        try archive.finish()
        try file.commit()
        progress?(1)
        return manifest
    }

    /// Refuses what a reader would refuse, before any work is done.
    private static func check(_ contents: BundleContents) throws(BundleError) {
        try contents.configuration.validate()
        guard contents.disks.count == contents.configuration.disks.count else {
            throw .invalidValue(
                field: "the number of disks", value: "\(contents.disks.count)",
                allowed: "\(contents.configuration.disks.count), as the configuration says")
        }
        let ranges = contents.memory.ranges
        var end: UInt64 = 0
        var total: UInt64 = 0
        for range in ranges {
            guard range.start.rawValue >= end, range.start.rawValue.isMultiple(of: BundleLimits.chunk.upperBound),
                range.start.rawValue < 1 << 46, range.size > 0, range.size.isMultiple(of: 4096),
                range.size <= BundleLimits.guestMemory.upperBound
            else {
                throw .invalidValue(
                    field: "memory range", value: "\(range.size) bytes at \(range.start)",
                    allowed: "whole pages, ascending, starting at a multiple of 1 MiB")
            }
            end = range.start.rawValue + range.size
            total += range.size
        }
        guard ranges.count <= BundleLimits.memoryRanges, total == contents.configuration.memoryBytes else {
            throw .invalidValue(
                field: "configuration.memoryBytes", value: "\(contents.configuration.memoryBytes)",
                allowed: "the \(total) bytes that the machine's memory has")
        }
        try limit(BundleName.kernel, contents.kernel.count, BundleLimits.kernel)
        try limit(BundleName.initramfs, contents.initramfs.count, BundleLimits.initramfs)
        var names: Set<String> = []
        var stateBytes = 0
        for state in contents.states {
            guard BundleName.isValid(state.name), names.insert(state.name).inserted else {
                throw .invalidValue(
                    field: "name of a state", value: "'\(state.name.prefix(80))'",
                    allowed: "\(BundleName.allowed), each once")
            }
            try limit(BundleName.state(state.name), state.json.count, BundleLimits.state)
            stateBytes += state.json.count
        }
        try limit("state/", stateBytes, BundleLimits.allStates)
        // Kernel, initramfs, three members of memory and the manifest are no states, nor are the disks.
        let others = 6 + contents.disks.reduce(0) { $0 + 2 + $1.bases.count }
        try limit("the list of states", contents.states.count, BundleLimits.members - others)
    }

    private static func limit(_ member: String, _ size: Int, _ limit: Int) throws(BundleError) {
        guard size <= limit else { throw .tooLarge(member: member, size: UInt64(size), limit: UInt64(limit)) }
    }
}

/// Puts members into the file one after the other.
private struct ArchiveWriter {
    let file: OutputFile
    private var entries: [ZipEntry] = []
    /// For the manifest.
    private(set) var members: [Manifest.Member] = []
    /// Where the next local header goes.
    private var end: UInt64 = 0

    init(file: OutputFile) { self.file = file }

    /// Where the data of the next member will start if it has this name.
    func dataOffset(of name: String) -> UInt64 { end + ZipLayout.headerSize(name: name, at: end) }

    mutating func add(_ name: String, _ data: [UInt8]) throws(BundleError) {
        try file.write(data, at: dataOffset(of: name))
        try addHeader(name, size: UInt64(data.count), crc: CRC32(data), sha256: hexadecimal(Digest.of(data)))
    }

    /// Adds a disk and the hashes of its pieces, and of the pieces of what stays outside.
    mutating func add(
        _ disk: BundleDiskContents, _ configuration: DiskConfiguration, _ index: Int
    ) throws(BundleError) {
        let name = BundleName.disk(index)
        let sink = DiskSink()
        do throws(DiskImageError) {
            let image = try ImageFile(path: file.path, appendingTo: file.descriptor, start: dataOffset(of: name))
            var options = Qcow2Options()
            options.clusterSize = PieceHashes.piece
            options.backingFile = configuration.bases.first?.path
            options.backingFormat = configuration.bases.first.flatMap { DiskFormat(rawValue: $0.format) }
            try Qcow2Stream.write(disk.source, to: image, options, observer: sink)
        } catch {
            throw .disk(id: configuration.id, reason: error.description)
        }
        try addWritten(name, size: sink.size, crc: sink.crc)
        try add(BundleName.diskHashes(index), sink.hashes.bytes)
        for (number, base) in disk.bases.enumerated() {
            try add(BundleName.baseHashes(index, number), try PieceHashes(of: base, id: configuration.id).bytes)
        }
    }

    /// Adds a member whose data is in the file already, at `dataOffset`.
    mutating func addWritten(_ name: String, size: UInt64, crc: CRC32) throws(BundleError) {
        try addHeader(name, size: size, crc: crc, sha256: nil)
    }

    private mutating func addHeader(_ name: String, size: UInt64, crc: CRC32, sha256: String?) throws(BundleError) {
        let entry = ZipEntry(name: name, size: size, crc: crc.value, offset: end)
        let header = ZipLayout.localHeader(entry)
        try file.write(header, at: end)
        entries.append(entry)
        members.append(Manifest.Member(name: name, size: size, sha256: sha256))
        end += UInt64(header.count) + size
    }

    /// Writes the central directory and what follows it.
    func finish() throws(BundleError) {
        let directory = ZipLayout.directory(entries)
        let trailer = ZipLayout.trailer(
            entries: entries.count, directoryOffset: end, directorySize: UInt64(directory.count))
        try file.write(directory + trailer, at: end)
    }
}
