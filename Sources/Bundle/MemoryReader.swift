// SPDX-License-Identifier: Apache-2.0
// `memory.data` back into guest RAM, or only checked: chunks are hashed, then decompressed, on several threads.

internal import Host
public import GuestMemory
internal import Synchronization

/// What `verify` has seen. Everything in it was right.
public struct VerificationReport: Equatable, Sendable {
    /// Members, the manifest included.
    public let members: Int
    /// Chunks of memory, without those that are zero.
    public let chunks: Int
    /// Bytes of the file.
    public let bytes: UInt64
}

extension BundleReader {
    /// Fills `memory` with the bundle's. `memory` must be as `GuestMemory.init` makes it: zero chunks are not written.
    /// - Parameters:
    ///   - threads: that decompress, this one included.
    ///   - progress: called here with 0 to 1.
    /// - Throws: and then `memory` has some of the verified chunks, possibly one that is half written, and is to be
    ///   thrown away. Nothing is decompressed whose hash is wrong.
    public func restoreMemory(
        into memory: GuestMemory, threads: Int = 2, progress: ((Double) -> Void)? = nil
    ) throws(BundleError) {
        try checkRanges(of: memory)
        let job = MemoryReader(
            index: index, file: file, start: try dataOffset(of: BundleName.memoryData), target: memory)
        try job.run(threads: threads, progress: progress)
    }

    /// Refuses memory that is laid out otherwise than the bundle's.
    func checkRanges(of memory: GuestMemory) throws(BundleError) {
        let own = memory.ranges
        guard own.count == index.ranges.count,
            zip(own, index.ranges).allSatisfy({ $0.start == $1.start && $0.size == $1.size })
        else {
            throw .memoryMismatch(bundle: Self.text(of: index.ranges), machine: Self.text(of: own))
        }
    }

    /// Checks every hash, every frame and every CRC-32 of the bundle.
    public func verify(threads: Int = 2, progress: ((Double) -> Void)? = nil) throws(BundleError) -> VerificationReport
    {
        for entry in entries where !BundleName.hasOwnHashes(entry.name) && entry.name != BundleName.manifest {
            guard CRC32(try read(entry.name)).value == entry.crc else {
                throw Self.wrongCRC(entry.name)
            }
        }
        try verifyDisks()
        let job = MemoryReader(index: index, file: file, start: try dataOffset(of: BundleName.memoryData), target: nil)
        let crc = try job.run(threads: threads, progress: progress)
        for entry in entries where entry.name == BundleName.memoryData && entry.crc != crc.value {
            throw Self.wrongCRC(entry.name)
        }
        return VerificationReport(members: entries.count, chunks: index.count, bytes: file.size)
    }

    static func wrongCRC(_ name: String) -> BundleError {
        .damaged(member: name, reason: "its bytes do not have the CRC-32 in the directory")
    }

    private static func text(of ranges: [(start: GuestPhysicalAddress, size: UInt64)]) -> String {
        ranges.map { "\($0.size) bytes at \($0.start)" }.joined(separator: " and ")
    }
}

/// One pass over `memory.data`. Threads call `work` at once; together they do all of it.
private final class MemoryReader: Sendable {
    /// Stored bytes that one thread takes at a time, at most (or one chunk).
    private static let batchSize: UInt64 = 256 << 10

    private let index: MemoryIndex
    private let file: InputFile
    /// Where the data of `memory.data` starts in the file.
    private let start: UInt64
    /// Nil: decompress and forget.
    private let target: GuestMemory?

    private struct State {
        var next = 0
        var failure: BundleError?
        /// Of each batch, by its first entry; only without a target.
        var crcs: [Int: (crc: CRC32, size: UInt64)] = [:]
    }
    private let state = Mutex(State())

    init(index: MemoryIndex, file: InputFile, start: UInt64, target: GuestMemory?) {
        self.index = index
        self.file = file
        self.start = start
        self.target = target
    }

    /// The CRC-32 of `memory.data`, computed only when there is no target.
    @discardableResult
    func run(threads: Int, progress: ((Double) -> Void)?) throws(BundleError) -> CRC32 {
        withHelperThreads(min(threads, index.count) - 1) {
            self.work(report: nil)
        } body: {
            self.work(report: progress)
        }
        let result = state.withLock { $0 }
        if let failure = result.failure { throw failure }
        var crc = CRC32()
        for (_, part) in result.crcs.sorted(by: { $0.key < $1.key }) { crc.append(part.crc, count: part.size) }
        progress?(1)
        return crc
    }

