// SPDX-License-Identifier: Apache-2.0
// A command that runs for the host: its input, output and end, between pipes or a terminal and the conversation.

import CLibc

/// Nothing here waits but `poll`: whatever the command does not take or the host does not read holds up only itself.
final class RunningCommand {
    private static let outputSize = AgentProtocol.dataSize
    /// Milliseconds that a command has for its end before its start is told: short ones are told in one piece.
    private static let shortTime: Int32 = 5

    private let stream: FrameStream
    private let command: Execute
    private let children = child_signals()

    private var process: pid_t = 0
    /// The command's standard input, output and error; a terminal is all of them. -1 when closed.
    private var input: Int32 = -1
    private var output: Int32 = -1
    private var errorOutput: Int32 = -1
    /// Input that the command has not taken, and whether more may come.
    private var pending = Outgoing()
    private var inputHasEnded = false
    /// Frames that the host has not taken, or is not told yet.
    private var outgoing = Outgoing()
    private var isHeldBack = true
    private var end: CommandEnd?
    /// The host has gone: the command goes on and nobody hears it.
    private var isAlone = false
    private var buffer: [UInt8] = []

    /// - Parameter greeting: what is said first, if it was not yet.
    init(_ stream: FrameStream, _ command: Execute, greeting: Frame?) {
        self.stream = stream
        self.command = command
        greeting?.append(to: &outgoing.bytes)
    }

    func run() throws(FrameError) {
        do throws(Failure) { try start() } catch { return end(with: error.frame) }
        Frame(.started).append(to: &outgoing.bytes)
        set_blocking(stream.descriptor, 0)
        // What came together with the request.
        while let frame = try stream.next() { take(frame) }
        while true {
            let isDrained = step()
            if let end, isDrained, isAlone || isHeldBack || outgoing.isEmpty { return self.end(with: end.frame) }
        }
    }

    /// Says the last words, if there is somebody to hear them.
    private func end(with frame: Frame) {
        guard !isAlone else { return }
        set_blocking(stream.descriptor, 1)
        frame.append(to: &outgoing.bytes)
        while !outgoing.isEmpty, outgoing.write(to: stream.descriptor) > 0 {}
    }

    // MARK: Start

    private func start() throws(Failure) {
        let start = try CommandStart(command)
        var path = [CChar](repeating: 0, count: 64)
        var pipes: [[Int32]] = []
        if let size = command.terminal {
            // SAFETY: `path` has the size that is passed.
            output = unsafe open_terminal(&path, 64)
            guard output >= 0 else { throw refused("a terminal") }
            set_window(output, size.columns, size.rows)
            input = output
        } else {
            for _ in 0..<3 {
                var ends: [Int32] = [-1, -1]
                // SAFETY: pipe2 writes two descriptors.
                guard unsafe make_pipe(&ends) == 0 else { throw refused("a pipe") }
                pipes.append(ends)
            }
            input = pipes[0][1]
            output = pipes[1][0]
            errorOutput = pipes[2][0]
        }
        let report = StartReport()
        let descriptors = pipes.isEmpty ? nil : (pipes[0][0], pipes[1][1], pipes[2][1])
        process = Freezer.spawn { start.run(descriptors: descriptors, terminalPath: path, report: report) }
        guard process >= 0 else { throw refused("a process") }
        for (index, ends) in pipes.enumerated() { Kernel.close(index == 0 ? ends[0] : ends[1]) }
        if let failure = report.failure {
            _ = waitpid(process, nil, 0)
            throw explain(failure.step, failure.error)
        }
        for descriptor in [input, output, errorOutput] where descriptor >= 0 { set_blocking(descriptor, 0) }
        if !command.hasInput { endInput() }
    }

    private func refused(_ what: StaticString) -> Failure {
        Failure(.other, [UInt8]("the guest refused ") + [UInt8](what) + [UInt8](": ") + [UInt8](error: last_error()))
    }

    private func explain(_ step: CommandStart.Step, _ error: Int32) -> Failure {
        func tell(_ reason: Failure.Reason, _ what: StaticString, _ name: [UInt8]) -> Failure {
            Failure(reason, [UInt8](what) + [UInt8](" '") + name + [UInt8]("': ") + [UInt8](error: error))
        }
        switch step {
        case .user: return tell(.other, "cannot become the user", command.user)
        case .folder: return tell(.other, "cannot go to the folder", command.folder)
        case .terminal: return tell(.other, "cannot use the terminal for", command.arguments[0])
        case .program:
            return tell(error == ENOENT ? .notFound : .notExecutable, "cannot run", command.arguments[0])
        }
    }

    // MARK: The loop

