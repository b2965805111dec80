// SPDX-License-Identifier: Apache-2.0
// Lines of output, each in one write.

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
