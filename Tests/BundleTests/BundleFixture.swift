// SPDX-License-Identifier: Apache-2.0
// A folder of its own for each test, small machines to bundle, files and other programs.

import Bundle
import GuestMemory

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// A folder that is removed with everything in it.
final class TemporaryFolder {
    let path: String

    init() throws {
        var template = Array("/tmp/smolmachine-test-XXXXXX\0".utf8CString.dropLast())
        // SAFETY: the template is NUL-terminated.
        guard unsafe mkdtemp(&template) != nil else { throw HostError(errno) }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit { _ = runProgram(["rm", "-rf", path]) }

    func file(_ name: String) -> String { path + "/" + name }

    /// Names in the folder, hidden ones too.
    var names: [String] {
        runProgram(["ls", "-A", path])?.output.split(separator: "\n").map(String.init) ?? []
    }
}

struct HostError: Error {
    let code: Int32
    init(_ code: Int32) { self.code = code }
}

/// Runs a program with its standard output and error captured; nil when there is no such program.
func runProgram(_ arguments: [String]) -> (status: Int32, output: String)? {
    var ends: [Int32] = [0, 0]
    guard unsafe pipe(&ends) == 0 else { return nil }
    _ = fcntl(ends[0], F_SETFD, FD_CLOEXEC)
    _ = fcntl(ends[1], F_SETFD, FD_CLOEXEC)
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
        let count = unsafe read(ends[0], &buffer, buffer.count)
        if count < 0, errno == EINTR { continue }
        guard count > 0 else { break }
        output += buffer[0..<count]
    }
    var status: Int32 = 0
    while unsafe waitpid(process, &status, 0) < 0, errno == EINTR {}
    return ((status >> 8) & 0xff, String(decoding: output, as: UTF8.self))
}

func readFile(_ path: String) throws -> [UInt8] {
    let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw HostError(errno) }
    defer { close(descriptor) }
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while true {
        let count = unsafe read(descriptor, &buffer, buffer.count)
        guard count > 0 else { return bytes }
        bytes += buffer[0..<count]
    }
}

func writeFile(_ bytes: [UInt8], to path: String) throws {
    let descriptor = unsafe open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { throw HostError(errno) }
    defer { close(descriptor) }
    var done = 0
    while done < bytes.count {
        let rest = Array(bytes[done...])
        let count = unsafe write(descriptor, rest, rest.count)
        guard count > 0 else { throw HostError(errno) }
        done += count
    }
}

/// Bytes that do not compress, the same for the same seed.
func noise(_ count: Int, seed: UInt64) -> [UInt8] {
    var state = seed &* 0x9e37_79b9_7f4a_7c15 | 1
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + 8)
    while bytes.count < count {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        for shift in 0..<8 { bytes.append(UInt8(truncatingIfNeeded: state >> UInt64(shift * 8))) }
    }
    return Array(bytes[0..<count])
}

/// Guest RAM with something in its first, a middle and its last page.
func smallMemory(size: UInt64 = 1 << 20) throws -> GuestMemory {
    let memory = try GuestMemory(size: size)
    try memory.write(noise(700, seed: 1), at: GuestPhysicalAddress(0x1000))
    try memory.write(Array("hello from the middle".utf8), at: GuestPhysicalAddress(size / 2 + 5))
    try memory.write([1, 2, 3], at: GuestPhysicalAddress(size - 3))
    return memory
}

func smallContents(memory: GuestMemory) -> BundleContents {
    BundleContents(
        configuration: MachineConfiguration(
            name: "small", memoryBytes: memory.size, cpus: 1, cpuModel: "x86-64-v2", commandLine: "console=ttyS0"),
        parent: nil, states: [("vcpu0", Array(#"{ "rip" : 65520 }"#.utf8))], kernel: noise(300, seed: 2),
        initramfs: Array("070701".utf8), memory: memory)
}

/// The bytes of a valid small bundle.
func smallBundle() throws -> [UInt8] {
    let folder = try TemporaryFolder()
    let path = folder.file("small.smolmachine")
    _ = try BundleWriter.write(smallContents(memory: try smallMemory()), to: path)
    return try readFile(path)
}

/// All guest RAM, as bytes.
func ram(_ memory: GuestMemory) throws -> [UInt8] {
    var bytes: [UInt8] = []
    for range in memory.ranges { bytes += try memory.read(at: range.start, count: Int(range.size)) }
    return bytes
}

/// Opens `bytes` as a bundle and checks all of it.
func openAndVerify(_ bytes: [UInt8]) throws -> BundleReader {
    let folder = try TemporaryFolder()
    let path = folder.file("b.smolmachine")
    try writeFile(bytes, to: path)
    let reader = try BundleReader(path: path)
    _ = try reader.verify()
    return reader
}

/// What `body` throws, if it is the bundle's error.
func bundleError(_ body: () throws -> Void) -> BundleError? {
    do {
        try body()
        return nil
    } catch {
        return error as? BundleError
    }
}
