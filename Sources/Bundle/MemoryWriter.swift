// SPDX-License-Identifier: Apache-2.0
// Guest RAM into `memory.data`: chunks are compressed and hashed on several threads and written in ascending order.

internal import Host
internal import GuestMemory
internal import Synchronization

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// Writes `memory.data` of one bundle. Threads call `work` at once; together they do all of it.
final class MemoryWriter: Sendable {
    /// Measured: 128 KiB is no smaller, and a copy reads more that it does not want.
    static let chunkSize: UInt64 = 64 << 10
    /// Chunks that one thread takes at a time.
    private static let batch = 8

    private struct Progress {
        var dataSize: UInt64 = 0
        var crc = CRC32()
        var entries: [UInt8] = []
        var failure: BundleError?
    }

    private let source: any MemorySource
    private let file: OutputFile
    /// Where the member's data starts in the file.
    private let start: UInt64
    private let batches: [(address: UInt64, size: UInt64)]
    private let next = Atomic<Int>(0)
    private let turnstile = Turnstile()
    private let progress = Mutex(Progress())

    init(source: any MemorySource, file: OutputFile, start: UInt64) {
        self.source = source
        self.file = file
        self.start = start
        var batches: [(address: UInt64, size: UInt64)] = []
        let step = Self.chunkSize * UInt64(Self.batch)
        for range in source.ranges {
            for offset in stride(from: 0, to: range.size, by: Int(step)) {
                batches.append((range.start.rawValue + offset, min(step, range.size - offset)))
            }
        }
        self.batches = batches
    }

    /// Size and CRC-32 of `memory.data`, and `memory.index`.
    func finish() throws(BundleError) -> (size: UInt64, crc: CRC32, index: [UInt8]) {
        let result = progress.withLock { $0 }
        if let failure = result.failure { throw failure }
        let index = MemoryIndex.encode(
            chunkSize: Self.chunkSize, ranges: source.ranges, dataSize: result.dataSize, entries: result.entries)
        return (result.dataSize, result.crc, index)
    }

    /// Does batches until none is left or one has failed; `report` gets the fraction that has been begun.
    func work(report: ((Double) -> Void)?) {
        let bound = ChunkCompressor.bound(Int(Self.chunkSize))
        do throws(BundleError) {
            let compressor = try ChunkCompressor()
            guard let plain = WorkBuffer(count: Int(Self.chunkSize)),
                let zeros = WorkBuffer(count: Int(Self.chunkSize)),
                let output = WorkBuffer(count: bound * Self.batch)
            else { throw .outOfMemory(purpose: "compressing memory") }
            unsafe _ = zeros.bytes.initializeMemory(as: UInt8.self, repeating: 0)
            while true {
                let ticket = next.wrappingAdd(1, ordering: .relaxed).oldValue
                guard ticket < batches.count else { return }
                // A ticket that is taken must pass the turnstile, or the threads behind it would wait for ever.
                let chunks =
                    progress.withLock { $0.failure == nil } ? compress(ticket, compressor, plain, zeros, output) : []
                let place = record(ticket, chunks, output)
                if let place {
                    unsafe try file.write(
                        UnsafeRawBufferPointer(rebasing: output.bytes[0..<place.size]), at: place.offset)
                }
                report?(Double(ticket + 1) / Double(batches.count))
            }
        } catch {
            fail(error)
        }
    }

    /// The first failure is the one that is told.
    private func fail(_ error: BundleError) { progress.withLock { if $0.failure == nil { $0.failure = error } } }

    private struct Compressed {
        var number: UInt32
        var size: Int
        var hash: [UInt8]
    }

    /// Compresses the chunks of a batch that are not zero, one after the other, to `output`.
    private func compress(
        _ ticket: Int, _ compressor: ChunkCompressor, _ plain: WorkBuffer, _ zeros: WorkBuffer, _ output: WorkBuffer
    ) -> [Compressed] {
        var chunks: [Compressed] = []
        var used = 0
        let (address, size) = batches[ticket]
        for offset in stride(from: 0, to: size, by: Int(Self.chunkSize)) {
            let count = Int(min(Self.chunkSize, size - offset))
            // SAFETY: `count` is at most the chunk size, which `plain` and `zeros` have.
            let bytes = unsafe UnsafeMutableRawBufferPointer(rebasing: plain.bytes[0..<count])
            guard unsafe source.read(at: GuestPhysicalAddress(address + offset), into: bytes) else {
                fail(.memoryLost)
                return []
            }
            guard let start = bytes.baseAddress, let zero = unsafe zeros.bytes.baseAddress,
                unsafe memcmp(start, zero, count) != 0
            else { continue }
            // SAFETY: `output` has room for a whole batch at its largest.
            let rest = unsafe UnsafeMutableRawBufferPointer(rebasing: output.bytes[used...])
            guard let stored = unsafe compressor.compress(UnsafeRawBufferPointer(bytes), into: rest) else {
                fail(.outOfMemory(purpose: "compressing memory"))
                return []
            }
            let hash = unsafe Digest.of(UnsafeRawBufferPointer(rebasing: rest[0..<stored]))
            chunks.append(
                Compressed(number: UInt32((address + offset) / Self.chunkSize), size: stored, hash: hash))
            used += stored
        }
        return chunks
    }

    /// Appends a batch to the index, in order, and says where its data belongs in the file; nil when it has none.
    private func record(
        _ ticket: Int, _ chunks: [Compressed], _ output: WorkBuffer
    ) -> (offset: UInt64, size: Int)? {
        let size = chunks.reduce(0) { $0 + $1.size }
        let crc = unsafe CRC32(UnsafeRawBufferPointer(rebasing: output.bytes[0..<size]))
        var place: (offset: UInt64, size: Int)?
        turnstile.pass(ticket) {
            guard size > 0 else { return }
            place = progress.withLock { progress in
                let offset = progress.dataSize
                for chunk in chunks {
                    let entry = MemoryChunk(
                        number: chunk.number, storedSize: UInt32(chunk.size), offset: progress.dataSize)
                    MemoryIndex.appendEntry(entry, hash: chunk.hash, to: &progress.entries)
                    progress.dataSize += UInt64(chunk.size)
                }
                progress.crc.append(crc, count: UInt64(size))
                return (start + offset, size)
            }
        }
        return place
    }
}
