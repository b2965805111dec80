// SPDX-License-Identifier: Apache-2.0
// The guest's console as init has it: lines out, each in one write, and lines in, polled.

import CLibc

/// One line of output, put together on the stack and written at once; what does not fit is cut off.
struct Line: ~Copyable {
    private static let capacity = 512
    private var bytes = [512 of UInt8](repeating: 0)
    private var count = 0

    init(_ start: StaticString = "") { add(start) }

    mutating func add(byte: UInt8) {
        guard count < Self.capacity - 1 else { return }
        bytes[count] = byte
        count += 1
    }

    mutating func add(_ text: StaticString) {
        // SAFETY: the buffer is the literal's own, valid for the call.
        text.withUTF8Buffer { unsafe $0.forEach { add(byte: $0) } }
    }

    mutating func add(_ text: some Sequence<UInt8>) {
        for byte in text { add(byte: byte) }
    }

    mutating func add(_ value: Int, digits: Int = 1) {
        var divisor = 1
        var left = digits
        while left > 1 || value / divisor >= 10 {
            divisor *= 10
            left -= 1
        }
        while divisor > 0 {
            add(byte: UInt8(ascii: "0") + UInt8(value / divisor % 10))
            divisor /= 10
        }
    }

    mutating func add(hex byte: UInt8) {
        add(hexDigit: byte >> 4)
        add(hexDigit: byte & 15)
    }

    private mutating func add(hexDigit digit: UInt8) {
        add(byte: digit < 10 ? UInt8(ascii: "0") + digit : UInt8(ascii: "a") + digit - 10)
    }

    /// Writes the line and its end to `descriptor`, whole unless the console fails.
    consuming func write(to descriptor: Int32 = STDOUT_FILENO) {
        bytes[count] = UInt8(ascii: "\n")
        count += 1
        var written = 0
        while written < count {
            let from = written
            let left = count - written
            // SAFETY: `from + left` is `count`, at most the capacity of `bytes`.
            let result = unsafe bytes.span.withUnsafeBytes { buffer in
                unsafe CLibc.write(descriptor, buffer.baseAddress.map { unsafe $0 + from }, left)
            }
            guard result > 0 || last_error() == EINTR else { return }
            written += max(result, 0)
        }
    }
}

/// Writes `text` as a line of its own.
func say(_ text: StaticString) {
    let line = Line(text)
    line.write()
}

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
