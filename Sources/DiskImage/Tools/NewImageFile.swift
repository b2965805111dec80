// SPDX-License-Identifier: Apache-2.0
// A new image file: it appears under its name when it is whole, and not before.

internal import CHost

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// A file under a temporary name beside its own; it is removed unless it is finished.
final class NewImageFile {
    let file: ImageFile
    private let path: String
    private let temporary: String
    private let replaces: Bool
    private var isFinished = false

    /// - Parameter replacing: a file that has the name may go; else that is an error, now rather than in the end.
    init(path: String, replacing: Bool) throws(DiskImageError) {
        var information = stat()
        // SAFETY: `information` outlives the call.
        if unsafe lstat(path, &information) == 0 {
            guard replacing else { throw .exists(path: path) }
            guard information.st_mode & S_IFMT == S_IFREG else {
                throw .invalidValue(field: "the image to replace", value: "'\(path)'", allowed: "a regular file")
            }
        }
        guard !path.isEmpty, !path.hasSuffix("/") else {
            throw .invalidValue(field: "the image's name", value: "'\(path)'", allowed: "that of a file")
        }
        self.path = path
        replaces = replacing
        temporary = "\(path).\(getpid()).part"
        file = try ImageFile.create(path: temporary, replacing: false)
    }

    deinit { if !isFinished { unsafe _ = unlink(temporary) } }

    /// Gives the file its name.
    func finish() throws(DiskImageError) {
        try file.sync()
        if !replaces {
            // A link never replaces what has appeared in the meantime.
            if unsafe link(temporary, path) == 0 { return }
            if errno == EEXIST { throw .exists(path: path) }
        }
        guard unsafe rename(temporary, path) == 0 else { throw .io(operation: "create", path: path, errno: errno) }
        isFinished = true
    }
}
