// SPDX-License-Identifier: Apache-2.0
// Progress of long work, on standard error when that is a terminal.

import Synchronization

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// One line that is drawn over itself, at most ten times a second. Any thread.
final class Progress: Sendable {
    private struct State {
        var shown = false
        var next: ContinuousClock.Instant
    }

    private static let interval = Duration.milliseconds(100)

    private let label: String
    private let isVisible: Bool
    private let state: Mutex<State>

    /// - Parameter always: also where standard error is no terminal.
    init(_ label: String, always: Bool = false) {
        self.label = label
        isVisible = always || isatty(STDERR_FILENO) == 1
        // Quick work shows nothing.
        state = Mutex(State(next: ContinuousClock.now + Self.interval * 2))
    }

    /// Takes 0 to 1; with 1 the line goes away.
    func update(_ fraction: Double) {
        guard isVisible else { return }
        guard fraction < 1 else { return finish() }
        state.withLock { state in
            let now = ContinuousClock.now
            guard now >= state.next else { return }
            state.next = now + Self.interval
            state.shown = true
            let percent = Int((min(max(fraction, 0), 1) * 100).rounded(.down))
            writeAll("\r\u{1b}[Ksmolvmm: \(label): \(percent) %", to: STDERR_FILENO)
        }
    }

    /// Takes the line away.
    func finish() {
        state.withLock { state in
            if state.shown { writeAll("\r\u{1b}[K", to: STDERR_FILENO) }
            state.shown = false
        }
    }
}
