// SPDX-License-Identifier: Apache-2.0
// A folder of its own for each test, images of every kind, QEMU's tools, and random numbers that are the same each time.

import DiskImage
import Testing

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// A folder that is removed with everything in it.
final class TemporaryFolder {
    let path: String

    init() throws {
        // Not in /tmp, which may have no direct I/O.
        var template = Array("/var/tmp/smolvmm-test-XXXXXX".utf8CString)
        // SAFETY: the template is NUL-terminated.
        guard unsafe mkdtemp(&template) != nil else { throw HostError(code: errno) }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit { _ = runProgram(["rm", "-rf", path]) }

    func file(_ name: String) -> String { path + "/" + name }
}

struct HostError: Error { let code: Int32 }

/// Runs a program to its end; nil when there is no such program.
func runProgram(_ arguments: [String]) -> (status: Int32, output: String)? {
    var ends: [Int32] = [0, 0]
    // SAFETY: pipe writes two descriptors.
    guard unsafe pipe(&ends) == 0 else { return nil }
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    var actions = unsafe posix_spawn_file_actions_t()
    unsafe posix_spawn_file_actions_init(&actions)
    unsafe posix_spawn_file_actions_adddup2(&actions, ends[1], 1)
    unsafe posix_spawn_file_actions_adddup2(&actions, ends[1], 2)
    var process = pid_t()
    var words = unsafe arguments.map { unsafe strdup($0) }
    unsafe words.append(nil)
    // SAFETY: the words are NUL-terminated and the list ends with nil.
    let result = unsafe posix_spawnp(&process, arguments[0], &actions, nil, &words, environ)
    for index in 0..<arguments.count { unsafe free(words[index]) }
    unsafe posix_spawn_file_actions_destroy(&actions)
    close(ends[1])
    defer { close(ends[0]) }
    guard result == 0 else { return nil }
    var output: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 4096)
    while true {
        // SAFETY: `buffer` has the count that is passed.
        let count = unsafe read(ends[0], &buffer, buffer.count)
        if count < 0, errno == EINTR { continue }
        guard count > 0 else { break }
        output += buffer[0..<count]
    }
    var status: Int32 = 0
    while unsafe waitpid(process, &status, 0) < 0, errno == EINTR {}
    return ((status >> 8) & 0xff, String(decoding: output, as: UTF8.self))
}

func writeFile(_ bytes: [UInt8], to path: String) throws {
    let descriptor = unsafe open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { throw HostError(code: errno) }
    defer { close(descriptor) }
    var done = 0
    while done < bytes.count {
        // SAFETY: `done` is below the count.
        let count = unsafe bytes.withUnsafeBytes { buffer in
            guard let start = buffer.baseAddress else { return 0 }
            return unsafe write(descriptor, start + done, buffer.count - done)
        }
        guard count > 0 else { throw HostError(code: errno) }
        done += count
    }
}

func readFile(_ path: String) throws -> [UInt8] {
    let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw HostError(code: errno) }
    defer { close(descriptor) }
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 20)
    while true {
        // SAFETY: `buffer` has the count that is passed.
        let count = unsafe read(descriptor, &buffer, buffer.count)
        guard count > 0 else { return bytes }
        bytes += buffer[0..<count]
    }
}

/// SplitMix64: the same numbers for the same seed.
struct Chance: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ (value >> 30)) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ (value >> 27)) &* 0x94d0_49bb_1331_11eb
        return value ^ (value >> 31)
    }

    mutating func below(_ limit: UInt64) -> UInt64 { next(upperBound: limit) }
    mutating func oneIn(_ count: UInt64) -> Bool { below(count) == 0 }

    mutating func bytes(_ count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count + 8)
        while bytes.count < count {
            let word = next()
            for shift in stride(from: UInt64(0), to: 64, by: 8) {
                bytes.append(UInt8(truncatingIfNeeded: word >> shift))
            }
        }
        bytes.removeLast(bytes.count - count)
        return bytes
    }
}

/// A kind of image, and what it lies on.
struct ImageKind: CustomTestStringConvertible, Sendable {
    enum Backing { case none, raw, shortRaw, qcow2 }

