// SPDX-License-Identifier: Apache-2.0
// The file being written: nameless or hidden until it is whole and on the disk, then it takes its name at once.

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// A new file that appears under `path` only by `commit`. Without `commit` nothing is left of it.
final class OutputFile: Sendable {
    let path: String
    private let folder: Int32
    let descriptor: Int32
    private let finalName: String
    /// Hidden name in the same folder: from the start, or only during `commit` when the file has no name before.
    private let temporaryName: String
    private let isNameless: Bool

    init(path: String) throws(BundleError) {
        let (folderPath, name) = Self.split(path)
        guard !name.isEmpty, name != ".", name != ".." else {
            throw .invalidValue(field: "output path", value: "'\(path)'", allowed: "the name of a file")
        }
        let folder = unsafe open(folderPath, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard folder >= 0 else { throw .io(operation: "open the folder", path: folderPath, errno: errno) }
        var existing = stat()
        // SAFETY: `existing` outlives the call.
        if unsafe fstatat(folder, name, &existing, 0) == 0, existing.st_mode & S_IFMT != S_IFREG {
            close(folder)
            throw .invalidValue(field: "output path", value: "'\(path)'", allowed: "a regular file, or none yet")
        }
        let temporaryName = ".smolmachine-\(BundleIdentifier.random().text).tmp"
        var descriptor: Int32 = -1
        #if os(Linux)
            // O_TMPFILE: the kernel's flag with the folder flag that keeps older kernels from misreading it.
            let nameless: Int32 = 0o20_000_000 | O_DIRECTORY
            if unsafe access("/proc/self/fd", X_OK) == 0 {
                descriptor = unsafe openat(folder, ".", nameless | O_WRONLY | O_CLOEXEC, 0o600)
            }
        #endif
        isNameless = descriptor >= 0
        if descriptor < 0 {
            descriptor = unsafe openat(folder, temporaryName, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        }
        guard descriptor >= 0 else {
            let code = errno
            close(folder)
            throw .io(operation: "create", path: path, errno: code)
        }
        self.path = path
        self.folder = folder
        self.descriptor = descriptor
        self.temporaryName = temporaryName
        finalName = name
    }

    deinit {
        if !isNameless { unsafe _ = unlinkat(folder, temporaryName, 0) }
        close(descriptor)
        close(folder)
    }

    private static func split(_ path: String) -> (folder: String, name: String) {
        guard let slash = path.utf8.lastIndex(of: UInt8(ascii: "/")) else { return (".", path) }
        let folder = String(path[..<slash])
        return (folder.isEmpty ? "/" : folder, String(path[path.utf8.index(after: slash)...]))
    }

    /// Writes all of `bytes` at `offset`. Any thread.
    func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(BundleError) {
        var done = 0
        while done < bytes.count {
            guard let start = bytes.baseAddress else { return }
            // SAFETY: `done` is below `bytes.count`.
            let count = unsafe pwrite(descriptor, start + done, bytes.count - done, off_t(offset) + off_t(done))
            if count < 0 {
                if errno == EINTR { continue }
                throw .io(operation: "write", path: path, errno: errno)
            }
            guard count > 0 else { throw .io(operation: "write", path: path, errno: ENOSPC) }
            done += count
        }
    }

    func write(_ bytes: [UInt8], at offset: UInt64) throws(BundleError) {
        var failure: BundleError?
        // SAFETY: the buffer is only used inside the closure.
        unsafe bytes.withUnsafeBytes { buffer in
            do throws(BundleError) { unsafe try write(buffer, at: offset) } catch { failure = error }
        }
        if let failure { throw failure }
    }

    /// Puts the file on the disk, then in the place of whatever `path` was, then that on the disk too.
    func commit() throws(BundleError) {
        guard Self.retry({ fsync(descriptor) }) else { throw failed("write") }
        if isNameless {
            let link = "/proc/self/fd/\(descriptor)"
            guard unsafe linkat(AT_FDCWD, link, folder, temporaryName, AT_SYMLINK_FOLLOW) == 0 else {
                throw failed("create")
            }
        }
        guard unsafe renameat(folder, temporaryName, folder, finalName) == 0 else {
            let error = failed("replace")
            unsafe _ = unlinkat(folder, temporaryName, 0)
            throw error
        }
        // Some file systems cannot sync a folder and say EINVAL: there is nothing better to do on them.
        guard Self.retry({ fsync(folder) }) || errno == EINVAL else { throw failed("sync the folder of") }
    }

    private func failed(_ operation: String) -> BundleError { .io(operation: operation, path: path, errno: errno) }

    private static func retry(_ call: () -> Int32) -> Bool {
        while call() != 0 {
            if errno != EINTR { return false }
        }
        return true
    }
}
