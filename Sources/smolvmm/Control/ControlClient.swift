// SPDX-License-Identifier: Apache-2.0
// The other end of the control socket: commands that talk to a running machine.

import Machine

/// One conversation with the machine `name`.
struct ControlClient {
    let name: MachineName
    private let connection: UnixSocket

    /// Talks over a connection that is there already.
    init(_ name: MachineName, _ connection: UnixSocket) {
        self.name = name
        self.connection = connection
    }

    /// - Throws: when no such machine runs.
    init(_ name: MachineName, in folder: RuntimeFolder) throws(CommandError) {
        guard let connection = try folder.connect(name) else {
            throw CommandError("no machine \(name) is running: 'smolvmm list' shows those that are")
        }
        self.init(name, connection)
    }

    /// Asks and waits for the result.
    /// - Parameters:
    ///   - timeout: seconds of silence after which the machine counts as hung; nil is for ever.
    ///   - progress: takes 0 to 1.
    /// - Returns: nil when the machine ended before it answered.
    func ask(
        _ request: ControlRequest, timeout: Int? = nil, progress: ((Double) -> Void)? = nil
    ) throws(CommandError) -> ControlReply? {
        guard connection.peerIsTrusted else { throw CommandError("machine \(name) belongs to another user") }
        if let timeout { connection.setReadTimeout(seconds: timeout) }
        guard connection.send(try ControlCodec.encode(request)) else { return nil }
        var reader = LineReader(limit: ControlCodec.longestLine)
        while true {
            while let line = reader.next() {
                let reply = try ControlCodec.decode(line, as: ControlReply.self)
                switch reply.event {
                case .progress: progress?(reply.fraction ?? 0)
                case .result: return reply
                case .error: throw CommandError("machine \(name): \(reply.message ?? "it refused")")
                }
            }
            switch connection.receive() {
            case .bytes(let bytes): reader.append(bytes)
            case .end: return nil
            case .timeout: throw CommandError("machine \(name) does not answer: is its process stopped?")
            }
            guard !reader.isOverlong else {
                throw CommandError("machine \(name) sent something that was not understood")
            }
        }
    }

    /// Waits until the machine ends the conversation.
    func waitForEnd() {
        while case .bytes = connection.receive() {}
    }
}
