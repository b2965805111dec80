// SPDX-License-Identifier: Apache-2.0
// Threads of the host.

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// A thread that runs one body and ends by itself.
public enum HostThread {
    private final class Body {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    /// Starts `body` on a thread of its own.
    public static func start(_ body: @escaping @Sendable () -> Void) throws(MachineError) {
        let context = unsafe Unmanaged.passRetained(Body(body))
        #if canImport(Glibc)
            var thread = pthread_t()
        #else
            var thread: pthread_t?
        #endif
        // SAFETY: the retained body is released once, by the new thread, or below when there is none.
        let result = unsafe pthread_create(
            &thread, nil,
            { argument in
                #if canImport(Glibc)
                    guard let argument = unsafe argument else { return nil }
                #endif
                unsafe Unmanaged<Body>.fromOpaque(argument).takeRetainedValue().run()
                return nil
            }, context.toOpaque())
        guard result == 0 else {
            unsafe context.release()
            throw .hostRefused(what: "a thread", errno: result)
        }
        #if canImport(Glibc)
            pthread_detach(thread)
        #else
            if let thread = unsafe thread { unsafe pthread_detach(thread) }
        #endif
    }
}
