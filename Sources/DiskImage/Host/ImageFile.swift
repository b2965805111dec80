// SPDX-License-Identifier: Apache-2.0
// One file of the host, or a part of one: what a layer of a disk image is stored in.

internal import CHost

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// Checks bytes of a file against hashes before they are used.
public protocol RangeVerifier: AnyObject, Sendable {
    /// Verifies all bytes of the range; any thread.
    /// - Throws: `corrupt`.
    func verify(offset: UInt64, count: UInt64) throws(DiskImageError)
    /// Whether `verify` would return at once; any thread.
    func isVerified(offset: UInt64, count: UInt64) -> Bool
}

/// What tests see of a file: everything that would be on a disk, in order.
package protocol ImageFileObserver: AnyObject {
    func wrote(_ bytes: [UInt8], at offset: UInt64)
    func truncated(to size: UInt64)
    func synced()
}

/// An open image file. Offsets count from the start of the image, which may lie inside a bundle.
@safe public final class ImageFile: @unchecked Sendable {
    public let path: String
    /// For everything but guest data on files that take direct I/O.
    let descriptor: Int32
    /// The same file without the host's cache; -1 when the file system refuses that.
    let directDescriptor: Int32
    let isWritable: Bool
    /// Where the image starts in the file.
    let start: UInt64
    /// The image is one member of a bundle: its size cannot change.
    let isPart: Bool
    /// Bytes from the image's start to its end.
    private(set) var size: UInt64
    let verifier: (any RangeVerifier)?
    /// Whether freshly extended space reads as zero.
    let isRegular: Bool
    package var observer: (any ImageFileObserver)?
    private var punchFails = false

    private init(
        path: String, descriptor: Int32, direct: Int32, isWritable: Bool, start: UInt64, isPart: Bool, size: UInt64,
        isRegular: Bool, verifier: (any RangeVerifier)?
    ) {
        self.path = path
        self.descriptor = descriptor
        directDescriptor = direct
        self.isWritable = isWritable
        self.start = start
        self.isPart = isPart
        self.size = size
        self.isRegular = isRegular
        self.verifier = verifier
    }

    deinit {
        close(descriptor)
        if directDescriptor >= 0 { close(directDescriptor) }
    }

    // MARK: Opening

