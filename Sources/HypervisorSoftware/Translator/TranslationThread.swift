// SPDX-License-Identifier: Apache-2.0
// Translates on a thread of its own, while the guest goes on in the interpreter.

#if arch(x86_64) && os(Linux)
    internal import CHost
    internal import Glibc
    internal import Host
    internal import Synchronization

    /// What the thread of the processors and the one that translates have in common.
    final class TranslationQueue: Sendable {
        /// Most requests whose answers have not been taken.
        static let capacity = 64
        /// How often the thread looks whether it has something to do before it sleeps: for a tenth of a millisecond, for to wake it takes
        /// the host longer than it takes to translate a block.
        private static let looks = 2000
        private static let looksAtOnce = 50

        /// Writes for one thread at a time.
        let writer: Mutex<CodeWriter>
        private let requests = Ring<TranslationSource>(capacity: capacity)
        private let answers = Ring<TranslatedBlock>(capacity: capacity)
        /// Where the thread sleeps.
        private let monitor = Monitor()
        private let isAsleep = Atomic<Bool>(false)
        private let isClosed = Atomic<Bool>(false)
        /// The block that the guest came to last of those that are not there yet, which is the next to be translated: the slot of its header.
        private let wanted = Atomic<UInt32>(0)

        init(_ writer: sending CodeWriter) { self.writer = Mutex(writer) }

        /// Nil when the host refuses a thread.
        func start() -> StartedThread? {
            StartedThread.start { [self] in
                var waiting: [TranslationSource] = []
                while let source = next(of: &waiting) {
                    _ = answers.put(writer.withLock { $0.translate(source) })
                }
            }
        }

        /// What to do next, of what `waiting` has and was asked for since.
        private func next(of waiting: inout [TranslationSource]) -> TranslationSource? {
            var looks = 0
            while !isClosed.load(ordering: .relaxed) {
                while let source = requests.take() { waiting.append(source) }
                if !waiting.isEmpty {
                    let wanted = wanted.load(ordering: .relaxed)
                    return waiting.remove(at: waiting.firstIndex { $0.block.slot == wanted } ?? 0)
                }
                looks += 1
                if looks > Self.looks {
                    sleep()
                } else if looks % Self.looksAtOnce == 0 {
                    // Others may wait for this processor, and the guest be one of them.
                    sched_yield()
                } else {
                    chost_pause()
                }
            }
            return nil
        }

        private func sleep() {
            monitor.locked {
                isAsleep.store(true, ordering: .sequentiallyConsistent)
                while requests.isEmpty, !isClosed.load(ordering: .relaxed) { monitor.wait() }
                isAsleep.store(false, ordering: .relaxed)
            }
        }

        private func wake() {
            guard isAsleep.load(ordering: .sequentiallyConsistent) else { return }
            monitor.locked { monitor.broadcast() }
        }

        /// The thread ends, whatever it was asked for.
        func close() {
            isClosed.store(true, ordering: .sequentiallyConsistent)
            wake()
        }

        /// Returns whether there was room for it.
        func ask(for source: TranslationSource) -> Bool {
            guard requests.put(source) else { return false }
            wake()
            return true
        }

        /// Has the block whose header is `slot` translated before others.
        func want(_ slot: UInt32) { wanted.store(slot, ordering: .relaxed) }

        /// What has been translated first of what was not taken.
        func takeAnswer() -> TranslatedBlock? { answers.take() }
    }
#endif
