// SPDX-License-Identifier: Apache-2.0
// bzImage and ELF kernels taken apart. Linux Documentation/arch/x86/boot.rst; System V ABI, chapter 5.

import GuestMemory

/// A kernel that can be placed in guest memory.
struct KernelImage {
    /// A run of bytes of `bytes` and where it goes.
    struct Segment {
        var source: Range<Int>
        var physical: UInt64
        var memorySize: UInt64
    }

    /// What the segments are in, an ELF file; empty if it lies in guest memory.
    let bytes: [UInt8]
    /// Where in guest memory the file lies, so that each segment is where it belongs or above.
    let place: Range<UInt64>?
    let segments: [Segment]
    /// Physical address of the 64-bit entry.
    let entry: UInt64
    /// The setup header of a bzImage, for the zero page: from 0x1f1.
    let setupHeader: [UInt8]
    let commandLineLimit: Int
    /// Highest address that the initramfs may use.
    let initramfsLimit: UInt64

    /// End of the highest segment.
    var end: UInt64 { segments.map { $0.physical + $0.memorySize }.max() ?? 0 }

    /// Most of an ELF file's beginning that is looked at before it is moved.
    private static let headers = 1 << 16
    /// Where the setup header of a bzImage ends at most.
    private static let setupEnd = 0x290
    /// Where the first segment is in a file that was linked for pages of 2 MiB.
    private static let firstOffset: UInt64 = 2 << 20

    /// Parses a bzImage, unpacking its payload, or an ELF file.
    ///
    /// - Parameter target: where to unpack it if it is as Linux is, whose largest segments are in their places then.
    ///   Otherwise it is unpacked elsewhere.
    init(_ file: borrowing Span<UInt8>, unpackingInto target: BootTarget? = nil) throws(BootError) {
        let beginning = file.extracting(first: Self.setupEnd).array
        if beginning.starts(with: [0x7f, 0x45, 0x4c, 0x46]) {
            try self.init(elf: file.array, setupHeader: [], commandLineLimit: 2047, initramfsLimit: 0x7fff_ffff)
            return
        }
        guard file.count > 0x268, Array(beginning[0x202..<0x206]) == Array("HdrS".utf8) else {
            let first = beginning.prefix(4).map { String($0, radix: 16) }.joined(separator: " ")
            throw .notAKernel(firstBytes: first.isEmpty ? "none" : first)
        }
        let header = LittleEndian(beginning)
        let version = UInt16(header[0x206, 2])
        guard version >= 0x20c else { throw .unsupportedProtocol(version: version) }
        guard header[0x236, 2] & 1 != 0 else { throw .not64Bit }
        let setupSectors = beginning[0x1f1] == 0 ? 4 : UInt64(beginning[0x1f1])
        let setupSize = (setupSectors + 1) * 512
        let payloadStart = setupSize + header[0x248, 4]
        let payloadSize = header[0x24c, 4]
        guard payloadStart + payloadSize <= UInt64(file.count) else {
            throw .truncated(what: "its payload", needed: payloadStart + payloadSize, available: UInt64(file.count))
        }
        let headerEnd = min(0x202 + Int(beginning[0x201]), beginning.count)
        let setup = Array(beginning[0x1f1..<headerEnd])
        let packed = file.extracting(Int(payloadStart)..<Int(payloadStart + payloadSize))
        let payload = try Payload(packed)
        let commandLineLimit = Int(header[0x238, 4])
        let initramfsLimit = min(header[0x22c, 4], 0x7fff_ffff)
        let start = header[0x258, 8] &- Self.firstOffset
        let elf: [UInt8]
        if let target, let room = unsafe target.room(at: start, size: payload.size) {
            let place = start..<start + UInt64(payload.size)
            try unsafe payload.unpack(packed, into: room)
            // SAFETY: the room has that many bytes.
            let beginning = unsafe Array(room.prefix(Self.headers))
            if let image = try? KernelImage(
                elf: beginning, in: place, setupHeader: setup, commandLineLimit: commandLineLimit,
                initramfsLimit: initramfsLimit), image.isInPlace
            {
                self = image
                return
            }
            elf = unsafe Array(room)
            try target.clear(place.lowerBound, to: place.upperBound)
        } else {
            elf = try payload.unpack(packed)
        }
        try self.init(
            elf: elf, setupHeader: setup, commandLineLimit: commandLineLimit, initramfsLimit: initramfsLimit)
    }

