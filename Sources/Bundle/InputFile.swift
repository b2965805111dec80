// SPDX-License-Identifier: Apache-2.0
// The file being read: positioned reads only, because a mapped file that somebody truncates would kill the process.

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// An open bundle. Any thread.
final class InputFile: Sendable {
    let path: String
    let size: UInt64
    let descriptor: Int32

    init(path: String) throws(BundleError) {
        // Not blocking: opening a pipe that nobody writes to must not hang. A regular file does not care.
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else { throw .io(operation: "open", path: path, errno: errno) }
        var information = stat()
        // SAFETY: `information` outlives the call.
        let result = unsafe fstat(descriptor, &information)
        let code = errno
        guard result == 0 else {
            close(descriptor)
            throw .io(operation: "examine", path: path, errno: code)
        }
        guard information.st_mode & S_IFMT == S_IFREG else {
            close(descriptor)
            throw .notABundle(path: path, reason: "it is not a regular file")
        }
        self.path = path
        self.descriptor = descriptor
        size = UInt64(max(0, information.st_size))
    }

    deinit { close(descriptor) }

    /// Fills `buffer` from `offset` on.
    /// - Throws: `damaged`, naming `member`, when the file ends before.
    func read(_ member: String, at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(BundleError) {
        guard offset <= size, UInt64(buffer.count) <= size - offset else {
            throw .damaged(member: member, reason: "the file ends before it")
        }
        var done = 0
        while done < buffer.count {
            guard let start = buffer.baseAddress else { return }
            // SAFETY: `done` is below `buffer.count`.
            let count = unsafe pread(descriptor, start + done, buffer.count - done, off_t(offset) + off_t(done))
            if count < 0 {
                if errno == EINTR { continue }
                throw .io(operation: "read \(member) of", path: path, errno: errno)
            }
            guard count > 0 else { throw .damaged(member: member, reason: "the file ends inside it") }
            done += count
        }
    }

    /// `count` bytes from `offset` on; the caller has bounded `count`.
    func read(_ member: String, at offset: UInt64, count: Int) throws(BundleError) -> [UInt8] {
        guard offset <= size, UInt64(count) <= size - offset else {
            throw .damaged(member: member, reason: "the file ends before it")
        }
        var bytes = [UInt8](repeating: 0, count: count)
        var failure: BundleError?
        // SAFETY: the buffer is only used inside the closure.
        unsafe bytes.withUnsafeMutableBytes { buffer in
            do throws(BundleError) { unsafe try read(member, at: offset, into: buffer) } catch { failure = error }
        }
        if let failure { throw failure }
        return bytes
    }
}
