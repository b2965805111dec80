// SPDX-License-Identifier: Apache-2.0
// The processor's and the kernel's part in memory: page faults, protection that changes, signals.

import CBench
import CLibc

/// Maps 1 MiB, touches each page, unmaps it.
enum PageFaults {
    static func run(scale: Int) -> Outcome {
        var errors = 0
        var checksum: UInt64 = 0
        var stopwatch = Stopwatch()
        for round in 1...scale * 12 {
            guard let pages = Pages(count: 256) else { return .refused }
            for page in 0..<pages.count {
                // SAFETY: inside of the mapping.
                let place = unsafe pages.start + page * Pages.size + round * 8
                if unsafe load_64(place) != 0 { errors += 1 }
                unsafe store_64(place, UInt64(round + page))
                checksum = unsafe folded(checksum, load_64(place))
            }
        }
        stopwatch.stop()
        return Outcome(stopwatch, checksum, isRight: errors == 0)
    }
}

/// Takes and gives the right to write, with an access in between; what is written must be there afterwards.
enum Protection {
    static func run(scale: Int) -> Outcome {
        guard let pages = Pages(count: 16) else { return .refused }
        var errors = 0
        var checksum: UInt64 = 0
        var stopwatch = Stopwatch()
        for round in 0..<scale * 1200 {
            // SAFETY: one page of the mapping, and the mapping.
            let page = unsafe pages.start + round % pages.count * Pages.size
            unsafe store_64(page, UInt64(round))
            if unsafe mprotect(page, Pages.size, PROT_READ) != 0 { errors += 1 }
            checksum = unsafe folded(checksum, load_64(page))
            if unsafe mprotect(page, Pages.size, PROT_READ | PROT_WRITE) != 0 { errors += 1 }
            unsafe store_64(page + 8, checksum)
            if unsafe load_64(page) != UInt64(round) { errors += 1 }
        }
        stopwatch.stop()
        return Outcome(stopwatch, checksum, isRight: errors == 0)
    }
}

/// The page that `allowWriting` gives the right to write to, and how many signals came.
private nonisolated(unsafe) var protectedPage: UnsafeMutableRawPointer?
private nonisolated(unsafe) var received = 0

/// Signals that a process sends itself, and writes to protected pages that a handler allows, as garbage collectors do.
enum Signals {
    static func run(scale: Int) -> Outcome {
        guard let pages = Pages(count: 1) else { return .refused }
        // SAFETY: the handlers only touch the two variables above, on this thread.
        unsafe protectedPage = pages.start
        unsafe received = 0
        on_signal(SIGUSR1) { _ in unsafe received += 1 }
        on_signal(SIGSEGV) { _ in
            unsafe received += 1
            _ = unsafe mprotect(protectedPage, Pages.size, PROT_READ | PROT_WRITE)
        }
        let rounds = scale * 600
        var stopwatch = Stopwatch()
        for round in 0..<rounds {
            raise_here(SIGUSR1)
            // SAFETY: the handler makes the page writable before the store is done again.
            _ = unsafe mprotect(pages.start, Pages.size, PROT_READ)
            unsafe store_64(pages.start, UInt64(round))
        }
        stopwatch.stop()
        let isRight = unsafe received == 2 * rounds && load_64(pages.start) == UInt64(rounds - 1)
        unsafe protectedPage = nil
        return unsafe Outcome(stopwatch, UInt64(received), isRight: isRight)
    }
}
