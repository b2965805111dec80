// SPDX-License-Identifier: Apache-2.0
// The user's terminal, handed through to the guest. Spec: POSIX.1-2017 general terminal interface, termios(3).

import CHost

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// The terminal's settings from before, for the way out that a signal handler takes.
///
/// SAFETY: written once by `Terminal.init`, before the handlers that read it are installed.
nonisolated(unsafe) private var savedSettings = termios()

/// Standard input as a terminal that passes every key on. One in a process.
final class Terminal: Sendable {
    /// Nil when standard input is no terminal, or one on which this process is in the background.
    init?() {
        guard isatty(STDIN_FILENO) == 1, Self.mayRead else { return nil }
        // SAFETY: `savedSettings` lives as long as the process; nobody else touches it now.
        guard unsafe tcgetattr(STDIN_FILENO, &savedSettings) == 0 else { return nil }
        enter()
        for number in [SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT] {
            // A defect of smolvmm must not cost the user the terminal.
            _ = signal(number) { number in
                unsafe _ = tcsetattr(STDIN_FILENO, TCSANOW, &savedSettings)
                _ = signal(number, SIG_DFL)
                raise(number)
            }
        }
    }

    /// False for a process in the background of its terminal, which reading would stop. A terminal that controls no
    /// session knows no background.
    static var mayRead: Bool {
        let foreground = tcgetpgrp(STDIN_FILENO)
        return foreground == -1 || foreground == getpgrp()
    }

    /// Nil where the terminal does not say.
    var size: (columns: UInt16, rows: UInt16)? {
        var window = winsize()
        // SAFETY: `window` outlives the call.
        guard unsafe ioctl(STDIN_FILENO, UInt(TIOCGWINSZ), &window) == 0, window.ws_col > 0, window.ws_row > 0 else {
            return nil
        }
        return (window.ws_col, window.ws_row)
    }

    /// Raw mode. Output processing stays on: it does no harm to the guest's, and our own messages need it.
    func enter() {
        // SAFETY: only read after `init`.
        var raw = unsafe savedSettings
        raw.c_iflag &= ~tcflag_t(BRKINT | ICRNL | IGNBRK | IGNCR | INLCR | INPCK | ISTRIP | IXON | PARMRK)
        raw.c_lflag &= ~tcflag_t(ECHO | ECHONL | ICANON | IEXTEN | ISIG)
        raw.c_cflag = raw.c_cflag & ~tcflag_t(CSIZE | PARENB) | tcflag_t(CS8)
        // SAFETY: `raw` outlives the call.
        unsafe _ = tcsetattr(STDIN_FILENO, TCSANOW, &raw)
    }

    /// The settings from before. Idempotent; any thread.
    func leave() {
        // SAFETY: only read after `init`.
        unsafe _ = tcsetattr(STDIN_FILENO, TCSADRAIN, &savedSettings)
    }
}
