// SPDX-License-Identifier: Apache-2.0
// What is typed at the guest's console, polled.

import CLibc

/// Lines typed at the console.
struct Console {
    private static let longestLine = 256
    private var pending: [UInt8] = []
    private var isOpen = true

    /// Whether the terminal repeats what is typed; a script that reads the console wants it quiet.
    /// Returns how it was.
    @discardableResult
    static func setEcho(_ isOn: Bool) -> Bool {
        // SAFETY: both calls fill or read one `termios` that lives across them.
        var settings = termios()
        guard unsafe tcgetattr(STDIN_FILENO, &settings) == 0 else { return isOn }
        let echo = tcflag_t(ECHO)
        let wasOn = settings.c_lflag & echo != 0
        settings.c_lflag = isOn ? settings.c_lflag | echo : settings.c_lflag & ~echo
        _ = unsafe tcsetattr(STDIN_FILENO, TCSANOW, &settings)
        return wasOn
    }

    /// The next whole line, without its end; waits at most `milliseconds` for one.
    mutating func readLine(waiting milliseconds: Int32) -> [UInt8]? {
        if let line = takeLine() { return line }
        guard isOpen else {
            _ = usleep(UInt32(milliseconds) * 1000)
            return nil
        }
        var descriptor = pollfd(fd: STDIN_FILENO, events: Int16(POLLIN), revents: 0)
        // SAFETY: one descriptor, as the count says.
        guard unsafe poll(&descriptor, 1, milliseconds) > 0 else { return nil }
        var input = [256 of UInt8](repeating: 0)
        var span = input.mutableSpan
        // SAFETY: reads at most the buffer's own size.
        let count = unsafe span.withUnsafeMutableBytes { unsafe read(STDIN_FILENO, $0.baseAddress, $0.count) }
        guard count > 0 else {
            isOpen = count < 0 && last_error() == EINTR
            return nil
        }
        for index in 0..<count where pending.count < Self.longestLine {
            pending.append(input[index])
        }
        return takeLine()
    }

    private mutating func takeLine() -> [UInt8]? {
        guard let end = pending.firstIndex(where: { $0 == UInt8(ascii: "\n") || $0 == UInt8(ascii: "\r") }) else {
            if pending.count >= Self.longestLine { pending.removeAll() }
            return nil
        }
        let line = Array(pending[..<end])
        pending.removeFirst(end + 1)
        return line
    }
}
