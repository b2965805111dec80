// SPDX-License-Identifier: Apache-2.0
// Recognises the line with which Linux reports a panic on its console (kernel/panic.c).

/// Looks for `Kernel panic - not syncing: REASON` at the start of a console line or behind printk's time stamp.
struct PanicWatcher {
    private static let mark = Array("Kernel panic - not syncing".utf8)
    /// Longer lines are cut; the mark stands at their start.
    private static let longestLine = 512

    private var line: [UInt8] = []
    /// What the kernel gave as the reason, when it has panicked since `reset`; empty when it gave none.
    private(set) var reason: String?

    mutating func take(_ byte: UInt8) {
        if byte == UInt8(ascii: "\n") {
            endLine()
        } else if line.count < Self.longestLine {
            line.append(byte)
        }
    }

    /// The machine starts anew.
    mutating func reset() {
        line.removeAll(keepingCapacity: true)
        reason = nil
    }

    /// Takes a line that was never finished, too: the machine is about to restart.
    mutating func endLine() {
        defer { line.removeAll(keepingCapacity: true) }
        guard reason == nil, line.count >= Self.mark.count else { return }
        var text = line[...]
        if text.first == UInt8(ascii: "["), let end = text.firstIndex(of: UInt8(ascii: "]")) {
            text = text[(end + 1)...].drop { $0 == UInt8(ascii: " ") }
        }
        guard text.starts(with: Self.mark) else { return }
        let rest = text.dropFirst(Self.mark.count).drop { $0 == UInt8(ascii: ":") || $0 == UInt8(ascii: " ") }
        reason = String(decoding: rest.filter { $0 >= 0x20 && $0 < 0x7f }, as: UTF8.self)
    }
}