    private func work(report: ((Double) -> Void)?) {
        do throws(BundleError) {
            let largest = max(Self.batchSize, MemoryIndex.maximumStoredSize(chunkSize: index.chunkSize))
            let decompressor = try ChunkDecompressor()
            guard let stored = WorkBuffer(count: Int(largest)),
                let plain = WorkBuffer(count: target == nil ? Int(index.chunkSize) : 0)
            else { throw .outOfMemory(purpose: "decompressing memory") }
            while let batch = takeBatch() {
                let first = index[batch.lowerBound]
                let last = index[batch.upperBound - 1]
                let size = last.offset + UInt64(last.storedSize) - first.offset
                // SAFETY: `takeBatch` keeps `size` within `largest`.
                let bytes = unsafe UnsafeMutableRawBufferPointer(rebasing: stored.bytes[0..<Int(size)])
                unsafe try file.read(BundleName.memoryData, at: start + first.offset, into: bytes)
                for entry in batch {
                    let chunk = index[entry]
                    let from = Int(chunk.offset - first.offset)
                    // SAFETY: entries follow each other without a gap, so this one lies in `bytes`.
                    let frame = unsafe UnsafeRawBufferPointer(rebasing: bytes[from..<(from + Int(chunk.storedSize))])
                    unsafe try expand(entry, chunk, frame, plain, decompressor)
                }
                if target == nil {
                    let crc = unsafe CRC32(UnsafeRawBufferPointer(bytes))
                    state.withLock { $0.crcs[batch.lowerBound] = (crc, size) }
                }
                report?(Double(batch.upperBound) / Double(index.count))
            }
        } catch {
            state.withLock { if $0.failure == nil { $0.failure = error } }
        }
    }

    /// The next entries that fit in `batchSize`, at least one; nil when all are taken or something has failed.
    private func takeBatch() -> Range<Int>? {
        state.withLock { state in
            guard state.failure == nil, state.next < index.count else { return nil }
            let lower = state.next
            var upper = lower + 1
            let start = index[lower].offset
            while upper < index.count {
                let chunk = index[upper]
                guard chunk.offset + UInt64(chunk.storedSize) - start <= Self.batchSize else { break }
                upper += 1
            }
            state.next = upper
            return lower..<upper
        }
    }

    /// Verifies one frame, then decompresses it to where it belongs.
    private func expand(
        _ entry: Int, _ chunk: MemoryChunk, _ frame: UnsafeRawBufferPointer, _ plain: WorkBuffer,
        _ decompressor: ChunkDecompressor
    ) throws(BundleError) {
        let (address, size) = index.place(of: chunk)
        let output: UnsafeMutableRawBufferPointer
        if let target {
            guard let host = unsafe try? target.hostPointer(at: address, count: UInt64(size)) else {
                throw .damaged(
                    member: BundleName.memoryData, reason: "the chunk of \(address) is not in the machine's memory")
            }
            // SAFETY: `hostPointer` checked `size` bytes.
            unsafe output = UnsafeMutableRawBufferPointer(start: host, count: size)
        } else {
            // SAFETY: `size` is at most the chunk size, which `plain` has.
            unsafe output = UnsafeMutableRawBufferPointer(rebasing: plain.bytes[0..<size])
        }
        unsafe try index.expand(entry, frame, into: output, decompressor)
    }
}

extension MemoryIndex {
    /// Verifies `frame`, the stored bytes of `entry`, then decompresses it to `output`, which has the chunk's plain size.
    func expand(
        _ entry: Int, _ frame: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer,
        _ decompressor: ChunkDecompressor
    ) throws(BundleError) {
        func damaged(_ reason: String) -> BundleError {
            let address = place(of: self[entry]).address
            return .damaged(member: BundleName.memoryData, reason: "the chunk of \(address) \(reason)")
        }
        guard unsafe hashMatches(entry, frame) else {
            throw damaged("does not have the SHA-256 in \(BundleName.memoryIndex)")
        }
        guard unsafe decompressor.decompress(frame, into: output) else {
            throw damaged("is not one zstd frame of \(output.count) bytes")
        }
    }
}
