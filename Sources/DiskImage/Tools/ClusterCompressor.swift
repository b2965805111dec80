// SPDX-License-Identifier: Apache-2.0
// Compresses clusters as qcow2 images store them. Spec: QEMU docs/interop/qcow2.txt, "compression_type".

internal import CZlib
internal import CZstd
internal import Host
internal import Synchronization

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// Compresses one cluster after another; each as a stream of its own. One thread.
@safe final class ClusterCompressor {
    /// What readers of qcow2 images have room for: 2^12 bytes; negative for a stream without header.
    private static let windowBits: Int32 = -12
    private static let memoryLevel: Int32 = 9

    private let type: Qcow2Compression
    private var deflater = unsafe z_stream()
    private let zstd: OpaquePointer?
    private var output: [UInt8]

    /// - Parameter size: of a cluster, in bytes.
    init(_ type: Qcow2Compression, size: Int) throws(DiskImageError) {
        self.type = type
        output = [UInt8](repeating: 0, count: size)
        switch type {
        case .zlib:
            unsafe zstd = nil
            let result = unsafe deflateInit2_(
                &deflater, Z_DEFAULT_COMPRESSION, Z_DEFLATED, Self.windowBits, Self.memoryLevel, Z_DEFAULT_STRATEGY,
                zlibVersion(), Int32(MemoryLayout<z_stream>.size))
            guard result == Z_OK else { throw .outOfMemory(purpose: "compression") }
        case .zstd:
            unsafe zstd = ZSTD_createCCtx()
            guard unsafe zstd != nil else { throw .outOfMemory(purpose: "compression") }
        }
    }

    deinit {
        if type == .zlib { unsafe _ = deflateEnd(&deflater) }
        unsafe _ = ZSTD_freeCCtx(zstd)
    }

    /// The compressed cluster; nil when that is not smaller.
    func compress(_ cluster: UnsafeRawBufferPointer) -> [UInt8]? {
        let room = output.count - 1
        let size = unsafe output.withUnsafeMutableBufferPointer { buffer -> Int? in
            switch type {
            case .zlib:
                guard unsafe deflateReset(&deflater) == Z_OK else { return nil }
                unsafe deflater.next_in = UnsafeMutablePointer(
                    mutating: cluster.baseAddress?.assumingMemoryBound(to: UInt8.self))
                unsafe deflater.avail_in = UInt32(cluster.count)
                unsafe deflater.next_out = buffer.baseAddress
                unsafe deflater.avail_out = UInt32(room)
                // SAFETY: the counts are those of the buffers, or less.
                guard unsafe deflate(&deflater, Z_FINISH) == Z_STREAM_END else { return nil }
                return unsafe room - Int(deflater.avail_out)
            case .zstd:
                // SAFETY: as above.
                let size = unsafe ZSTD_compressCCtx(
                    zstd, buffer.baseAddress, room, cluster.baseAddress, cluster.count, ZSTD_CLEVEL_DEFAULT)
                return ZSTD_isError(size) == 0 ? size : nil
            }
        }
        return size.map { Array(output[..<$0]) }
    }
}

/// Compresses clusters on all processors.
@safe final class ParallelCompressor {
    private static let mostThreads = 16

    private let compressors: [ClusterCompressor]
    private let size: Int

    init(_ type: Qcow2Compression, size: Int) throws(DiskImageError) {
        let threads = min(usableProcessors(), Self.mostThreads)
        var list: [ClusterCompressor] = []
        for _ in 0..<threads { list.append(try ClusterCompressor(type, size: size)) }
        compressors = list
        self.size = size
    }

    /// Each of the clusters that `bytes` has, compressed, where that is smaller and `isWanted`.
    func compress(_ bytes: UnsafeRawBufferPointer, where isWanted: [Bool]) -> [[UInt8]?] {
        var results = [[UInt8]?](repeating: nil, count: isWanted.count)
        unsafe results.withUnsafeMutableBufferPointer { results in
            let work = unsafe Work(compressors: compressors, size: size, bytes: bytes, results: results)
            let turns = Turns()
            @Sendable func share() {
                let thread = turns.thread.wrappingAdd(1, ordering: .relaxed).oldValue
                while true {
                    let index = turns.index.wrappingAdd(1, ordering: .relaxed).oldValue
                    guard index < isWanted.count else { return }
                    if isWanted[index] { work.compress(index, thread) }
                }
            }
            withHelperThreads(compressors.count - 1, helper: share, body: share)
        }
        return results
    }

    /// Whose turn it is: the next thread's number, the next cluster.
    private final class Turns: Sendable {
        let thread = Atomic<Int>(0)
        let index = Atomic<Int>(0)
    }

    /// Shared by the threads: each has its own compressor, and its own places of the results.
    @safe private struct Work: @unchecked Sendable {
        let compressors: [ClusterCompressor]
        let size: Int
        let bytes: UnsafeRawBufferPointer
        let results: UnsafeMutableBufferPointer<[UInt8]?>

        func compress(_ index: Int, _ thread: Int) {
            // SAFETY: there are as many whole clusters as results, and `index` is below that.
            let cluster = unsafe UnsafeRawBufferPointer(rebasing: bytes[index * size..<(index + 1) * size])
            unsafe results[index] = unsafe compressors[thread].compress(cluster)
        }
    }
}
