// SPDX-License-Identifier: Apache-2.0
// Reads, writes and syncs of image files: handed to the kernel in batches where the file takes direct I/O (libaio), done at
// once where it does not.

internal import CHost

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// Requests on their way. One thread at a time.
@safe final class IOQueue {
    enum Kind { case read, write, sync }

    /// The end of one operation.
    struct Completion {
        /// As given with the operation.
        var tag: Int
        /// 0, or the error number.
        var error: Int32
    }

    /// Ended, not yet taken.
    private(set) var completions: [Completion] = []
    #if os(Linux)
        private let kernel: LibaioContext?
    #endif

    /// - Parameter usesKernel: false for images that are only read and written at once.
    init(usesKernel: Bool) {
        #if os(Linux)
            kernel = usesKernel ? LibaioContext() : nil
        #endif
    }

    /// Readable when the kernel has ended operations; nil when it never has any.
    var descriptor: Int32? {
        #if os(Linux)
            return kernel?.descriptor
        #else
            return nil
        #endif
    }

    /// Whether the kernel works on something.
    var isBusy: Bool {
        #if os(Linux)
            return (kernel?.inFlight ?? 0) > 0
        #else
            return false
        #endif
    }

    /// Reads or writes `bytes` bytes at `offset` of `file`, all of `vectors`, which stay where they are until the end.
    func transfer(
        _ kind: Kind, _ file: ImageFile, offset: UInt64, vectors: UnsafeMutablePointer<iovec>, count: Int, bytes: Int,
        tag: Int
    ) {
        if kind == .write { file.noteWrite(end: offset + UInt64(bytes)) }
        #if os(Linux)
            if let kernel, file.directDescriptor >= 0, Self.isAligned(offset, bytes) {
                if unsafe Self.isAligned(vectors, count) {
                    unsafe kernel.transfer(kind, file, offset, vectors, count, bytes, tag)
                    return
                }
                let error = unsafe transferByCopy(kind, file, offset, vectors, count, bytes)
                completions.append(Completion(tag: tag, error: error))
                return
            }
        #endif
        let error = unsafe transferNow(kind, file.descriptor, file, offset, vectors, count, bytes)
        completions.append(Completion(tag: tag, error: error))
    }

    /// Makes everything durable that was written to `file` and has ended.
    func sync(_ file: ImageFile, tag: Int) {
        #if os(Linux)
            if let kernel, file.observer == nil, kernel.sync(file, tag) { return }
        #endif
        var error: Int32 = 0
        do throws(DiskImageError) { try file.sync() } catch let failure { error = failure.code }
        completions.append(Completion(tag: tag, error: error))
    }

    /// Hands what has collected to the kernel.
    func kick() {
        #if os(Linux)
            kernel?.kick()
        #endif
    }

    /// Moves what the kernel has ended to `completions`; waits for at least one when `waiting`.
    func poll(waiting: Bool) {
        #if os(Linux)
            guard let kernel, kernel.inFlight > 0 else { return }
            kernel.poll(waiting: waiting && completions.isEmpty, into: &completions)
        #endif
    }

    func takeCompletions(_ taken: inout [Completion]) {
        taken.removeAll(keepingCapacity: true)
        swap(&taken, &completions)
    }

    // MARK: Alignment

    /// Sectors: what `ImageFile` has tried with.
    private static let sector = 512

    private static func isAligned(_ offset: UInt64, _ bytes: Int) -> Bool {
        (offset | UInt64(bytes)) & UInt64(sector - 1) == 0
    }

    private static func isAligned(_ vectors: UnsafeMutablePointer<iovec>, _ count: Int) -> Bool {
        var bits = 0
        for index in 0..<count {
            // SAFETY: the caller's vectors have `count` elements.
            let vector = unsafe vectors[index]
            unsafe bits |= Int(bitPattern: vector.iov_base) | vector.iov_len
        }
        return bits & (sector - 1) == 0
    }

    // MARK: At once

    private func transferNow(
        _ kind: Kind, _ descriptor: Int32, _ file: ImageFile, _ offset: UInt64,
        _ vectors: UnsafeMutablePointer<iovec>, _ count: Int, _ bytes: Int
    ) -> Int32 {
        if kind == .read, let verifier = file.verifier {
            let inside = offset < file.size ? min(UInt64(bytes), file.size - offset) : 0
            if inside > 0 {
                do throws(DiskImageError) { try verifier.verify(offset: offset, count: inside) } catch {
                    return error.code
                }
            }
        }
        var cursor = unsafe VectorCursor(vectors, count)
        var position = off_t(file.start + offset)
        // A part of a bundle ends before its file does.
        var left = bytes
        var readable = kind == .read && offset < file.size ? Int(min(UInt64(bytes), file.size - offset)) : 0
        while left > 0 {
            if kind == .read, readable == 0 {
                cursor.zero(left)
                break
            }
            var (part, length) = unsafe cursor.current
            if kind == .read, length > readable { length = readable }
            let isWhole = kind == .write || left <= readable
            let done: Int
            if isWhole, cursor.isAtVectorStart {
                let (rest, restCount) = unsafe cursor.rest
                let limited = min(restCount, 1024)
                done =
                    kind == .read
                    ? unsafe chost_preadv(descriptor, rest, Int32(limited), position)
                    : unsafe chost_pwritev(descriptor, rest, Int32(limited), position)
            } else {
                done =
                    kind == .read
                    ? unsafe pread(descriptor, part, length, position)
                    : unsafe pwrite(descriptor, part, length, position)
            }
            unsafe part = nil
            if done < 0, errno == EINTR { continue }
            guard done >= 0 else { return errno }
            if done == 0 {
                if kind == .write { return ENOSPC }
                readable = 0
                continue
            }
            cursor.advance(done)
            position += off_t(done)
            left -= done
            if kind == .read { readable -= done }
        }
        if kind == .write, let observer = file.observer {
            var all = unsafe VectorCursor(vectors, count)
            observer.wrote(all.copyBytes(bytes), at: offset)
        }
        return 0
    }

    #if os(Linux)
        /// Direct I/O for memory that is not aligned.
        private func transferByCopy(
            _ kind: Kind, _ file: ImageFile, _ offset: UInt64, _ vectors: UnsafeMutablePointer<iovec>, _ count: Int,
            _ bytes: Int
        ) -> Int32 {
            guard let buffer = try? AlignedBuffer(count: bytes) else { return ENOMEM }
            var cursor = unsafe VectorCursor(vectors, count)
            if kind == .write { unsafe cursor.copy(to: buffer.bytes) }
            var vector = unsafe iovec(iov_base: buffer.bytes.baseAddress, iov_len: bytes)
            let error = unsafe transferNow(kind, file.directDescriptor, file, offset, &vector, 1, bytes)
            if kind == .read, error == 0 { unsafe cursor.copy(from: UnsafeRawBufferPointer(buffer.bytes)) }
            return error
        }
    #endif
}
