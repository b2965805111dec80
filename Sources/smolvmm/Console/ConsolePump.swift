// SPDX-License-Identifier: Apache-2.0
// Carries bytes between standard input and output and the guest's serial console, on a thread of its own.

import Bundle
import Host
import Machine
import Synchronization

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// The loop that the user talks to while the machine's thread runs the guest.
final class ConsolePump: Sendable {
    private let control: MachineControl
    private let console: ConsoleChannel
    private let terminal: Terminal?
    private let signals: Signals
    /// Frees the machine's name.
    private let release: @Sendable () -> Void
    private let hasEnded = Atomic<Bool>(false)
    /// After the end: give up on a reader that does not read.
    private let isImpatient = Atomic<Bool>(false)
    private let finished: Promise<Bool>
    private let name: String
    /// Standard output is the log of a machine without a terminal, which does not grow for ever.
    private let isLog: Bool

    init(
        _ machine: Machine, terminal: Terminal?, signals: Signals, isLog: Bool,
        release: @escaping @Sendable () -> Void
    ) throws {
        self.isLog = isLog
        control = machine.control
        console = machine.console
        name = machine.configuration.name
        self.terminal = terminal
        self.signals = signals
        self.release = release
        finished = try Promise()
    }

    func start() throws {
        try HostThread.start { [self] in
            run()
            finished.deliver(true)
        }
    }

    /// The machine has ended: returns when all that it said is written, or nobody takes it.
    /// - Parameter patiently: wait for a reader that takes its time.
    func finish(patiently: Bool) {
        if !patiently { isImpatient.store(true, ordering: .relaxed) }
        hasEnded.store(true, ordering: .releasing)
        console.outputReady.set()
        _ = finished.wait()
    }

    // MARK: The loop

    /// Milliseconds between looks at whether the guest has room for input again.
    private static let inputRetry: Int32 = 20
    /// Milliseconds after which an impatient end gives up.
    private static let lastWait: Int32 = 500
    private static let largestRead = 4096
    /// A pipe that is ready takes this many bytes without blocking (PIPE_BUF).
    private static let largestWrite = 4096
    /// Bytes of a log, beyond which it begins anew.
    private static let largestLog: off_t = 8 << 20

    private func run() {
        var output: ArraySlice<UInt8> = []
        var escapes = EscapeFilter()
        var inputIsOpen = Terminal.mayRead
        var outputIsOpen = true
        tellWindowSize()
        while true {
            if output.isEmpty {
                let ended = hasEnded.load(ordering: .acquiring)
                output = console.take()[...]
                if !outputIsOpen { output = [] }
                if ended, output.isEmpty { return }
            }
            let hasRoom = control.hasRoomForInput
            var waiting = [
                pollfd(fd: signals.descriptor, events: Int16(POLLIN), revents: 0),
                pollfd(fd: output.isEmpty ? console.outputReady.descriptor : -1, events: Int16(POLLIN), revents: 0),
                pollfd(fd: inputIsOpen && hasRoom ? STDIN_FILENO : -1, events: Int16(POLLIN), revents: 0),
                pollfd(fd: output.isEmpty ? -1 : STDOUT_FILENO, events: Int16(POLLOUT), revents: 0),
            ]
            let isLast = isImpatient.load(ordering: .relaxed)
            let timeout = isLast ? Self.lastWait : inputIsOpen && !hasRoom ? Self.inputRetry : -1
            // SAFETY: `waiting` has the count that is passed.
            let ready = unsafe poll(&waiting, nfds_t(waiting.count), timeout)
            if ready == 0, isLast { return }
            guard ready > 0 else { continue }
            if waiting[0].revents != 0 { signals.take().forEach(handle) }
            if waiting[2].revents != 0 { inputIsOpen = readInput(&escapes) }
            if waiting[3].revents != 0 { outputIsOpen = write(&output) && outputIsOpen }
        }
    }

    /// False at the end of input.
    private func readInput(_ escapes: inout EscapeFilter) -> Bool {
        var bytes = [UInt8](repeating: 0, count: Self.largestRead)
        // SAFETY: `bytes` has the count that is passed.
        let count = unsafe read(STDIN_FILENO, &bytes, bytes.count)
        if count < 0, errno == EAGAIN || errno == EINTR { return true }
        guard count > 0 else { return false }
        let typed = Array(bytes[..<count])
        guard terminal != nil else {
            control.sendInput(typed)
            return true
        }
        for action in escapes.process(typed) {
            switch action {
            case .send(let bytes): control.sendInput(bytes)
            case .leave: control.stop()
            case .help: writeAll("\r\n\(EscapeFilter.helpText)\n", to: STDERR_FILENO)
            }
        }
        return true
    }

    /// Writes what standard output takes now; false when nobody reads it any more.
    private func write(_ output: inout ArraySlice<UInt8>) -> Bool {
        let count = unsafe output.withUnsafeBytes { buffer in
            // SAFETY: at most the buffer's count.
            unsafe systemWrite(STDOUT_FILENO, buffer.baseAddress, min(buffer.count, Self.largestWrite))
        }
        if count >= 0 {
            output.removeFirst(count)
            if isLog { limitLog() }
            return true
        }
        if errno == EAGAIN || errno == EINTR { return true }
        tell(
            "nobody reads the console any more (\(errorText(errno))); the machine goes on: 'smolvmm stop \(name)' ends it"
        )
        output = []
        return false
    }

    private func limitLog() {
        var information = stat()
        // SAFETY: `information` outlives the call.
        guard unsafe fstat(STDOUT_FILENO, &information) == 0, information.st_size > Self.largestLog else { return }
        if ftruncate(STDOUT_FILENO, 0) == 0 { writeAll("smolvmm: older output was dropped\n", to: STDOUT_FILENO) }
    }

    private func handle(_ signal: Int32) {
        if signal == SIGWINCH {
            tellWindowSize()
            return
        }
        terminal?.leave()
        if signal == SIGTSTP {
            kill(getpid(), SIGSTOP)
            terminal?.enter()
            return
        }
        release()
        Signals.die(of: signal)
    }

    private func tellWindowSize() {
        guard let size = terminal?.size else { return }
        control.setWindowSize(columns: size.columns, rows: size.rows)
    }
}

private func systemWrite(_ descriptor: Int32, _ bytes: UnsafeRawPointer?, _ count: Int) -> Int {
    // SAFETY: the caller's buffer has `count` bytes.
    unsafe write(descriptor, bytes, count)
}