    /// Opens a regular file or block device, and locks it against processes that would disagree about its contents.
    /// - Parameter direct: past the host's cache where the file system can.
    convenience init(path: String, isWritable: Bool, direct: Bool) throws(DiskImageError) {
        let access = (isWritable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK
        let descriptor = unsafe chost_open(path, access, 0)
        guard descriptor >= 0 else { throw .io(operation: "open", path: path, errno: errno) }
        let size: UInt64
        let isRegular: Bool
        do throws(DiskImageError) {
            (size, isRegular) = try Self.examine(descriptor, path)
            try ImageLock.take(descriptor, path: path, isWritable: isWritable)
        } catch {
            close(descriptor)
            throw error
        }
        self.init(
            path: path, descriptor: descriptor, direct: direct ? Self.openDirect(path, descriptor, access) : -1,
            isWritable: isWritable, start: 0, isPart: false, size: size, isRegular: isRegular, verifier: nil)
    }

    /// Bytes of an open file that are one disk image, read-only: a part of a bundle, or a whole file, which is locked
    /// against writers. The descriptor is duplicated.
    public convenience init(
        path: String, descriptor: Int32, start: UInt64, size: UInt64, isPart: Bool, verifier: (any RangeVerifier)?
    ) throws(DiskImageError) {
        let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
        guard copy >= 0 else { throw .io(operation: "open", path: path, errno: errno) }
        do throws(DiskImageError) {
            if !isPart { try ImageLock.take(copy, path: path, isWritable: false) }
        } catch {
            close(copy)
            throw error
        }
        self.init(
            path: path, descriptor: copy, direct: -1, isWritable: false, start: start, isPart: isPart, size: size,
            isRegular: true, verifier: verifier)
    }

    /// A writable file at `start` of the file behind `descriptor`, which is duplicated: what a bundle is written with.
    package convenience init(path: String, appendingTo descriptor: Int32, start: UInt64) throws(DiskImageError) {
        let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
        guard copy >= 0 else { throw .io(operation: "open", path: path, errno: errno) }
        self.init(
            path: path, descriptor: copy, direct: -1, isWritable: true, start: start, isPart: false, size: 0,
            isRegular: true, verifier: nil)
    }

    /// A new, empty file at `path`, which must not exist unless `replacing`.
    static func create(path: String, replacing: Bool) throws(DiskImageError) -> ImageFile {
        let flags = O_RDWR | O_CREAT | O_CLOEXEC | (replacing ? 0 : O_EXCL)
        let descriptor = unsafe chost_open(path, flags, 0o644)
        guard descriptor >= 0 else { throw .io(operation: "create", path: path, errno: errno) }
        do throws(DiskImageError) {
            try ImageLock.take(descriptor, path: path, isWritable: true)
        } catch {
            close(descriptor)
            throw error
        }
        guard !replacing || ftruncate(descriptor, 0) == 0 else {
            let code = errno
            close(descriptor)
            throw .io(operation: "truncate", path: path, errno: code)
        }
        return ImageFile(
            path: path, descriptor: descriptor, direct: -1, isWritable: true, start: 0, isPart: false, size: 0,
            isRegular: true, verifier: nil)
    }

    /// A new file without a name in `folder`: it goes with the process.
    static func scratch(in folder: String) throws(DiskImageError) -> ImageFile {
        var descriptor: Int32 = -1
        #if os(Linux)
            descriptor = unsafe chost_open(folder, Int32(CHOST_O_TMPFILE) | O_RDWR | O_CLOEXEC, 0o600)
        #endif
        if descriptor < 0 {
            var template = Array((folder + "/smolvmm-XXXXXX").utf8CString)
            // SAFETY: the template is NUL-terminated and mkstemp writes only the six letters.
            descriptor = unsafe mkstemp(&template)
            guard descriptor >= 0 else { throw .io(operation: "create a scratch file in", path: folder, errno: errno) }
            unsafe _ = unlink(template)
            _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        }
        return ImageFile(
            path: folder + "/(scratch)", descriptor: descriptor, direct: -1, isWritable: true, start: 0, isPart: false,
            size: 0, isRegular: true, verifier: nil)
    }

    private static func examine(_ descriptor: Int32, _ path: String) throws(DiskImageError) -> (UInt64, Bool) {
        var information = stat()
        // SAFETY: `information` outlives the call.
        guard unsafe fstat(descriptor, &information) == 0 else {
            throw .io(operation: "examine", path: path, errno: errno)
        }
        switch information.st_mode & S_IFMT {
        case S_IFREG: return (UInt64(max(0, information.st_size)), true)
        case S_IFBLK:
            let end = lseek(descriptor, 0, SEEK_END)
            guard end >= 0 else { throw .io(operation: "examine", path: path, errno: errno) }
            return (UInt64(end), false)
        default:
            throw .invalidValue(field: "disk image", value: "'\(path)'", allowed: "a regular file or a block device")
        }
    }

    /// A second descriptor without cache, when one sector can be read with it; else -1.
    private static func openDirect(_ path: String, _ descriptor: Int32, _ access: Int32) -> Int32 {
        #if os(Linux)
            // Through /proc: `path` may be another file by now.
            let direct = unsafe chost_open("/proc/self/fd/\(descriptor)", access | Int32(CHOST_O_DIRECT), 0)
            guard direct >= 0 else { return -1 }
            guard let buffer = try? AlignedBuffer(count: 4096),
                // SAFETY: 512 bytes at an offset of 512 in a buffer of 4096: what every request will be multiples of.
                let target = unsafe buffer.bytes.baseAddress, unsafe pread(direct, target + 512, 512, 512) >= 0
            else {
                close(direct)
                return -1
            }
            return direct
        #else
            return -1
        #endif
    }

    // MARK: Access

    /// Runs `body`, whose reads of tables must not make the host believe that the file is read from its start to its end:
    /// it would read megabytes ahead of the guest's scattered requests, which continue where the tables end.
    func withoutReadAhead<Value>(_ body: () throws(DiskImageError) -> Value) throws(DiskImageError) -> Value {
        #if os(Linux)
            posix_fadvise(descriptor, 0, 0, POSIX_FADV_RANDOM)
            defer { posix_fadvise(descriptor, 0, 0, POSIX_FADV_NORMAL) }
        #endif
        return try body()
    }

    /// Fills `buffer` from `offset` on; what is behind the end reads as zero.
    func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(DiskImageError) {
        let inside = offset < size ? Int(min(UInt64(buffer.count), size - offset)) : 0
        if let verifier, inside > 0 { try verifier.verify(offset: offset, count: UInt64(inside)) }
        var done = 0
        while done < inside {
            guard let target = buffer.baseAddress else { return }
            // SAFETY: `done` is below `inside`, which is at most the buffer's count.
            let count = unsafe pread(descriptor, target + done, inside - done, off_t(start + offset) + off_t(done))
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw .io(operation: "read", path: path, errno: errno) }
            if count == 0 { break }
            done += count
        }
        // SAFETY: the rest of the buffer.
        if done < buffer.count {
            unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[done...]).initializeMemory(
                as: UInt8.self, repeating: 0)
        }
    }

    /// `count` bytes that the format says are there.
    func read(_ what: String, at offset: UInt64, count: Int) throws(DiskImageError) -> [UInt8] {
        guard offset <= size, UInt64(count) <= size - offset else {
            throw .corrupt(
                path: path,
                reason: "\(what) at offset \(hexadecimal(offset)) reaches behind the file's end at "
                    + hexadecimal(size))
        }
        var bytes = [UInt8](repeating: 0, count: count)
        var failure: DiskImageError?
        // SAFETY: the buffer is only used inside the closure.
        unsafe bytes.withUnsafeMutableBytes { buffer in
            do throws(DiskImageError) { unsafe try read(at: offset, into: buffer) } catch { failure = error }
        }
        if let failure { throw failure }
        return bytes
    }

    /// Writes all of `bytes` at `offset`, extending the file where needed.
    func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(DiskImageError) {
        guard isWritable else { throw .readOnly(path: path) }
        var done = 0
        while done < bytes.count {
            guard let source = bytes.baseAddress else { return }
            // SAFETY: `done` is below `bytes.count`.
            let count = unsafe pwrite(
                descriptor, source + done, bytes.count - done, off_t(start + offset) + off_t(done))
            if count < 0, errno == EINTR { continue }
            guard count > 0 else {
                throw .io(operation: "write", path: path, errno: count == 0 ? ENOSPC : errno)
            }
            done += count
        }
        unsafe observer?.wrote(Array(bytes), at: offset)
        noteWrite(end: offset + UInt64(bytes.count))
    }

    func write(_ bytes: [UInt8], at offset: UInt64) throws(DiskImageError) {
        var failure: DiskImageError?
        // SAFETY: the buffer is only used inside the closure.
        unsafe bytes.withUnsafeBytes { buffer in
            do throws(DiskImageError) { unsafe try write(buffer, at: offset) } catch { failure = error }
        }
        if let failure { throw failure }
    }

    /// Data was written by an asynchronous request up to `end`.
    func noteWrite(end: UInt64) { if end > size { size = end } }

    /// Puts data on the disk, and what is needed to find it.
    func sync() throws(DiskImageError) {
        while fdatasync(descriptor) != 0 {
            if errno != EINTR { throw .io(operation: "write", path: path, errno: errno) }
        }
        observer?.synced()
    }

    /// Makes the file `size` bytes long; what is added reads as zero.
    func truncate(to newSize: UInt64) throws(DiskImageError) {
        guard isWritable, !isPart else { throw .readOnly(path: path) }
        guard ftruncate(descriptor, off_t(start + newSize)) == 0 else {
            throw .io(operation: "resize", path: path, errno: errno)
        }
        observer?.truncated(to: newSize)
        size = newSize
    }

    /// Gives a range back to the file system; false where that cannot be done, and the bytes are what they were.
    func punchHole(at offset: UInt64, count: UInt64) -> Bool {
        guard isWritable, !punchFails, observer == nil, count > 0 else { return false }
        punchFails = chost_punch_hole(descriptor, off_t(start + offset), off_t(count)) != 0
        return !punchFails
    }

    /// The next range at or behind `offset` that the file system stores; nil when there is none.
    func nextData(from offset: UInt64) -> Range<UInt64>? {
        guard offset < size else { return nil }
        let data = chost_seek(descriptor, off_t(start + offset), 0)
        if data < 0 { return errno == ENXIO ? nil : offset..<size }
        let first = UInt64(data) - start
        guard first < size else { return nil }
        let hole = chost_seek(descriptor, data, 1)
        return first..<(hole < 0 ? size : min(size, UInt64(hole) - start))
    }

    /// Bytes that the file occupies on its file system.
    var allocatedBytes: UInt64 {
        var information = stat()
        // SAFETY: `information` outlives the call.
        guard unsafe fstat(descriptor, &information) == 0 else { return 0 }
        return UInt64(max(0, information.st_blocks)) * 512
    }

    /// When the file was last changed: nanoseconds since 1970.
    public var modified: UInt64 {
        var information = stat()
        // SAFETY: `information` outlives the call.
        guard unsafe fstat(descriptor, &information) == 0 else { return 0 }
        #if canImport(Glibc)
            let time = information.st_mtim
        #else
            let time = information.st_mtimespec
        #endif
        return UInt64(max(0, time.tv_sec)) &* 1_000_000_000 &+ UInt64(max(0, time.tv_nsec))
    }

    /// The path without links and dots, or as it was given where that is gone.
    var realPath: String { resolvedPath(path) ?? path }

    /// Device and inode: the same for two names of one file.
    var identity: [UInt64] {
        var information = stat()
        // SAFETY: `information` outlives the call.
        guard unsafe fstat(descriptor, &information) == 0 else { return [] }
        return [UInt64(information.st_dev), UInt64(information.st_ino), start]
    }
}

/// `path` without links and dots; nil with errno set.
func resolvedPath(_ path: String) -> String? {
    guard let resolved = unsafe realpath(path, nil) else { return nil }
    // SAFETY: realpath allocated a NUL-terminated string, freed once.
    defer { unsafe free(resolved) }
    return unsafe String(cString: resolved)
}