    /// Whether segments, moved down one after the other, do not touch those that follow, and some need not be moved.
    private var isInPlace: Bool {
        guard let place, !segments.isEmpty else { return false }
        let distances = segments.map { Int64(place.lowerBound) + Int64($0.source.lowerBound) - Int64($0.physical) }
        let ascend = zip(segments, segments.dropFirst()).allSatisfy {
            $0.source.upperBound <= $1.source.lowerBound && $0.physical + $0.memorySize <= $1.physical
        }
        return ascend && distances.min() == 0
    }

    /// - Parameters:
    ///   - elf: the file, or its beginning if all of it is in guest memory.
    ///   - place: where it is there.
    private init(
        elf: [UInt8], in place: Range<UInt64>? = nil, setupHeader: [UInt8], commandLineLimit: Int,
        initramfsLimit: UInt64
    ) throws(BootError) {
        let size = UInt64(place?.count ?? elf.count)
        guard elf.count >= 64 else {
            throw .truncated(what: "its ELF header", needed: 64, available: UInt64(elf.count))
        }
        let file = LittleEndian(elf)
        guard file[0, 4] == 0x464c_457f, elf[4] == 2, elf[5] == 1, file[18, 2] == 62 else { throw .not64Bit }
        let tableOffset = file[32, 8]
        let entrySize = file[54, 2]
        let count = file[56, 2]
        let (tableEnd, overflow) = tableOffset.addingReportingOverflow(entrySize * count)
        guard entrySize >= 56, !overflow, tableEnd <= UInt64(elf.count) else {
            throw .truncated(what: "its ELF program headers", needed: tableEnd, available: UInt64(elf.count))
        }
        var segments: [Segment] = []
        let loadable: UInt64 = 1
        for index in 0..<Int(count) {
            let at = Int(tableOffset) + index * Int(entrySize)
            guard file[at, 4] == loadable else { continue }
            let (offset, physical) = (file[at + 8, 8], file[at + 24, 8])
            let (fileSize, memorySize) = (file[at + 32, 8], file[at + 40, 8])
            guard offset <= size, fileSize <= size - offset else {
                throw .invalidSegment(index: index, reason: "\(fileSize) bytes at \(offset) are outside the file")
            }
            guard memorySize >= fileSize, physical >= 0x10_0000, physical < 1 << 40, memorySize < 1 << 32 else {
                throw .invalidSegment(
                    index: index, reason: "\(memorySize) bytes at 0x\(String(physical, radix: 16)) in memory")
            }
            segments.append(
                Segment(source: Int(offset)..<Int(offset + fileSize), physical: physical, memorySize: memorySize))
        }
        bytes = place == nil ? elf : []
        self.place = place
        self.segments = segments
        entry = file[24, 8]
        self.setupHeader = setupHeader
        self.commandLineLimit = max(min(commandLineLimit, 65535), 255)
        self.initramfsLimit = initramfsLimit
        guard segments.contains(where: { entry >= $0.physical && entry - $0.physical < $0.memorySize }) else {
            throw .invalidSegment(index: 0, reason: "no segment holds the entry 0x\(String(entry, radix: 16))")
        }
    }
}

extension Span<UInt8> {
    /// A copy.
    var array: [UInt8] { unsafe withUnsafeBufferPointer { unsafe Array($0) } }
}

/// Little-endian fields of a byte array; what lies outside reads as 0.
struct LittleEndian {
    private let bytes: [UInt8]

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    subscript(offset: Int, count: Int) -> UInt64 {
        guard offset >= 0, offset + count <= bytes.count else { return 0 }
        var value: UInt64 = 0
        for position in 0..<count { value |= UInt64(bytes[offset + position]) << UInt64(position * 8) }
        return value
    }
}