    /// Waits for something and does it. Returns whether all that an ended command has said was taken.
    private func step() -> Bool {
        let mayRead = outgoing.isEmpty || isHeldBack || isAlone
        var waiting = [
            pollfd(
                fd: isAlone ? -1 : stream.descriptor,
                events: Int16(POLLIN) | (outgoing.isEmpty || isHeldBack ? 0 : Int16(POLLOUT)), revents: 0),
            pollfd(fd: children, events: Int16(POLLIN), revents: 0),
            pollfd(fd: mayRead ? output : -1, events: Int16(POLLIN), revents: 0),
            pollfd(fd: mayRead ? errorOutput : -1, events: Int16(POLLIN), revents: 0),
            pollfd(fd: pending.isEmpty ? -1 : input, events: Int16(POLLOUT), revents: 0),
        ]
        // An ended command's last words are there already.
        let patience = end != nil && mayRead ? 0 : isHeldBack ? Self.shortTime : -1
        // SAFETY: as many descriptors as the count says.
        let changes = unsafe poll(&waiting, 5, patience)
        if changes == 0, end == nil { speak() }
        if waiting[1].revents != 0 { noteEnd() }
        if waiting[0].revents & ~Int16(POLLOUT) != 0 { hear() }
        if waiting[0].revents & Int16(POLLOUT) != 0 { speak() }
        if waiting[4].revents != 0 { feed() }
        guard mayRead else { return false }
        var isDrained = true
        if waiting[2].revents != 0, listen(&output, .output, waiting[2].revents) { isDrained = false }
        if waiting[3].revents != 0, listen(&errorOutput, .errorOutput, waiting[3].revents) { isDrained = false }
        return isDrained && waiting[1].revents == 0
    }

    private func noteEnd() {
        drain_signals(children)
        var status: Int32 = 0
        // SAFETY: fills one status word.
        guard unsafe waitpid(process, &status, WNOHANG) == process else { return }
        let value = UInt8(truncatingIfNeeded: status_value(status))
        end = status_is_exit(status) != 0 ? .status(value) : .signal(value)
        pending.clear()
    }

    /// What the host says.
    private func hear() {
        do throws(FrameError) {
            guard try stream.fill() else { throw .closed }
            while let frame = try stream.next() { take(frame) }
        } catch {
            isAlone = true
            outgoing.clear()
            endInput()
            // A terminal without anybody hangs up; other commands go on.
            if command.terminal != nil { _ = kill(-process, SIGHUP) }
        }
    }

    private func take(_ frame: Frame) {
        switch frame.kind {
        case .input:
            guard !inputHasEnded, end == nil, input >= 0,
                pending.count + frame.payload.count <= AgentProtocol.inputWindow
            else {
                accept(frame.payload.count)
                return
            }
            pending.bytes.append(copying: frame.payload[...])
            feed()
        case .endOfInput:
            inputHasEnded = true
            if pending.isEmpty { endInput() }
        case .signal:
            // To all that the command has started, as a terminal would.
            if let number = frame.payload.first, end == nil { _ = kill(-process, Int32(number)) }
        case .resize:
            if let size = try? WindowSize(frame.payload), command.terminal != nil, output >= 0 {
                set_window(output, size.columns, size.rows)
            }
        default: break
        }
    }

    /// Input that was handed on, or will never be, makes room for more.
    private func accept(_ count: Int) {
        guard count > 0, !isAlone else { return }
        var fields = FieldWriter()
        fields.add(UInt32(count))
        Frame(.accepted, fields.bytes).append(to: &outgoing.bytes)
        isHeldBack = false
    }

    private func feed() {
        guard input >= 0, !pending.isEmpty else { return }
        let count = pending.write(to: input)
        if count > 0 {
            accept(count)
        } else if last_error() != EAGAIN && last_error() != EINTR {
            // Nobody reads it any more.
            accept(pending.count)
            pending.clear()
            inputHasEnded = true
        }
        if inputHasEnded, pending.isEmpty { endInput() }
    }

    private func endInput() {
        inputHasEnded = true
        guard input >= 0 else { return }
        if command.terminal != nil {
            // The end of a terminal's input is a character: Ctrl-D.
            if command.hasInput { _ = Kernel.write([4], to: input) }
        } else {
            Kernel.close(input)
        }
        input = -1
    }

    private func speak() {
        isHeldBack = false
        _ = outgoing.write(to: stream.descriptor)
    }

    /// What the command says; false when there is nothing now or any more.
    private func listen(_ descriptor: inout Int32, _ kind: FrameKind, _ events: Int16) -> Bool {
        var count = 0
        if events & Int16(POLLIN) != 0 {
            if buffer.isEmpty { buffer = [UInt8](repeating: 0, count: Self.outputSize) }
            let source = descriptor
            // SAFETY: reads at most the buffer's own size.
            count = unsafe buffer.withUnsafeMutableBytes { unsafe read(source, $0.baseAddress, $0.count) }
            if count < 0, last_error() == EAGAIN || last_error() == EINTR { return false }
        }
        guard count > 0 else {
            // A terminal that nobody has open any more fails to read.
            if command.terminal == nil { Kernel.close(descriptor) }
            descriptor = -1
            return false
        }
        if !isAlone {
            Frame.append(kind, buffer[..<count], to: &outgoing.bytes)
            speak()
        }
        return true
    }
}

/// Bytes that are written as their reader takes them.
private struct Outgoing {
    var bytes: [UInt8] = []
    private var start = 0

    var count: Int { bytes.count - start }
    var isEmpty: Bool { count == 0 }

    mutating func clear() {
        bytes.removeAll(keepingCapacity: true)
        start = 0
    }

    /// Writes what `descriptor` takes now; returns how much that was, or a negative number.
    mutating func write(to descriptor: Int32) -> Int {
        let from = start
        // SAFETY: `from` is at most the count of the bytes.
        let done = unsafe bytes.withUnsafeBytes { bytes in
            unsafe CLibc.write(descriptor, bytes.baseAddress.map { unsafe $0 + from }, bytes.count - from)
        }
        if done > 0 {
            start += done
            if start == bytes.count {
                clear()
            } else if start > AgentProtocol.largestPayload {
                bytes.removeFirst(start)
                start = 0
            }
        }
        return done
    }
}
