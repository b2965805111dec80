// SPDX-License-Identifier: Apache-2.0
// Wakes a thread that waits in poll(2): a pipe that holds at most a few bytes.

internal import CHost

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// A signal that stays set until it is drained, so that none gets lost between a check and a wait.
public final class WakeSignal: Sendable {
    /// Readable while the signal is set: for `poll`.
    public let descriptor: Int32
    private let writeEnd: Int32

    public init() throws(MachineError) {
        var ends: [Int32] = [-1, -1]
        // SAFETY: pipe writes two descriptors.
        guard unsafe pipe(&ends) == 0 else { throw .hostRefused(what: "a pipe", errno: errno) }
        for end in ends {
            _ = fcntl(end, F_SETFD, FD_CLOEXEC)
            _ = fcntl(end, F_SETFL, O_NONBLOCK)
        }
        descriptor = ends[0]
        writeEnd = ends[1]
    }

    deinit {
        close(descriptor)
        close(writeEnd)
    }

    /// Sets the signal. Any thread.
    public func set() {
        var byte: UInt8 = 1
        // SAFETY: one byte. A full pipe is a signal that is set.
        unsafe _ = write(writeEnd, &byte, 1)
    }

    /// Clears the signal.
    public func drain() {
        var bytes = [UInt8](repeating: 0, count: 64)
        // SAFETY: `bytes` has the count that is passed.
        while unsafe read(descriptor, &bytes, 64) == 64 {}
    }

    /// Waits until the signal is set or one of `others` is readable, at most `nanoseconds` (nil: for ever); clears the
    /// signal.
    public func wait(nanoseconds: UInt64? = nil, others: [Int32] = []) {
        let descriptors = [descriptor] + others
        // SAFETY: as many descriptors as are passed.
        unsafe _ = chost_wait_readable(
            descriptors, Int32(descriptors.count), nanoseconds.map { Int64(clamping: $0) } ?? -1)
        drain()
    }
}
