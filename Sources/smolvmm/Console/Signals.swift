// SPDX-License-Identifier: Apache-2.0
// Signals as bytes on a pipe, so that a poll loop sees them: signal(7), the self-pipe trick.

import Host

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// Where the handler writes.
///
/// SAFETY: written once by `Signals.init`, before the handler that reads it is installed.
nonisolated(unsafe) private var pipeEnd: Int32 = -1

/// The signals that ask smolvmm to end or to stop for a while, or tell of the terminal's size. One in a process.
final class Signals: Sendable {
    /// Readable when a signal has come.
    let descriptor: Int32

    init() throws(CommandError) {
        var ends: [Int32] = [-1, -1]
        // SAFETY: pipe writes two descriptors.
        guard unsafe pipe(&ends) == 0 else { throw CommandError("the host refused a pipe: \(errorText(errno))") }
        for end in ends {
            _ = fcntl(end, F_SETFD, FD_CLOEXEC)
            _ = fcntl(end, F_SETFL, O_NONBLOCK)
        }
        descriptor = ends[0]
        unsafe pipeEnd = ends[1]
        for number in [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGWINCH] { Self.install(number) }
    }

    private static func install(_ number: Int32) {
        // What was ignored from the start (nohup) stays ignored.
        var before = sigaction()
        unsafe _ = sigaction(number, nil, &before)
        #if canImport(Glibc)
            let handler = unsafe before.__sigaction_handler.sa_handler
        #else
            let handler = unsafe before.__sigaction_u.__sa_handler
        #endif
        if unsafe unsafeBitCast(handler, to: Int.self) == unsafeBitCast(SIG_IGN, to: Int.self) { return }
        _ = signal(number) { number in
            let saved = errno
            var byte = UInt8(truncatingIfNeeded: number)
            // SAFETY: one byte; a full pipe has signals enough.
            unsafe _ = write(pipeEnd, &byte, 1)
            errno = saved
        }
    }

    /// The signals that have come since the last call.
    func take() -> [Int32] {
        var bytes = [UInt8](repeating: 0, count: 16)
        // SAFETY: `bytes` has the count that is passed.
        let count = unsafe read(descriptor, &bytes, bytes.count)
        return count > 0 ? bytes[..<count].map(Int32.init) : []
    }

    /// Ends the process as if the signal had not been caught.
    static func die(of number: Int32) -> Never {
        _ = signal(number, SIG_DFL)
        kill(getpid(), number)
        // The signal may take another thread's time to arrive.
        while true { pause() }
    }
}
