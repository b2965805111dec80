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

        struct Request {
            let source: TranslationSource
            /// The number of what is asked for, as long as it is not given up.
            let epoch: Int
        }

        struct Answer {
            let translation: TranslatedBlock
            let epoch: Int
        }

        /// Writes for one thread at a time.
        let writer: Mutex<CodeWriter>
        private let requests = Ring<Request>(capacity: capacity)
        private let answers = Ring<Answer>(capacity: capacity)
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
                var waiting: [Request] = []
                while let request = next(of: &waiting) {
                    let translation = writer.withLock { $0.translate(request.source) }
                    _ = answers.put(Answer(translation: translation, epoch: request.epoch))
                }
            }
        }

        /// What to do next, of what `waiting` has and was asked for since.
        private func next(of waiting: inout [Request]) -> Request? {
            var looks = 0
            while !isClosed.load(ordering: .relaxed) {
                while let request = requests.take() { waiting.append(request) }
                if !waiting.isEmpty {
                    let wanted = wanted.load(ordering: .relaxed)
                    return waiting.remove(at: waiting.firstIndex { $0.source.block.slot == wanted } ?? 0)
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
            monitor.lock()
            isAsleep.store(true, ordering: .sequentiallyConsistent)
            while requests.isEmpty, !isClosed.load(ordering: .relaxed) { monitor.wait() }
            isAsleep.store(false, ordering: .relaxed)
            monitor.unlock()
        }

        private func wake() {
            guard isAsleep.load(ordering: .sequentiallyConsistent) else { return }
            monitor.lock()
            monitor.broadcast()
            monitor.unlock()
        }

        /// The thread ends, whatever it was asked for.
        func close() {
            isClosed.store(true, ordering: .sequentiallyConsistent)
            wake()
        }

        /// Returns whether there was room for it.
        func ask(_ request: Request) -> Bool {
            guard requests.put(request) else { return false }
            wake()
            return true
        }

        /// Has the block whose header is `slot` translated before others.
        func want(_ slot: UInt32) { wanted.store(slot, ordering: .relaxed) }

        /// What has been translated first of what was not taken.
        func takeAnswer() -> Answer? { answers.take() }
    }
#endif
