// SPDX-License-Identifier: Apache-2.0
// Unix stream sockets that never block, and the waiting for many of them at once. Spec: unix(7), epoll(7).

internal import CHost

#if canImport(Glibc)
    internal import Glibc
    private let noSignal = Int32(MSG_NOSIGNAL)
    private let peekOnly = Int32(MSG_PEEK)
#else
    internal import Darwin
    private let noSignal: Int32 = 0
    private let peekOnly = MSG_PEEK
#endif

/// One end of a Unix socket. Closes its descriptor.
final class HostSocket {
    enum Sent: Equatable {
        case done(Int)
        /// There is no room now.
        case later
        case closed
    }

    enum Received: Equatable {
        case done(Int)
        /// There is nothing now.
        case later
        case end
    }

    let descriptor: Int32

    /// Takes over `descriptor`.
    private init(_ descriptor: Int32) { self.descriptor = descriptor }

    deinit { close(descriptor) }

    private static func make() -> HostSocket? {
        let descriptor = chost_unix_stream()
        return descriptor >= 0 ? HostSocket(descriptor) : nil
    }

    /// A listener at `path`, for its owner only; nil with `errno` set.
    static func listen(at path: String) -> HostSocket? {
        guard let listener = make() else { return nil }
        // The folder is closed to others, so nobody gets in before the mode is set.
        guard unsafe chost_bind_unix(listener.descriptor, path) == 0, unsafe chmod(path, 0o600) == 0,
            systemListen(listener.descriptor)
        else { return nil }
        return listener
    }

    /// A connection to the listener at `path`; nil when there is none that takes it at once.
    static func connect(to path: String) -> HostSocket? {
        guard let connection = make() else { return nil }
        return unsafe chost_connect_unix(connection.descriptor, path) == 0 ? connection : nil
    }

    /// The next connection; nil with `errno` set.
    func accept() -> HostSocket? {
        let connection = chost_accept_stream(descriptor)
        return connection >= 0 ? HostSocket(connection) : nil
    }

    /// Sends the start of `bytes`, not empty.
    func send(_ bytes: ArraySlice<UInt8>) -> Sent { unsafe bytes.withUnsafeBytes { unsafe send($0) } }

    func send(_ bytes: UnsafeRawBufferPointer) -> Sent {
        while true {
            // SAFETY: the buffer's own count.
            let count = unsafe systemSend(descriptor, bytes.baseAddress, bytes.count)
            if count >= 0 { return .done(count) }
            if errno == EAGAIN { return .later }
            if errno != EINTR { return .closed }
        }
    }

    /// Reads up to `limit` bytes into the start of `buffer`.
    func receive(_ buffer: inout [UInt8], limit: Int, peek: Bool = false) -> Received {
        let limit = min(limit, buffer.count)
        while true {
            // SAFETY: `limit` is at most the buffer's count.
            let count = unsafe recv(descriptor, &buffer, limit, peek ? peekOnly : 0)
            if count > 0 { return .done(count) }
            if count < 0, errno == EAGAIN { return .later }
            if count < 0, errno == EINTR { continue }
            // An end that closed without having read everything shows as an error.
            return .end
        }
    }

    func shutDown(reading: Bool) { _ = shutdown(descriptor, Int32(reading ? SHUT_RD : SHUT_WR)) }
}

// The C library's functions, which methods of the same names hide.

private func systemListen(_ descriptor: Int32) -> Bool { listen(descriptor, 128) == 0 }
private func systemSend(_ descriptor: Int32, _ bytes: UnsafeRawPointer?, _ count: Int) -> Int {
    // SAFETY: the caller's buffer has `count` bytes.
    unsafe send(descriptor, bytes, count, noSignal)
}

/// Tells of changes at sockets, each once.
final class HostPoller {
    struct Event {
        let token: UInt64
        let isReadable: Bool
        let isWritable: Bool
        /// Both directions are closed.
        let isHungUp: Bool
    }

    /// Readable while there is something to tell.
    let descriptor: Int32
    private var changes = [chost_change](repeating: chost_change(), count: Int(CHOST_CHANGE_LIMIT))

    /// Nil with `errno` set.
    init?() {
        descriptor = chost_poller_make()
        guard descriptor >= 0 else { return nil }
    }

    deinit { close(descriptor) }

    /// Watches `socket` as `token`, for room to write only when asked to. The end of a socket's life ends it.
    func watch(_ socket: HostSocket, as token: UInt64, writing: Bool = false, again: Bool = false) -> Bool {
        chost_poller_watch(descriptor, socket.descriptor, token, writing ? 1 : 0, again ? 1 : 0) == 0
    }

    /// What has changed since the last call, if not too much. Does not wait.
    func take() -> [Event] {
        // SAFETY: `changes` has as many elements as the call fills at most.
        let count = unsafe chost_poller_take(descriptor, &changes)
        guard count > 0 else { return [] }
        return changes[..<Int(count)].map { change in
            Event(
                token: change.token, isReadable: change.flags & UInt32(CHOST_READABLE) != 0,
                isWritable: change.flags & UInt32(CHOST_WRITABLE) != 0,
                isHungUp: change.flags & UInt32(CHOST_HUNG_UP) != 0)
        }
    }
}
