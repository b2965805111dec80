// SPDX-License-Identifier: Apache-2.0
// Stream sockets in the file system, unix(7): binding, connecting, and lines over them.

import CHost
import Host

#if canImport(Glibc)
    import Glibc
    private let streamSocket = Int32(SOCK_STREAM.rawValue)
#else
    import Darwin
    private let streamSocket = SOCK_STREAM
#endif

/// One end of a connection, or a listener. Closes its descriptor.
final class UnixSocket: Sendable {
    let descriptor: Int32

    /// Takes over `descriptor`.
    private init(_ descriptor: Int32) { self.descriptor = descriptor }

    deinit { close(descriptor) }

    private static func make() throws(CommandError) -> UnixSocket {
        let descriptor = socket(AF_UNIX, streamSocket, 0)
        guard descriptor >= 0 else { throw CommandError("the host refused a socket: \(errorText(errno))") }
        _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        return UnixSocket(descriptor)
    }

    /// The message for a path that no address has room for.
    private static func tooLong(_ path: String) -> CommandError {
        CommandError(
            "the socket's path \(path) has \(path.utf8.count) bytes, too many for a socket: "
                + "set XDG_RUNTIME_DIR to a shorter folder, or use a shorter name")
    }

    /// A listener at `path`, for its owner only.
    static func listen(at path: String) throws(CommandError) -> UnixSocket {
        let listener = try make()
        // The folder is closed to others, so nobody gets in before the mode is set.
        guard unsafe chost_bind_unix(listener.descriptor, path) == 0 else {
            if errno == ENAMETOOLONG { throw tooLong(path) }
            throw CommandError("cannot make the control socket \(path): \(errorText(errno))")
        }
        guard unsafe chmod(path, 0o600) == 0, systemListen(listener.descriptor) else {
            let code = errno
            unsafe unlink(path)
            throw CommandError("cannot use the control socket \(path): \(errorText(code))")
        }
        return listener
    }

    /// A connection to the listener at `path`; nil when there is none, or only a socket that nobody serves.
    static func connect(to path: String) throws(CommandError) -> UnixSocket? {
        let connection = try make()
        var result: Int32
        repeat {
            result = unsafe chost_connect_unix(connection.descriptor, path)
        } while result != 0 && errno == EINTR
        if result == 0 { return connection }
        if errno == ECONNREFUSED || errno == ENOENT { return nil }
        if errno == ENAMETOOLONG { throw tooLong(path) }
        throw CommandError("cannot reach the control socket \(path): \(errorText(errno))")
    }

    /// The next connection; nil when the listener is closed or broken.
    func accept() -> UnixSocket? {
        while true {
            let connection = systemAccept(descriptor)
            if connection >= 0 {
                _ = fcntl(connection, F_SETFD, FD_CLOEXEC)
                return UnixSocket(connection)
            }
            if errno == EINTR || errno == ECONNABORTED { continue }
            if errno == EMFILE || errno == ENFILE {
                usleep(100_000)
                continue
            }
            return nil
        }
    }

    /// Whether the process at the other end is this user's, or root's.
    var peerIsTrusted: Bool {
        var user: uid_t = 0
        // SAFETY: `user` outlives the call.
        guard unsafe chost_peer_user(descriptor, &user) == 0 else { return false }
        return user == geteuid() || user == 0
    }

    /// Reads fail after `seconds` of silence; 0: never.
    func setReadTimeout(seconds: Int) {
        var time = timeval(tv_sec: seconds, tv_usec: 0)
        // SAFETY: `time` has the size that is passed.
        unsafe _ = setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
    }

    /// Makes `accept` and reads return.
    func shutDown() { _ = shutdown(descriptor, Int32(SHUT_RDWR)) }

    /// Sends all of `bytes`; false when the other end is gone.
    func send(_ bytes: [UInt8]) -> Bool {
        var done = 0
        while done < bytes.count {
            // SAFETY: `done` is below `bytes.count`.
            let count = unsafe bytes.withUnsafeBytes { buffer in
                unsafe write(descriptor, buffer.baseAddress.map { unsafe $0 + done }, buffer.count - done)
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return false }
            done += count
        }
        return true
    }

    /// What `receive` came back with.
    enum Received: Equatable {
        case bytes([UInt8])
        case end
        case timeout
    }

    /// Reads up to `limit` bytes.
    func receive(limit: Int = 4096) -> Received {
        var buffer = [UInt8](repeating: 0, count: limit)
        while true {
            // SAFETY: `buffer` has the count that is passed.
            let count = unsafe read(descriptor, &buffer, buffer.count)
            if count > 0 { return .bytes(Array(buffer[..<count])) }
            if count < 0, errno == EINTR { continue }
            return count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? .timeout : .end
        }
    }
}

private func systemListen(_ descriptor: Int32) -> Bool { listen(descriptor, 16) == 0 }

private func systemAccept(_ descriptor: Int32) -> Int32 { accept(descriptor, nil, nil) }

/// Cuts a stream into lines.
struct LineReader {
    private var buffer: [UInt8] = []
    private let limit: Int

    init(limit: Int) { self.limit = limit }

    mutating func append(_ bytes: [UInt8]) { buffer += bytes }

    /// The next whole line without its line feed.
    mutating func next() -> [UInt8]? {
        guard let end = buffer.firstIndex(of: UInt8(ascii: "\n")) else { return nil }
        defer { buffer.removeFirst(end + 1) }
        return Array(buffer[..<end])
    }

    /// Whether a line has grown beyond the limit.
    var isOverlong: Bool { buffer.count > limit }
}
