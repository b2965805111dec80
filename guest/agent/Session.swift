// SPDX-License-Identifier: Apache-2.0
// One conversation with the host, from its hello to its end. docs/agent-protocol.md.

import CLibc

struct Session {
    /// A clock that differs by less is left alone.
    private static let clockTolerance: Int64 = 250_000_000

    private let stream: FrameStream
    private let randomDevice = open_random_device()

    /// A session over `connection`, which need not have begun.
    init(_ connection: Int32) { stream = FrameStream(connection) }

    func run(isReady: Bool) {
        do throws(FrameError) {
            let first = try stream.receive()
            guard first.kind == .hello else { throw .unexpected }
            guard try Hello.version(of: first.payload) == AgentProtocol.version else {
                try stream.send(Greeting(isReady: isReady).frame)
                return
            }
            // Before anything else: whatever runs because of this conversation finds its machine's own numbers and time.
            arrive(try Hello(first.payload))
            let greeting = Greeting(isReady: isReady).frame
            guard let request = try stream.next() else {
                try stream.send(greeting)
                return try answer(try stream.receive())
            }
            if request.kind == .execute {
                // A short command is told of in one piece.
                try execute(request.payload, greeting)
            } else {
                try stream.send(greeting)
                try answer(request)
            }
        } catch {
            // The host has gone or broken the rules: there is nobody to tell.
        }
    }

    private func arrive(_ hello: Hello) {
        if !hello.entropy.isEmpty {
            // SAFETY: `stir` reads at most the array's own count.
            unsafe hello.entropy.withUnsafeBytes { unsafe _ = stir(randomDevice, $0.baseAddress, Int32($0.count)) }
        }
        let wanted = Int64(clamping: hello.wallClock)
        guard wanted > 0 else { return }
        let difference = wanted &- clock_nanoseconds()
        if difference.magnitude > Self.clockTolerance.magnitude { _ = set_clock(wanted) }
    }

    private func answer(_ request: Frame) throws(FrameError) {
        switch request.kind {
        case .execute: try execute(request.payload, nil)
        case .copyIn: try receive(request.payload)
        case .copyOut: try send(request.payload)
        case .prepare:
            sync()
            trim_file_systems()
            Freezer.freeze()
            try stream.send(Frame(.done))
        case .proceed:
            Freezer.thaw()
            try stream.send(Frame(.done))
        default:
            try stream.send(Failure(.other, [UInt8]("the agent does not know this request")).frame)
        }
    }

    private func execute(_ request: [UInt8], _ greeting: Frame?) throws(FrameError) {
        // A copy whose processes still stand: its pool and clock are right by now.
        Freezer.thaw()
        try RunningCommand(stream, try Execute(request), greeting: greeting).run()
    }

    private func receive(_ path: [UInt8]) throws(FrameError) {
        let skipped: [[UInt8]]
        do throws(TreeError) {
            var receiver: TreeReceiver
            do throws(Failure) { receiver = try TreeReceiver(stream, into: path) } catch { throw .failure(error) }
            try receiver.receive()
            skipped = receiver.skipped
        } catch {
            return try end(error)
        }
        for text in skipped { try stream.queue(Frame(.skipped, text)) }
        try stream.send(Frame(.done))
    }

    private func send(_ path: [UInt8]) throws(FrameError) {
        do throws(TreeError) {
            var sender = TreeSender(stream)
            try sender.send(path)
        } catch {
            return try end(error)
        }
        // The host says when it has everything.
        _ = try stream.receive()
    }

    private func end(_ error: TreeError) throws(FrameError) {
        switch error {
        case .conversation(let error): throw error
        case .failure(let failure): try stream.send(failure.frame)
        }
    }
}
