// SPDX-License-Identifier: Apache-2.0
// Files of the host that the command line names.

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

import CHost
import Host

enum HostFile {
    /// The whole file at `path`, which is the user's `purpose`.
    static func read(_ path: String, purpose: String, limit: Int) throws(CommandError) -> FileBytes {
        func refused(_ reason: String) -> CommandError { CommandError("cannot read the \(purpose) \(path): \(reason)") }
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw refused(errorText(errno)) }
        defer { close(descriptor) }
        var information = stat()
        // SAFETY: `information` outlives the call.
        guard unsafe fstat(descriptor, &information) == 0 else { throw refused(errorText(errno)) }
        guard information.st_mode & S_IFMT == S_IFREG else { throw refused("it is not a regular file") }
        let size = Int(information.st_size)
        guard size > 0 else { throw refused("it is empty") }
        guard size <= limit else { throw refused("it has \(size) bytes, at most \(limit) are allowed") }
        if let mapped = FileBytes(mapping: descriptor, size: size) { return mapped }

        var failure: Int32 = 0
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
            // SAFETY: the array's own bytes.
            unsafe chost_prefer_large_pages(buffer.baseAddress, buffer.count)
            while count < size {
                // SAFETY: `count` is below the buffer's `size`.
                let got = unsafe Self.read(descriptor, buffer, from: count)
                if got < 0, errno == EINTR { continue }
                if got < 0 { failure = errno }
                guard got > 0 else { break }
                count += got
            }
        }
        guard failure == 0 else { throw refused(errorText(failure)) }
        guard bytes.count == size else { throw refused("it became shorter while it was read") }
        return FileBytes(bytes)
    }

    private static func read(_ descriptor: Int32, _ buffer: UnsafeMutableBufferPointer<UInt8>, from start: Int) -> Int {
        // SAFETY: the caller keeps `start` within the buffer.
        unsafe sysRead(descriptor, buffer.baseAddress.map { unsafe $0 + start }, buffer.count - start)
    }

    /// Where large files go that end with the process: `TMPDIR`, or a folder that is on a disk and not in memory.
    static var scratchFolder: String {
        // SAFETY: the environment is not changed by this process; the text is copied.
        if let told = unsafe getenv("TMPDIR"), unsafe told.pointee != 0 { return unsafe String(cString: told) }
        return "/var/tmp"
    }

    /// `path` as it is understood from any folder.
    static func absolute(_ path: String) throws(CommandError) -> String {
        if path.hasPrefix("/") { return path }
        guard let folder = unsafe getcwd(nil, 0) else {
            throw CommandError("the current folder cannot be found: \(errorText(errno))")
        }
        // SAFETY: getcwd allocated a NUL-terminated string, freed once.
        defer { unsafe free(folder) }
        return unsafe String(cString: folder) + "/" + path
    }

    /// Refuses an output path now that could not be written later, after hours of the guest's work.
    static func checkWritable(_ path: String) throws(CommandError) {
        let folder = path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        guard unsafe access(folder, W_OK | X_OK) == 0 else {
            throw CommandError("cannot write \(path): \(folder): \(errorText(errno))")
        }
    }
}

/// `read` of the C library, which a method of that name hides.
private func sysRead(_ descriptor: Int32, _ buffer: UnsafeMutableRawPointer?, _ count: Int) -> Int {
    // SAFETY: the caller's buffer has `count` bytes.
    unsafe read(descriptor, buffer, count)
}
