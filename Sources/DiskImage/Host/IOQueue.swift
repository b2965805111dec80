// SPDX-License-Identifier: Apache-2.0
// Reads, writes and syncs of image files: handed to the kernel in batches where the file takes direct I/O (libaio); at once
// where it does not, but for reads of what the host has not in its cache, which threads do.

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
        /// An eventfd; -1 when the host refused one: then everything is done at once.
        private let signal: Int32
        private let kernel: LibaioContext?
        private let helpers: ReadHelpers?
        /// How many of the next reads are not looked for in the cache.
        private var coldReads = 0
    #endif

    /// - Parameter usesKernel: false for images without a file that takes direct I/O.
    init(usesKernel: Bool) {
        #if os(Linux)
            signal = chost_eventfd()
            kernel = usesKernel && signal >= 0 ? LibaioContext(signal: signal) : nil
            helpers = signal >= 0 ? ReadHelpers(signal: signal) : nil
        #endif
    }

    #if os(Linux)
        deinit {
            // Nothing is under way: threads that wait for work go away, and use the signal no more.
            helpers?.close()
            if signal >= 0 { close(signal) }
        }
    #endif

    /// Readable when operations have ended; nil when all end at once.
    var descriptor: Int32? {
        #if os(Linux)
            return signal >= 0 ? signal : nil
        #else
            return nil
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
        guard kind == .read else {
            let error = unsafe writeNow(file.descriptor, file, offset, vectors, count, bytes)
            completions.append(Completion(tag: tag, error: error))
            return
        }
        let inside = offset < file.size ? Int(min(UInt64(bytes), file.size - offset)) : 0
        #if os(Linux)
            if let helpers, inside > 0, unsafe !readCached(file, offset, vectors, count, bytes, inside) {
                let isAsked = unsafe helpers.read(file, offset, vectors, count, bytes, inside: inside, tag: tag)
                if isAsked { return }
            } else if inside > 0, helpers != nil {
                completions.append(Completion(tag: tag, error: 0))
                return
            }
        #endif
        let error = unsafe Self.readNow(file, offset, vectors, count, bytes, inside: inside)
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
            guard let helpers, helpers.inFlight > 0 else {
                guard let kernel, kernel.inFlight > 0 else { return }
                kernel.poll(waiting: waiting && completions.isEmpty, into: &completions)
                return
            }
            if waiting, completions.isEmpty {
                var descriptor = pollfd(fd: signal, events: Int16(POLLIN), revents: 0)
                // SAFETY: one descriptor.
                while unsafe Glibc.poll(&descriptor, 1, -1) < 0, errno == EINTR {}
            }
            // This clears the signal, which the kernel's operations share: they are looked at afterwards.
            helpers.take(into: &completions)
            kernel?.collect(into: &completions)
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

    /// Bytes that are copied from the host's cache by the asker; more is worth another thread.
    private static let largestCopy = 256 << 10
    /// Reads that go to threads at once after one that the cache did not have: the next ones are likely to be as cold.
    private static let coldRun = 15

    #if os(Linux)
        /// Reads what the host has in its cache; false when that is not all, or not known to be right yet.
        private func readCached(
            _ file: ImageFile, _ offset: UInt64, _ vectors: UnsafeMutablePointer<iovec>, _ count: Int, _ bytes: Int,
            _ inside: Int
        ) -> Bool {
            guard inside == bytes, bytes <= Self.largestCopy, count <= 1024 else { return false }
            guard coldReads == 0 else {
                coldReads -= 1
                return false
            }
            if let verifier = file.verifier, !verifier.isVerified(offset: offset, count: UInt64(bytes)) { return false }
            // SAFETY: the caller's vectors have `count` elements.
            let done = unsafe chost_preadv_cached(
                file.descriptor, vectors, Int32(count), off_t(file.start + offset))
            if done != bytes { coldReads = Self.coldRun }
            return done == bytes
        }
    #endif

    /// Reads `inside` bytes of the file, and zeros behind them, on whichever thread.
    static func readNow(
        _ file: ImageFile, _ offset: UInt64, _ vectors: UnsafeMutablePointer<iovec>, _ count: Int, _ bytes: Int,
        inside: Int
    ) -> Int32 {
        unsafe readNow(file.descriptor, file, offset, vectors, count, bytes, inside: inside)
    }

    private static func readNow(
        _ descriptor: Int32, _ file: ImageFile, _ offset: UInt64, _ vectors: UnsafeMutablePointer<iovec>, _ count: Int,
        _ bytes: Int, inside: Int
    ) -> Int32 {
        if let verifier = file.verifier, inside > 0 {
            do throws(DiskImageError) { try verifier.verify(offset: offset, count: UInt64(inside)) } catch {
                return error.code
            }
        }
        var cursor = unsafe VectorCursor(vectors, count)
        var position = off_t(file.start + offset)
        var left = inside
        while left > 0 {
            let done: Int
            if cursor.isAtVectorStart, inside == bytes {
                let (rest, restCount) = unsafe cursor.rest
                done = unsafe chost_preadv(descriptor, rest, Int32(min(restCount, 1024)), position)
            } else {
                let (part, length) = unsafe cursor.current
                done = unsafe pread(descriptor, part, min(length, left), position)
            }
            if done < 0, errno == EINTR { continue }
            guard done >= 0 else { return errno }
            if done == 0 { break }
            cursor.advance(done)
            position += off_t(done)
            left -= done
        }
        // Behind the end there are zeros; a part of a bundle ends before its file does.
        cursor.zero(bytes - inside + left)
        return 0
    }

    private func writeNow(
        _ descriptor: Int32, _ file: ImageFile, _ offset: UInt64, _ vectors: UnsafeMutablePointer<iovec>, _ count: Int,
        _ bytes: Int
    ) -> Int32 {
        var cursor = unsafe VectorCursor(vectors, count)
        var position = off_t(file.start + offset)
        var left = bytes
        while left > 0 {
            let done: Int
            if cursor.isAtVectorStart {
                let (rest, restCount) = unsafe cursor.rest
                done = unsafe chost_pwritev(descriptor, rest, Int32(min(restCount, 1024)), position)
            } else {
                let (part, length) = unsafe cursor.current
                done = unsafe pwrite(descriptor, part, length, position)
            }
            if done < 0, errno == EINTR { continue }
            guard done > 0 else { return done < 0 ? errno : ENOSPC }
            cursor.advance(done)
            position += off_t(done)
            left -= done
        }
        if let observer = file.observer {
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
            guard kind == .read else {
                return unsafe writeNow(file.directDescriptor, file, offset, &vector, 1, bytes)
            }
            let inside = offset < file.size ? Int(min(UInt64(bytes), file.size - offset)) : 0
            let error = unsafe Self.readNow(file.directDescriptor, file, offset, &vector, 1, bytes, inside: inside)
            if error == 0 { unsafe cursor.copy(from: UnsafeRawBufferPointer(buffer.bytes)) }
            return error
        }
    #endif
}
