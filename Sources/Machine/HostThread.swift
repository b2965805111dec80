// SPDX-License-Identifier: Apache-2.0
// Threads of the host.

internal import Host

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// A thread that runs one body and ends by itself.
public enum HostThread {
    /// Starts `body` on a thread of its own.
    public static func start(_ body: @escaping @Sendable () -> Void) throws(MachineError) {
        guard let thread = StartedThread.start(body) else { throw .hostRefused(what: "a thread", errno: errno) }
        thread.detach()
    }
}
