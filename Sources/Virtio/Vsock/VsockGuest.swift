// SPDX-License-Identifier: Apache-2.0
// What the virtio socket device does with the guest's packets. Spec: virtio 1.2 §5.10.6.

extension VsockDevice {
    /// One packet; its data are in `chain` behind the header. A guest that breaks the rules loses the connection.
    func handle(_ header: VsockHeader, _ chain: DescriptorChain) {
        // What does not come from this guest is nobody's.
        guard header.source == VsockContext.guest else { return }
        let ports = VsockPorts(host: header.destinationPort, guest: header.sourcePort)
        guard header.destination == VsockContext.host, header.type == VsockHeader.stream,
            let operation = VsockOperation(rawValue: header.operation)
        else {
            refuse(header, ports)
            return
        }
        guard let connection = byPorts[ports] else {
            if operation == .request { accept(header, ports) } else { refuse(header, ports) }
            return
        }
        connection.updateGuest(header)
        switch operation {
        case .request:
            abort(connection)
        case .response where connection.phase == .requested:
            open(connection)
        case .response: abort(connection)
        case .reset: drain(connection)
        case .shutdown: shutDown(connection, VsockShutdown(rawValue: header.flags))
        case .data: take(header, chain, connection)
        case .creditUpdate: break
        case .creditRequest: queue(.creditUpdate, ports)
        }
        enqueue(connection)
    }

    /// Answers a packet that belongs to no connection; resets are never answered.
    private func refuse(_ header: VsockHeader, _ ports: VsockPorts) {
        guard header.operation != VsockOperation.reset.rawValue else { return }
        if let connection = byPorts[ports] { abort(connection) } else { queue(.reset, ports) }
    }

    /// Ends a connection at once.
    func abort(_ connection: VsockConnection) {
        queue(.reset, connection.ports)
        drain(connection)
    }

    /// The guest connects to a port of the host's: whoever listens at `PATH_PORT` gets the stream.
    private func accept(_ header: VsockHeader, _ ports: VsockPorts) {
        guard !path.isEmpty, connections.count < Self.largestCount,
            let socket = HostSocket.connect(to: "\(path)_\(ports.host)"),
            let connection = add(socket, .open, ports)
        else {
            queue(.reset, ports)
            return
        }
        byPorts[ports] = connection
        connection.updateGuest(header)
        queue(.response, ports)
    }

    /// The guest takes a connection of the host's.
    private func open(_ connection: VsockConnection) {
        connection.phase = .open
        // The socket is new: a line always fits.
        let line = Array("OK \(connection.ports.host)\n".utf8)
        guard connection.socket.send(line[...]) == .done(line.count) else {
            abort(connection)
            return
        }
    }

    /// The guest's bytes: to the host at once when nothing is before them and there is room, or kept.
    private func take(_ header: VsockHeader, _ chain: DescriptorChain, _ connection: VsockConnection) {
        let isWhole = chain.readableCount >= UInt64(VsockHeader.size) + UInt64(header.length)
        guard connection.phase == .open, isWhole, connection.accepts(header.length),
            !connection.guestShutdown.contains(.send)
        else {
            abort(connection)
            return
        }
        var isGone = connection.hostShutdown.contains(.receive)
        unsafe chain.forEachReadable(from: VsockHeader.size, limit: Int(header.length)) { part in
            var done = 0
            if isGone {
                done = part.count
            } else if connection.outgoing.isEmpty {
                switch unsafe connection.socket.send(part) {
                case .done(let count): done = count
                case .later: break
                case .closed:
                    isGone = true
                    done = part.count
                }
            }
            connection.didForward(done)
            if done < part.count { unsafe connection.keep(UnsafeRawBufferPointer(rebasing: part[done...])) }
        }
        if isGone { hostStopsReading(connection) }
        if !connection.outgoing.isEmpty { awaitRoom(connection) }
        queueCredit(connection)
    }

    private func shutDown(_ connection: VsockConnection, _ flags: VsockShutdown) {
        let before = connection.guestShutdown
        connection.guestShutdown.formUnion(flags.intersection(.both))
        guard connection.guestShutdown != .both, connection.phase == .open else {
            abort(connection)
            return
        }
        if flags.contains(.receive) { connection.socket.shutDown(reading: true) }
        if flags.contains(.send), !before.contains(.send), connection.outgoing.isEmpty {
            connection.socket.shutDown(reading: false)
        }
    }
}
