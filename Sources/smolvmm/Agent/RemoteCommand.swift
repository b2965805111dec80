// SPDX-License-Identifier: Apache-2.0
// A command in the guest, with this process's standard input, output and error, its signals and its terminal.

import AgentProtocol
import Machine

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// Runs one command to its end. One thread; waits in `poll` only.
final class RemoteCommand {
    /// The status for what smolvmm itself could not do, and those that shells have for commands that cannot be run.
    static let refused: Int32 = 125
    private static let notExecutable: Int32 = 126
    private static let notFound: Int32 = 127
    /// A command that a signal ended has this and the signal's number.
    private static let signalBase: Int32 = 128
    /// A pipe that is ready takes this many bytes without blocking (PIPE_BUF).
    private static let largestWrite = 4096

    private let stream: FrameStream
    private let name: String
    private let terminal: Terminal?
    private let signals: Signals
    private var inputIsOpen: Bool
    /// Bytes of input that may still be sent.
    private var window = AgentProtocol.inputWindow
    /// Output that nobody has taken yet.
    private var pending: ArraySlice<UInt8> = []
    private var pendingDescriptor = STDOUT_FILENO
    /// Signals that were sent since the agent said something last.
    private var unheardSignals = 0
    private var status: Int32?

    /// - Parameter terminal: the one that the command gets the keys of; nil without.
    init(_ connection: AgentConnection, name: String, hasInput: Bool, terminal: Terminal?, signals: Signals) {
        stream = connection.stream
        self.name = name
        self.terminal = terminal
        self.signals = signals
        inputIsOpen = hasInput && Terminal.mayRead
    }

    /// Returns the exit status that goes with the command's end.
    func run() throws(CommandError) -> Int32 {
        do throws(FrameError) {
            while true {
                if pending.isEmpty {
                    if let status { return status }
                    if let frame = try stream.next() {
                        try take(frame)
                        continue
                    }
                }
                try step()
            }
        } catch {
            terminal?.leave()
            tell(error: "machine \(name) ended, or its agent did, while the command ran")
            return Self.refused
        }
    }

    private func step() throws(FrameError) {
        var waiting = [
            pollfd(fd: signals.descriptor, events: Int16(POLLIN), revents: 0),
            pollfd(fd: pending.isEmpty ? stream.descriptor : -1, events: Int16(POLLIN), revents: 0),
            pollfd(fd: pending.isEmpty ? -1 : pendingDescriptor, events: Int16(POLLOUT), revents: 0),
            pollfd(fd: inputIsOpen && window > 0 ? STDIN_FILENO : -1, events: Int16(POLLIN), revents: 0),
        ]
        // SAFETY: `waiting` has the count that is passed.
        guard unsafe poll(&waiting, nfds_t(waiting.count), -1) > 0 else { return }
        if waiting[0].revents != 0 { for signal in signals.take() { try handle(signal) } }
        if waiting[1].revents != 0 {
            guard try stream.fill() else { throw .closed }
            unheardSignals = 0
        }
        if waiting[2].revents != 0 { write() }
        if waiting[3].revents != 0 { try readInput() }
    }

    private func take(_ frame: Frame) throws(FrameError) {
        switch frame.kind {
        case .started: break
        case .output: show(frame.payload, STDOUT_FILENO)
        case .errorOutput: show(frame.payload, STDERR_FILENO)
        case .accepted:
            var fields = FieldReader(frame.payload)
            window = min(window + Int(try fields.read(UInt32.self)), AgentProtocol.inputWindow)
        case .exited:
            switch try CommandEnd(frame.payload) {
            case .status(let number): status = Int32(number)
            case .signal(let number): status = Self.signalBase + Int32(number)
            }
        case .failure:
            let failure = Failure(payload: frame.payload)
            terminal?.leave()
            tell(error: failure.message)
            switch failure.reason {
            case .notFound: status = Self.notFound
            case .notExecutable: status = Self.notExecutable
            case .version, .other: status = Self.refused
            }
        default: throw .unexpected
        }
    }

    private func show(_ bytes: [UInt8], _ descriptor: Int32) {
        pending = bytes[...]
        pendingDescriptor = descriptor
    }

    private func write() {
        let count = unsafe pending.withUnsafeBytes { buffer in
            // SAFETY: at most the buffer's count.
            unsafe systemWrite(pendingDescriptor, buffer.baseAddress, min(buffer.count, Self.largestWrite))
        }
        if count >= 0 {
            pending.removeFirst(count)
        } else if errno != EAGAIN, errno != EINTR {
            // Nobody reads it any more; the command's end still counts.
            pending = []
        }
    }

    private func readInput() throws(FrameError) {
        var bytes = [UInt8](repeating: 0, count: min(window, AgentProtocol.dataSize))
        // SAFETY: `bytes` has the count that is passed.
        let count = unsafe read(STDIN_FILENO, &bytes, bytes.count)
        if count < 0, errno == EAGAIN || errno == EINTR { return }
        guard count > 0 else {
            inputIsOpen = false
            return try stream.send(Frame(.endOfInput))
        }
        window -= count
        try stream.send(Frame(.input, Array(bytes[..<count])))
    }

    private func handle(_ signal: Int32) throws(FrameError) {
        switch signal {
        case SIGWINCH:
            if let size = terminal?.size {
                try stream.send(WindowSize(columns: size.columns, rows: size.rows).frame)
            }
        case SIGTSTP:
            terminal?.leave()
            kill(getpid(), SIGSTOP)
            terminal?.enter()
        default:
            // A guest that is silent to the third one will not hear the fourth.
            if unheardSignals >= 2 {
                terminal?.leave()
                Signals.die(of: signal)
            }
            unheardSignals += 1
            try stream.send(Frame(.signal, [UInt8(truncatingIfNeeded: signal)]))
        }
    }
}

private func systemWrite(_ descriptor: Int32, _ bytes: UnsafeRawPointer?, _ count: Int) -> Int {
    // SAFETY: the caller's buffer has `count` bytes.
    unsafe write(descriptor, bytes, count)
}