    let testDescription: String
    /// Nil: raw.
    var options: Qcow2Options?
    var backing = Backing.none
    var isDirect = false
    /// Writes go to an overlay that is thrown away.
    var isScratch = false
    /// Of the disk, in bytes.
    var size: UInt64 = 5 << 20 | 7 << 9

    init(_ description: String, _ change: (inout ImageKind) -> Void = { _ in }) {
        testDescription = description
        change(&self)
    }

    private static func qcow2(
        _ description: String, backing: Backing = .none, _ change: (inout Qcow2Options) -> Void = { _ in }
    ) -> Self {
        Self("qcow2, " + description) {
            var options = Qcow2Options()
            change(&options)
            $0.options = options
            $0.backing = backing
        }
    }

    static let all: [Self] = [
        Self("raw"),
        Self("raw, direct") { $0.isDirect = true },
        qcow2("version 2") { $0.version = 2 },
        qcow2("clusters of 512 bytes") { $0.clusterSize = 512 },
        qcow2("clusters of 4 KiB, refcounts of 1 bit") {
            $0.clusterSize = 4096; $0.refcountBits = 1
        },
        qcow2("clusters of 64 KiB, refcounts of 64 bits") { $0.refcountBits = 64 },
        qcow2("clusters of 2 MiB") { $0.clusterSize = 2 << 20 },
        qcow2("lazy refcounts") {
            $0.clusterSize = 4096; $0.hasLazyRefcounts = true
        },
        qcow2("subclusters") {
            $0.clusterSize = 32 << 10; $0.hasExtendedL2 = true
        },
        qcow2("version 2 on qcow2", backing: .qcow2) {
            $0.version = 2; $0.clusterSize = 8 << 10
        },
        qcow2("on raw", backing: .raw),
        qcow2("on raw that is shorter", backing: .shortRaw) { $0.clusterSize = 16 << 10 },
        qcow2("subclusters on qcow2", backing: .qcow2) { $0.hasExtendedL2 = true },
        Self("qcow2, direct") {
            $0.options = Qcow2Options(); $0.isDirect = true
        },
        Self("overlay that is thrown away") {
            $0.backing = .raw; $0.isScratch = true
        },
    ]

    /// Those that can be killed and opened again.
    static let durable = all.filter { !$0.isScratch && !$0.isDirect }

    /// Makes the image in `folder`; returns its path and what the disk has at first.
    func make(in folder: TemporaryFolder, _ chance: inout Chance) throws -> (path: String, content: [UInt8]) {
        var content = [UInt8](repeating: 0, count: Int(size))
        let base = folder.file("base")
        let path = isScratch ? base : folder.file("image")
        let baseSize = backing == .shortRaw ? Int(size) / 2 & ~511 : Int(size)
        if backing != .none {
            let bytes = chance.bytes(baseSize)
            // With holes, which read as zero.
            for start in stride(from: 0, to: baseSize - 100_000, by: 300_000) {
                content.replaceSubrange(start..<start + 100_000, with: bytes[start..<start + 100_000])
            }
            try writeFile(Array(content[..<baseSize]), to: backing == .qcow2 ? base + ".raw" : base)
            if backing == .qcow2 {
                var conversion = DiskConversion()
                conversion.format = .qcow2
                try DiskTools.convert(try DiskImage.open(path: base + ".raw"), to: base, conversion)
            }
        }
        guard !isScratch else { return (path, content) }
        let format: DiskFormat = backing == .qcow2 ? .qcow2 : .raw
        try DiskTools.create(
            path: path, format: options == nil ? .raw : .qcow2, size: size,
            base: backing == .none ? nil : DiskBase(name: "base", format: format), options ?? Qcow2Options())
        return (path, content)
    }

    func open(_ path: String, in folder: TemporaryFolder) throws -> DiskImage {
        var options = DiskOpenOptions()
        options.isDirect = isDirect
        if isScratch {
            options.scratchFolder = folder.path
            options.format = .raw
        }
        // A program that another test is about to start has copies of all descriptors, and their locks, until it runs.
        for _ in 0..<100 {
            do throws(DiskImageError) { return try DiskImage.open(path: path, options) } catch {
                guard case .inUse = error else { throw error }
                usleep(20_000)
            }
        }
        return try DiskImage.open(path: path, options)
    }
}
