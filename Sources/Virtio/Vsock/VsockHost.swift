// SPDX-License-Identifier: Apache-2.0
// The virtio socket device's Unix sockets: whoever connects says `CONNECT PORT`, and the guest's own connections go to
// `PATH_PORT`, as Firecracker has it (docs/vsock.md).

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

extension VsockDevice {
    /// The poller's name for the listener.
    private static let listenerToken: UInt64 = 0
    /// Of the line `CONNECT 4294967295\n` and spaces.
    private static let longestGreeting = 64
    /// The host's end of a connection of its own has a port from here on.
    private static let firstHostPort: UInt32 = 1 << 30

    /// Serves host clients at `path` from now on, and the guest's own connections at `path_PORT`. Returns the error number
    /// of the host, or 0.
    public func listen(at path: String) -> Int32 {
        guard let poller = HostPoller(), let listener = HostSocket.listen(at: path),
            poller.watch(listener, as: Self.listenerToken)
        else { return errno }
        self.poller = poller
        self.listener = listener
        self.path = path
        return 0
    }

    /// Readable when `poll` has something to do; nil while nobody listens.
    public var descriptor: Int32? { poller?.descriptor }

    /// Looks after sockets that have changed.
    public func poll() {
        guard let poller else {
            if hasWork { service() }
            return
        }
        let events = poller.take()
        guard !events.isEmpty || hasWork || isAccepting else { return }
        if isAccepting { acceptClients() }
        for event in events {
            if event.token == Self.listenerToken {
                acceptClients()
            } else if let connection = connections[event.token] {
                handle(event, connection)
            }
        }
        service()
    }

    private func handle(_ event: HostPoller.Event, _ connection: VsockConnection) {
        if event.isHungUp { connection.isHungUp = true }
        if event.isReadable { connection.isReadable = true }
        switch connection.phase {
        case .greeting: greet(connection)
        case .waiting, .requested:
            // The client gave up.
            if event.isHungUp {
                if connection.phase == .requested { cancel(connection) }
                remove(connection)
            }
        case .open, .draining:
            if event.isWritable { flush(connection) }
            if event.isHungUp, connection.hostShutdown.contains(.send) { tell(.both, connection) }
            enqueue(connection)
        }
    }

    // MARK: The host's connections

    private func acceptClients() {
        isAccepting = false
        while let listener, let socket = listener.accept() {
            guard connections.count < Self.largestCount, isActive else { continue }
            if let connection = add(socket, .greeting, VsockPorts(host: 0, guest: 0)) { greet(connection) }
        }
        // Out of descriptors: the clients that wait are looked at again later.
        isAccepting = errno == EMFILE || errno == ENFILE
    }

    /// Reads `CONNECT PORT\n`, and not a byte more: what follows is the guest's.
    private func greet(_ connection: VsockConnection) {
        var buffer = [UInt8](repeating: 0, count: Self.longestGreeting)
        switch connection.socket.receive(&buffer, limit: buffer.count, peek: true) {
        case .later: return
        case .end: remove(connection)
        case .done(let count):
            guard let end = buffer[..<count].firstIndex(of: UInt8(ascii: "\n")) else {
                if count == buffer.count || connection.isHungUp { remove(connection) }
                return
            }
            let line = String(decoding: buffer[..<end], as: UTF8.self)
            _ = connection.socket.receive(&buffer, limit: end + 1)
            let words = line.split(whereSeparator: { $0 == " " || $0 == "\r" })
            guard words.count == 2, words[0].lowercased() == "connect", let port = UInt32(words[1]), isActive else {
                remove(connection)
                return
            }
            connection.ports.guest = port
            connection.phase = .waiting
            // More may be there already.
            connection.isReadable = true
            if mayAsk { ask(connection) }
        }
    }

    private func ask(_ connection: VsockConnection) {
        repeat {
            lastHostPort =
                lastHostPort < Self.firstHostPort || lastHostPort == .max ? Self.firstHostPort : lastHostPort + 1
            connection.ports.host = lastHostPort
        } while byPorts[connection.ports] != nil
        byPorts[connection.ports] = connection
        connection.phase = .requested
        queue(.request, connection.ports)
    }

    /// Asks for what had to wait until the guest had seen the transport's reset.
    func askWaiting() {
        for connection in connections.values.sorted(by: { $0.token < $1.token }) where connection.phase == .waiting {
            ask(connection)
        }
    }

    // MARK: Ends

    /// The host's end sends no more.
    func hostEnds(_ connection: VsockConnection) { tell(connection.isHungUp ? .both : .send, connection) }

    /// The host's end takes no more.
    func hostStopsReading(_ connection: VsockConnection) {
        connection.discard()
        tell(.receive, connection)
    }

    private func tell(_ flags: VsockShutdown, _ connection: VsockConnection) {
        guard connection.phase == .open, !connection.hostShutdown.isSuperset(of: flags) else { return }
        connection.hostShutdown.formUnion(flags)
        queue(.shutdown, connection.ports, flags: connection.hostShutdown)
    }

    /// Sends what is kept for the host.
    private func flush(_ connection: VsockConnection) {
        if !connection.flush(), connection.phase == .open { hostStopsReading(connection) }
        guard connection.outgoing.isEmpty else { return }
        _ = poller?.watch(connection.socket, as: connection.token, again: true)
        if connection.phase == .draining {
            remove(connection)
            return
        }
        if connection.guestShutdown.contains(.send) { connection.socket.shutDown(reading: false) }
        queueCredit(connection)
    }

    /// The poller shall tell when the host's end has room.
    func awaitRoom(_ connection: VsockConnection) {
        _ = poller?.watch(connection.socket, as: connection.token, writing: true, again: true)
    }

    /// The guest's end is gone; the ports are free.
    func drain(_ connection: VsockConnection) {
        if byPorts[connection.ports] === connection { byPorts[connection.ports] = nil }
        let wasOpen = connection.phase == .open
        connection.phase = .draining
        if !wasOpen || connection.outgoing.isEmpty { remove(connection) }
    }

    private func remove(_ connection: VsockConnection) {
        if byPorts[connection.ports] === connection { byPorts[connection.ports] = nil }
        connections[connection.token] = nil
        connection.phase = .draining
    }

    func endConnections() {
        dequeueAll()
        connections = [:]
        byPorts = [:]
    }

    /// Takes a socket up; nil when the host cannot watch it.
    func add(_ socket: HostSocket, _ phase: VsockConnection.Phase, _ ports: VsockPorts) -> VsockConnection? {
        lastToken += 1
        guard let poller, poller.watch(socket, as: lastToken) else { return nil }
        let connection = VsockConnection(token: lastToken, socket: socket, phase: phase, ports: ports)
        connections[lastToken] = connection
        return connection
    }
}
