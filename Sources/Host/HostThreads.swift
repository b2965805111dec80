// SPDX-License-Identifier: Apache-2.0
// Threads of the host: some that share work, and the order in which they may append to one file.

internal import CHost
internal import Synchronization

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// Processors that this process may run on.
package func usableProcessors() -> Int { max(1, Int(chost_usable_processors())) }

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
package func withHelperThreads(_ count: Int, helper: @escaping @Sendable () -> Void, body: () -> Void) {
    guard count > 0, let thread = StartedThread.start(helper) else { return body() }
    withHelperThreads(count - 1, helper: helper, body: body)
    thread.join()
}

/// A lock, and threads that wait for what it guards to change.
@safe package final class Monitor: @unchecked Sendable {
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

    package init() {
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

    // SAFETY: of these, and of all below: initialised in `init`.
    package func lock() { unsafe pthread_mutex_lock(mutex) }
    package func unlock() { unsafe pthread_mutex_unlock(mutex) }

    package func locked<Value>(_ body: () -> Value) -> Value {
        lock()
        defer { unlock() }
        return body()
    }

    /// Lets others change something; with the lock held.
    package func wait() { unsafe pthread_cond_wait(condition, mutex) }
    /// Wakes one thread that waits.
    func signal() { unsafe pthread_cond_signal(condition) }
    /// Wakes all threads that wait.
    package func broadcast() { unsafe pthread_cond_broadcast(condition) }
}

/// Lets threads pass one after the other, in the order of their tickets.
package final class Turnstile: @unchecked Sendable {
    private let monitor = Monitor()
    /// The ticket whose turn it is; only touched with the lock held.
    private var current = 0

    package init() {}

    /// Waits for `ticket`'s turn, runs `body` alone, and lets the next one pass. Every ticket must pass once.
    package func pass(_ ticket: Int, _ body: () -> Void) {
        monitor.locked {
            while current != ticket { monitor.wait() }
            body()
            current += 1
            monitor.broadcast()
        }
    }
}

/// A list that threads put things into and take them from, in order.
package final class WaitingList<Element: Sendable>: @unchecked Sendable {
    private let monitor = Monitor()
    // Only touched with the lock held.
    private var elements: [Element] = []
    private var isClosed = false
    /// Threads that wait in `take`.
    private var waiting = 0

    package init() {}

    /// Returns whether more elements than threads wait now.
    package func put(_ element: Element) -> Bool {
        let isCrowded = monitor.locked {
            elements.append(element)
            return elements.count > waiting
        }
        // Without the lock, which the woken thread takes first.
        monitor.signal()
        return isCrowded
    }

    /// Waits for an element; nil when the list is empty and closed.
    package func take() -> Element? {
        monitor.locked {
            waiting += 1
            while elements.isEmpty, !isClosed { monitor.wait() }
            waiting -= 1
            return elements.isEmpty ? nil : elements.removeFirst()
        }
    }

    /// No more elements will come.
    package func close() {
        monitor.locked {
            isClosed = true
            monitor.broadcast()
        }
    }
}

/// A ring that one thread puts things into and another one takes from, in order, without a lock.
@safe package final class Ring<Element: Sendable>: @unchecked Sendable {
    private let capacity: Int
    private let elements: UnsafeMutablePointer<Element?>
    /// How many were put there, and taken, since it was made.
    private let added = Atomic<Int>(0)
    private let taken = Atomic<Int>(0)

    package init(capacity: Int) {
        self.capacity = capacity
        // SAFETY: each is initialised here, and lives until `deinit`.
        unsafe elements = .allocate(capacity: capacity)
        unsafe elements.initialize(repeating: nil, count: capacity)
    }

    deinit {
        unsafe elements.deinitialize(count: capacity)
        unsafe elements.deallocate()
    }

    /// For the thread that takes.
    package var isEmpty: Bool { taken.load(ordering: .relaxed) == added.load(ordering: .sequentiallyConsistent) }

    /// Returns whether there was room. Whoever takes sees it before what this thread does next.
    package func put(_ element: Element) -> Bool {
        let number = added.load(ordering: .relaxed)
        guard number - taken.load(ordering: .acquiring) < capacity else { return false }
        // SAFETY: of two threads only this one has the element until it is put.
        unsafe elements[number % capacity] = element
        added.store(number + 1, ordering: .sequentiallyConsistent)
        return true
    }

    /// The next element, if there is one.
    package func take() -> Element? {
        let number = taken.load(ordering: .relaxed)
        guard number != added.load(ordering: .acquiring) else { return nil }
        // SAFETY: the other thread has put it, and leaves it alone until it is taken.
        let element = unsafe elements[number % capacity].take()
        taken.store(number + 1, ordering: .releasing)
        return element
    }
}

/// Memory of one worker.
@safe package final class WorkBuffer {
    package let bytes: UnsafeMutableRawBufferPointer

    /// Nil when the host has no memory.
    package init?(count: Int) {
        guard let start = unsafe malloc(max(1, count)) else { return nil }
        // SAFETY: malloc gave `count` bytes.
        unsafe bytes = UnsafeMutableRawBufferPointer(start: start, count: count)
    }

    deinit { unsafe free(bytes.baseAddress) }
}
