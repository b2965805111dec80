// SPDX-License-Identifier: Apache-2.0
// A folder of its own for each test, files, and other programs.

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// A folder that is removed with everything in it.
public final class TemporaryFolder {
    public let path: String

    public init() throws {
        // Not in /tmp, which may have no direct I/O.
        var template = Array("/var/tmp/smolvmm-test-XXXXXX".utf8CString)
        // SAFETY: the template is NUL-terminated.
        guard unsafe mkdtemp(&template) != nil else { throw HostError(code: errno) }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit { _ = runProgram(["rm", "-rf", path]) }

    public func file(_ name: String) -> String { path + "/" + name }

    /// Names in the folder, hidden ones too.
    public var names: [String] {
        runProgram(["ls", "-A", path])?.output.split(separator: "\n").map(String.init) ?? []
    }
}

/// What a call of the host failed with.
public struct HostError: Error { public let code: Int32 }

/// Runs a program to its end; nil when there is no such program.
public func runProgram(_ arguments: [String]) -> (status: Int32, output: String)? {
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

/// Replaces the file at `path`.
public func writeFile(_ bytes: [UInt8], to path: String) throws {
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

/// All of the file at `path`.
public func readFile(_ path: String) throws -> [UInt8] {
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
