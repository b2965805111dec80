// SPDX-License-Identifier: Apache-2.0
// `memory.index`: which chunks of guest RAM `memory.data` has, where, and their hashes. docs/bundle-format.md.

internal import GuestMemory

/// One chunk that is not all zeros.
struct MemoryChunk: Equatable, Sendable {
    /// Guest-physical address divided by the chunk size.
    var number: UInt32
    /// Compressed bytes.
    var storedSize: UInt32
    /// Of the compressed bytes in `memory.data`.
    var offset: UInt64
}

/// The decoded and checked index. Entries stay in their binary form: 48 bytes each.
struct MemoryIndex: Sendable {
    static let headerSize = 64
    static let rangeSize = 16
    static let entrySize = 48
    static let magic = Array("smolmidx".utf8)
    static let version: UInt32 = 1

    let chunkSize: UInt64
    let ranges: [(start: GuestPhysicalAddress, size: UInt64)]
    /// Bytes of `memory.data`.
    let dataSize: UInt64
    /// Entries in the index.
    let count: Int
    /// Chunks in all ranges, zero ones too.
    let totalChunks: Int

    private let bytes: [UInt8]
    private let entriesStart: Int

    /// The largest stored form of a chunk: raw blocks and a frame header.
    static func maximumStoredSize(chunkSize: UInt64) -> UInt64 { chunkSize + chunkSize / 256 + 512 }

    /// Checks everything that can be checked without `memory.data`.
    init(_ bytes: [UInt8], memoryBytes: UInt64, dataSize: UInt64) throws(BundleError) {
        func damaged(_ reason: String) -> BundleError { .damaged(member: BundleName.memoryIndex, reason: reason) }
        guard bytes.count >= Self.headerSize, bytes[0..<8].elementsEqual(Self.magic) else {
            throw damaged("it has no index header")
        }
        guard let version = bytes.integer(UInt32.self, at: 8), version == Self.version,
            let chunkSize = bytes.integer(UInt32.self, at: 12).map(UInt64.init),
            let rangeCount = bytes.integer(UInt32.self, at: 16).map(Int.init),
            let entrySize = bytes.integer(UInt32.self, at: 20), entrySize == UInt32(Self.entrySize),
            let count = bytes.integer(UInt64.self, at: 24),
            let statedDataSize = bytes.integer(UInt64.self, at: 32),
            let statedMemory = bytes.integer(UInt64.self, at: 40),
            bytes[48..<64].allSatisfy({ $0 == 0 })
        else { throw damaged("its header has a value that cannot be") }
        guard BundleLimits.chunk.contains(chunkSize), chunkSize & (chunkSize - 1) == 0 else {
            throw damaged("a chunk size of \(chunkSize) bytes is not a power of two from 64 KiB to 1 MiB")
        }
        guard statedDataSize == dataSize else {
            throw damaged("it is for \(statedDataSize) bytes of memory.data, which has \(dataSize)")
        }
        guard (1...BundleLimits.memoryRanges).contains(rangeCount) else {
            throw damaged("it has \(rangeCount) memory ranges, must be 1 to \(BundleLimits.memoryRanges)")
        }
        let entriesStart = Self.headerSize + rangeCount * Self.rangeSize
        guard bytes.count >= entriesStart, (bytes.count - entriesStart).isMultiple(of: Self.entrySize),
            UInt64((bytes.count - entriesStart) / Self.entrySize) == count
        else { throw damaged("\(bytes.count) bytes do not hold \(count) entries") }

        var ranges: [(start: GuestPhysicalAddress, size: UInt64)] = []
        var total: UInt64 = 0
        var chunks: UInt64 = 0
        var end: UInt64 = 0
        for index in 0..<rangeCount {
            let offset = Self.headerSize + index * Self.rangeSize
            guard let start = bytes.integer(UInt64.self, at: offset),
                let size = bytes.integer(UInt64.self, at: offset + 8),
                start >= end, start.isMultiple(of: BundleLimits.chunk.upperBound), start < 1 << 46,
                size > 0, size.isMultiple(of: 4096), size <= BundleLimits.guestMemory.upperBound
            else { throw damaged("memory range \(index) cannot be") }
            ranges.append((GuestPhysicalAddress(start), size))
            total += size
            chunks += (size + chunkSize - 1) / chunkSize
            end = start + size
        }
        guard total == memoryBytes, statedMemory == memoryBytes else {
            throw damaged("it describes \(total) bytes of memory, the configuration has \(memoryBytes)")
        }
        guard count <= chunks else { throw damaged("it has \(count) entries for \(chunks) chunks") }

        self.chunkSize = chunkSize
        self.ranges = ranges
        self.dataSize = dataSize
        self.count = Int(count)
        totalChunks = Int(chunks)
        self.bytes = bytes
        self.entriesStart = entriesStart
        try checkEntries()
    }

