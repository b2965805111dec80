// SPDX-License-Identifier: Apache-2.0
// Threads that read what the host has not in its cache: whoever asked goes on in the meantime.

#if os(Linux)

    internal import CHost
    internal import Glibc
    internal import Host
    internal import Synchronization

    /// Reads of one queue on other threads. One thread asks.
    @safe final class ReadHelpers {
        /// Threads, at most: reads of a disk that are worth having under way at once.
        private static let mostThreads = 32

        @safe private struct Job: @unchecked Sendable {
            let file: ImageFile
            let offset: UInt64
            let vectors: UnsafeMutablePointer<iovec>
            let count: Int
            let bytes: Int
            /// Bytes of the file from `offset` on when the job was made.
            let inside: Int
            let tag: Int
        }

        private let jobs = WaitingList<Job>()
        private let ended = Ends()
        private let signal: Int32
        private var threads = 0
        private(set) var inFlight = 0

        /// What threads have done, until the asker takes it.
        private final class Ends: Sendable {
            let list = Mutex<[IOQueue.Completion]>([])
        }

        /// - Parameter signal: an eventfd that is set when a read has ended; it outlives the helpers.
        init(signal: Int32) { self.signal = signal }

        /// Ends the threads. Nothing may be under way.
        func close() { jobs.close() }

        /// False when the host has no thread for it.
        func read(
            _ file: ImageFile, _ offset: UInt64, _ vectors: UnsafeMutablePointer<iovec>, _ count: Int, _ bytes: Int,
            inside: Int, tag: Int
        ) -> Bool {
            if threads == 0, !startThread() { return false }
            let job = unsafe Job(
                file: file, offset: offset, vectors: vectors, count: count, bytes: bytes, inside: inside, tag: tag)
            inFlight += 1
            if jobs.put(job), threads < Self.mostThreads { _ = startThread() }
            return true
        }

        private func startThread() -> Bool {
            let (jobs, ended, signal) = (jobs, ended, signal)
            let thread = StartedThread.start {
                while let job = jobs.take() {
                    let error = unsafe IOQueue.readNow(
                        job.file, job.offset, job.vectors, job.count, job.bytes, inside: job.inside)
                    ended.list.withLock { list in
                        list.append(IOQueue.Completion(tag: job.tag, error: error))
                        // Whoever takes the first one takes the others, too.
                        guard list.count == 1 else { return }
                        var one: UInt64 = 1
                        // With the lock held: who has taken all ends may close the signal.
                        // SAFETY: eight bytes, which is what an eventfd takes.
                        unsafe _ = write(signal, &one, 8)
                    }
                }
            }
            guard let thread else { return false }
            thread.detach()
            threads += 1
            return true
        }

        /// Takes what has ended, and clears the signal.
        func take(into completions: inout [IOQueue.Completion]) {
            ended.list.withLock { list in
                // With the lock held: no end that is taken now leaves its signal behind.
                var count: UInt64 = 0
                // SAFETY: eight bytes, which is what an eventfd gives.
                unsafe _ = Glibc.read(signal, &count, 8)
                inFlight -= list.count
                completions += list
                list.removeAll(keepingCapacity: true)
            }
        }
    }

#endif
