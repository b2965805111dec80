// SPDX-License-Identifier: Apache-2.0
// A few threads for compression and decompression, and the order in which they may append to one file.

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

private final class ThreadBody {
    let run: @Sendable () -> Void
    init(_ run: @escaping @Sendable () -> Void) { self.run = run }
}

/// A thread of the host that was started.
package struct StartedThread: ~Copyable {
    private let thread: pthread_t

    /// Runs `body` on a thread of its own.
    /// - Returns: nil, with `errno` set, when the host refused a thread.
    package static func start(_ body: @escaping @Sendable () -> Void) -> StartedThread? {
        let context = unsafe Unmanaged.passRetained(ThreadBody(body))
        #if canImport(Glibc)
            var thread = pthread_t()
        #else
            var thread: pthread_t?
        #endif
        // SAFETY: the retained body is released once, by the new thread or here when there is none.
        let result = unsafe pthread_create(
            &thread, nil,
            { argument in
                #if canImport(Glibc)
                    guard let argument = unsafe argument else { return nil }
                #endif
                unsafe Unmanaged<ThreadBody>.fromOpaque(argument).takeRetainedValue().run()
                return nil
            }, context.toOpaque())
        guard result == 0 else {
            unsafe context.release()
            errno = result
            return nil
        }
        #if canImport(Glibc)
            return StartedThread(thread: thread)
        #else
            guard let thread = unsafe thread else { return nil }
            return unsafe StartedThread(thread: thread)
        #endif
    }

    /// Waits for its end.
    package consuming func join() { pthread_join(thread, nil) }

    /// Lets it end by itself.
    package consuming func detach() { pthread_detach(thread) }
}

/// Runs `body` here and `helper` on up to `count` more threads; returns when all have. With fewer threads than asked
/// for (the host refused one) the work still gets done, because they share it.
func withHelperThreads(_ count: Int, helper: @escaping @Sendable () -> Void, body: () -> Void) {
    guard count > 0, let thread = StartedThread.start(helper) else { return body() }
    withHelperThreads(count - 1, helper: helper, body: body)
    thread.join()
}

/// Lets threads pass one after the other, in the order of their tickets.
@safe final class Turnstile: @unchecked Sendable {
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    /// The ticket whose turn it is; only touched under `mutex`.
    private var current = 0

    init() {
        // SAFETY: both are allocated above and live until `deinit`.
        unsafe pthread_mutex_init(mutex, nil)
        unsafe pthread_cond_init(condition, nil)
    }

    deinit {
        // SAFETY: nobody waits any more: all threads that had a reference are gone.
        unsafe pthread_cond_destroy(condition)
        unsafe pthread_mutex_destroy(mutex)
        unsafe condition.deallocate()
        unsafe mutex.deallocate()
    }

    /// Waits for `ticket`'s turn, runs `body` alone, and lets the next one pass. Every ticket must pass once.
    func pass(_ ticket: Int, _ body: () -> Void) {
        // SAFETY: initialised in `init`.
        unsafe pthread_mutex_lock(mutex)
        while current != ticket { unsafe pthread_cond_wait(condition, mutex) }
        body()
        current += 1
        unsafe pthread_cond_broadcast(condition)
        unsafe pthread_mutex_unlock(mutex)
    }
}

/// Memory of one worker.
@safe final class WorkBuffer {
    let bytes: UnsafeMutableRawBufferPointer

    /// Nil when the host has no memory.
    init?(count: Int) {
        guard let start = unsafe malloc(max(1, count)) else { return nil }
        // SAFETY: malloc gave `count` bytes.
        unsafe bytes = UnsafeMutableRawBufferPointer(start: start, count: count)
    }

    deinit { unsafe free(bytes.baseAddress) }
}