    /// Ascending chunks in memory, their data one after the other from the first byte to the last.
    private func checkEntries() throws(BundleError) {
        func damaged(_ index: Int, _ reason: String) -> BundleError {
            .damaged(member: BundleName.memoryIndex, reason: "entry \(index) \(reason)")
        }
        let limit = Self.maximumStoredSize(chunkSize: chunkSize)
        var expected: UInt64 = 0
        var range = 0
        var previous: UInt32?
        for index in 0..<count {
            let chunk = self[index]
            if let previous, chunk.number <= previous { throw damaged(index, "is not after the one before it") }
            previous = chunk.number
            let address = UInt64(chunk.number) * chunkSize
            while range < ranges.count, address >= ranges[range].start.rawValue + ranges[range].size { range += 1 }
            guard range < ranges.count, address >= ranges[range].start.rawValue else {
                throw damaged(index, "is for 0x\(String(address, radix: 16)), which is not in memory")
            }
            guard chunk.storedSize > 0, UInt64(chunk.storedSize) <= limit else {
                throw damaged(index, "has \(chunk.storedSize) stored bytes, must be 1 to \(limit)")
            }
            guard chunk.offset == expected else {
                throw damaged(index, "starts at \(chunk.offset), must start at \(expected)")
            }
            expected += UInt64(chunk.storedSize)
        }
        guard expected == dataSize else {
            throw .damaged(
                member: BundleName.memoryIndex,
                reason: "its entries cover \(expected) of \(dataSize) bytes of memory.data")
        }
    }

    /// Entry `index`, below `count`.
    subscript(index: Int) -> MemoryChunk {
        let start = entriesStart + index * Self.entrySize
        // SAFETY: `init` checked that `count` entries of 48 bytes follow `entriesStart`.
        return unsafe bytes.withUnsafeBytes { raw in
            let entry = unsafe UnsafeRawBufferPointer(rebasing: raw[start..<(start + 16)])
            return unsafe MemoryChunk(
                number: UInt32(littleEndian: entry.loadUnaligned(fromByteOffset: 0, as: UInt32.self)),
                storedSize: UInt32(littleEndian: entry.loadUnaligned(fromByteOffset: 4, as: UInt32.self)),
                offset: UInt64(littleEndian: entry.loadUnaligned(fromByteOffset: 8, as: UInt64.self)))
        }
    }

    /// The entry of the chunk that starts at `address`; nil when it is all zeros.
    func entry(at address: GuestPhysicalAddress) -> Int? {
        let number = address.rawValue / chunkSize
        var low = 0
        var high = count
        while low < high {
            let middle = (low + high) / 2
            if UInt64(self[middle].number) < number { low = middle + 1 } else { high = middle }
        }
        return low < count && UInt64(self[low].number) == number ? low : nil
    }

    /// Whether `stored`, the compressed bytes of entry `index`, have the hash in the entry.
    func hashMatches(_ index: Int, _ stored: UnsafeRawBufferPointer) -> Bool {
        let start = entriesStart + index * Self.entrySize + 16
        // SAFETY: as in `subscript`.
        return unsafe bytes.withUnsafeBytes { raw in
            unsafe Digest.matches(stored, UnsafeRawBufferPointer(rebasing: raw[start..<(start + Digest.size)]))
        }
    }

    /// Guest-physical address and plain size of a chunk: the last one of a range may be short.
    func place(of chunk: MemoryChunk) -> (address: GuestPhysicalAddress, size: Int) {
        let address = UInt64(chunk.number) * chunkSize
        for range in ranges where address >= range.start.rawValue && address - range.start.rawValue < range.size {
            return (GuestPhysicalAddress(address), Int(min(chunkSize, range.size - (address - range.start.rawValue))))
        }
        return (GuestPhysicalAddress(address), 0)
    }

    /// The binary form of one entry.
    static func appendEntry(_ chunk: MemoryChunk, hash: [UInt8], to bytes: inout [UInt8]) {
        bytes.append(littleEndian: chunk.number)
        bytes.append(littleEndian: chunk.storedSize)
        bytes.append(littleEndian: chunk.offset)
        bytes += hash
    }

    /// The whole member, from entries made by `appendEntry`.
    static func encode(
        chunkSize: UInt64, ranges: [(start: GuestPhysicalAddress, size: UInt64)], dataSize: UInt64, entries: [UInt8]
    ) -> [UInt8] {
        var bytes = magic
        bytes.append(littleEndian: version)
        bytes.append(littleEndian: UInt32(truncatingIfNeeded: chunkSize))
        bytes.append(littleEndian: UInt32(ranges.count))
        bytes.append(littleEndian: UInt32(entrySize))
        bytes.append(littleEndian: UInt64(entries.count / entrySize))
        bytes.append(littleEndian: dataSize)
        bytes.append(littleEndian: ranges.reduce(0) { $0 + $1.size })
        bytes += [UInt8](repeating: 0, count: headerSize - bytes.count)
        for range in ranges {
            bytes.append(littleEndian: range.start.rawValue)
            bytes.append(littleEndian: range.size)
        }
        return bytes + entries
    }
}
