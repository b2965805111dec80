// SPDX-License-Identifier: Apache-2.0
// The machine's end of the control socket: a thread that accepts, and one for each conversation.

import Machine
import Synchronization

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// Serves one machine's control socket. Any thread.
final class ControlServer: Sendable {
    /// Conversations at a time; more wait in the listener's queue of the kernel.
    private static let mostConversations = 16
    /// A client that says nothing for this long is dropped.
    private static let patience = 10

    private let listener: UnixSocket
    private let path: String
    /// For `Machine.serveSockets`.
    let vsockPath: String
    private let isRemoved = Atomic<Bool>(false)
    private let conversations = Atomic<Int>(0)
    /// Set for ever when the name is free again.
    private let removed: WakeSignal

    /// Claims `name` in `folder`.
    init(_ name: MachineName, in folder: RuntimeFolder) throws {
        removed = try WakeSignal()
        listener = try folder.claim(name)
        path = folder.socketPath(name)
        vsockPath = folder.vsockPath(name)
    }

    /// Answers from now on for `control`.
    func serve(_ control: MachineControl, as description: MachineDescription) throws {
        try HostThread.start { [self] in
            while !isRemoved.load(ordering: .relaxed), let connection = listener.accept() {
                while conversations.load(ordering: .relaxed) >= Self.mostConversations { usleep(10_000) }
                conversations.wrappingAdd(1, ordering: .relaxed)
                let conversation = Conversation(
                    connection: connection, control: control, description: description, removed: removed,
                    agent: GuestAgent(path: vsockPath, control: control))
                do {
                    try HostThread.start { [self] in
                        conversation.run(patience: Self.patience)
                        conversations.wrappingSubtract(1, ordering: .relaxed)
                    }
                } catch {
                    conversations.wrappingSubtract(1, ordering: .relaxed)
                }
            }
        }
    }

    /// Frees the name. Idempotent.
    func remove() {
        guard !isRemoved.exchange(true, ordering: .sequentiallyConsistent) else { return }
        unsafe unlink(path)
        unsafe unlink(vsockPath)
        listener.shutDown()
        removed.set()
    }

    deinit { remove() }
}

/// One client.
private struct Conversation: Sendable {
    let connection: UnixSocket
    let control: MachineControl
    let description: MachineDescription
    let removed: WakeSignal
    let agent: GuestAgent

    func run(patience: Int) {
        guard connection.peerIsTrusted else {
            send(.error("this machine belongs to another user"))
            return
        }
        connection.setReadTimeout(seconds: patience)
        var reader = LineReader(limit: ControlCodec.longestLine)
        while true {
            while let line = reader.next() {
                let reply = answer(line)
                let isHeard = send(reply)
                // Not before the client has its answer: the process ends with the machine.
                if reply.snapshot?.endsMachine == true {
                    control.stop()
                    waitForRemoval()
                    return
                }
                guard isHeard else { return }
            }
            guard !reader.isOverlong, case .bytes(let bytes) = connection.receive() else { return }
            reader.append(bytes)
        }
    }

    @discardableResult private func send(_ reply: ControlReply) -> Bool {
        guard let line = try? ControlCodec.encode(reply) else { return false }
        return connection.send(line)
    }

    private func answer(_ line: [UInt8]) -> ControlReply {
        do {
            let request = try ControlCodec.decodeRequest(line)
            switch request.command {
            case .status:
                var now = description
                now.activity = control.activity
                return ControlReply(event: .result, machine: now)
            case .pause: try control.pause()
            case .resume: try control.resume()
            case .stop:
                control.stop()
                waitForRemoval()
            case .snapshot:
                guard let path = request.path, path.hasPrefix("/") else {
                    return .error("a snapshot needs an absolute path")
                }
                let report = try snapshot(
                    to: path,
                    SnapshotOptions(
                        refersToBases: request.baseByReference ?? false, endsMachine: request.stop ?? false))
                return ControlReply(event: .result, snapshot: report)
            case .balloon:
                guard let bytes = request.bytes else { return .error("a balloon needs bytes") }
                try control.adjust(.balloon(bytes: bytes))
            case .growDisk:
                guard let bytes = request.bytes, let disk = request.disk else {
                    return .error("a disk's new size needs a disk and bytes")
                }
                try control.adjust(.diskSize(id: disk, bytes: bytes))
            }
            return .done
        } catch {
            return .error("\(error)")
        }
    }

    /// The guest's agent makes it ready to be frozen, if there is one, and lets it go on when its state is copied.
    private func snapshot(to path: String, _ options: SnapshotOptions) throws -> SnapshotReport {
        let isPrepared = agent.prepare()
        defer {
            if isPrepared, !options.endsMachine { agent.proceed() }
        }
        var report = try control.snapshot(to: path, options) { fraction in send(.progress(fraction)) }
        if options.endsMachine { report.endsMachine = true }
        return report
    }

    private func waitForRemoval() {
        var waiting = [pollfd(fd: removed.descriptor, events: Int16(POLLIN), revents: 0)]
        // SAFETY: one descriptor; `removed` stays set, so many may wait for it.
        while unsafe poll(&waiting, 1, -1) < 0, errno == EINTR {}
    }
}
