// SPDX-License-Identifier: Apache-2.0
// The threads that read guest RAM from a bundle as it is used, and what they have in common.

#if os(Linux)

    internal import CHost
    internal import Glibc
    internal import GuestMemory
    internal import Host
    internal import Synchronization

    /// Fills a machine's memory for its `LazyMemory`. Its threads keep it until `stop`.
    final class MemoryFiller: Sendable {
        private enum Chunk: UInt8 {
            case missing
            case underWay
            case filled
        }

        private struct State {
            var chunks: [Chunk]
            var failure: BundleError?
        }

        private let index: MemoryIndex
        private let file: InputFile
        /// Where the data of `memory.data` starts in the file.
        private let start: UInt64
        private let memory: GuestMemory
        private let regions: [GuestMemory.Region]
        /// The number of the first chunk of each region among all chunks.
        private let firsts: [Int]
        private let faults: Int32
        /// Set when the thread shall end.
        private let ending: Int32
        private let state: Mutex<State>
        private let isServing = Atomic<Bool>(false)
        private let isPrefetching = Atomic<Bool>(false)
        /// Get an element when their thread has ended.
        private let served = WaitingList<Bool>()
        private let prefetched = WaitingList<Bool>()
        private let failed: @Sendable () -> Void

        private static let pageSize = 4096

        /// As `BundleReader.fillAsUsed`.
        init?(
            index: MemoryIndex, workingSet: [GuestPhysicalAddress], file: InputFile, start: UInt64,
            memory: GuestMemory, failed: @escaping @Sendable () -> Void
        ) {
            faults = chost_fault_open()
            guard faults >= 0 else { return nil }
            ending = chost_eventfd()
            guard ending >= 0 else {
                close(faults)
                return nil
            }
            self.index = index
            self.file = file
            self.start = start
            self.memory = memory
            self.failed = failed
            regions = memory.regions.filter(\.isWritable)
            var firsts: [Int] = []
            var count = 0
            for region in regions {
                firsts.append(count)
                count += Int((region.size + index.chunkSize - 1) / index.chunkSize)
            }
            self.firsts = firsts
            state = Mutex(State(chunks: Array(repeating: .missing, count: count)))
            for region in regions {
                // What the devices of a new machine have put there is in the bundle, too, and counts from there.
                _ = memory.release(region.start, count: region.size)
                // SAFETY: the region is mapped for its size while `memory` lives.
                guard unsafe chost_fault_register(faults, region.host, Int(region.size)) == 0 else { return nil }
            }
            let started = StartedThread.start { [self] in
                serve()
                _ = served.put(true)
            }
            guard let started else { return nil }
            started.detach()
            isServing.store(true, ordering: .releasing)
            startPrefetching(workingSet)
        }

        private func startPrefetching(_ workingSet: [GuestPhysicalAddress]) {
            let numbers = workingSet.compactMap { address -> Int? in
                let position = regions.firstIndex { address >= $0.start && address - $0.start < $0.size }
                return position.map { firsts[$0] + Int((address - regions[$0].start) / index.chunkSize) }
            }
            guard !numbers.isEmpty else { return }
            isPrefetching.store(true, ordering: .releasing)
            let started = StartedThread.start { [self] in
                prefetch(numbers)
                _ = prefetched.put(true)
            }
            if let started { started.detach() } else { isPrefetching.store(false, ordering: .releasing) }
        }

        deinit {
            close(faults)
            close(ending)
        }

        /// Why a chunk could not be read; the machine must not go on.
        var failure: BundleError? { state.withLock { $0.failure } }

        /// Ends filling: what is missing then stays so. The guest does not run any more.
        func stop() {
            endPrefetching()
            guard isServing.exchange(false, ordering: .acquiringAndReleasing) else { return }
            var one: UInt64 = 1
            // SAFETY: eight bytes, which is what an eventfd takes.
            unsafe _ = write(ending, &one, 8)
            _ = served.take()
            for region in regions {
                // SAFETY: registered in `init`.
                unsafe _ = chost_fault_unregister(faults, region.host, Int(region.size))
            }
        }

        /// Fills all that is missing: before another process shares the memory.
        func fillAll() throws(BundleError) {
            endPrefetching()
            let next = Atomic<Int>(0)
            let count = state.withLock { $0.chunks.count }
            let shared = Shared(next)
            withHelperThreads(1) {
                self.fill(from: shared, count)
            } body: {
                self.fill(from: shared, count)
            }
            if let failure { throw failure }
        }

        /// What threads that fill together have in common.
        private final class Shared: Sendable {
            let next: Atomic<Int>
            init(_ next: consuming Atomic<Int>) { self.next = next }
        }

        private func fill(from shared: Shared, _ count: Int) {
            guard let worker = Worker(chunkSize: index.chunkSize) else {
                return fail(.outOfMemory(purpose: Self.purpose))
            }
            while failure == nil {
                let number = shared.next.wrappingAdd(1, ordering: .relaxed).oldValue
                guard number < count else { return }
                fill(number, worker)
            }
        }

        /// The thread that fills the working set is gone when this returns, and so is what it had under way.
        private func endPrefetching() {
            if isPrefetching.exchange(false, ordering: .acquiringAndReleasing) { _ = prefetched.take() }
        }

        // MARK: The threads

        private static let purpose = "reading memory"

        /// What one thread needs to read chunks.
        private final class Worker {
            let decompressor: ChunkDecompressor
            let stored: WorkBuffer
            let plain: WorkBuffer

            init?(chunkSize: UInt64) {
                guard let decompressor = try? ChunkDecompressor(),
                    let stored = WorkBuffer(count: Int(MemoryIndex.maximumStoredSize(chunkSize: chunkSize))),
                    let plain = WorkBuffer(count: Int(chunkSize))
                else { return nil }
                self.decompressor = decompressor
                self.stored = stored
                self.plain = plain
            }
        }

        private func prefetch(_ numbers: [Int]) {
            // Without memory for it, chunks are filled when they are asked for.
            guard let worker = Worker(chunkSize: index.chunkSize) else { return }
            for number in numbers where isPrefetching.load(ordering: .acquiring) && failure == nil {
                fill(number, worker)
            }
        }

        private func serve() {
            guard let worker = Worker(chunkSize: index.chunkSize) else {
                return fail(.outOfMemory(purpose: Self.purpose))
            }
            while true {
                var entries = [
                    pollfd(fd: faults, events: Int16(POLLIN), revents: 0),
                    pollfd(fd: ending, events: Int16(POLLIN), revents: 0),
                ]
                // SAFETY: two entries.
                guard unsafe poll(&entries, 2, -1) > 0 || errno == EINTR else { return }
                if entries[1].revents != 0 { return }
                while true {
                    let address = chost_fault_next(faults)
                    if address == 0 { break }
                    handle(address, worker)
                }
            }
        }

        /// Somebody waits for the page at the host address `address`.
        private func handle(_ address: UInt, _ worker: Worker) {
            for (position, region) in regions.enumerated() {
                let base = unsafe UInt(bitPattern: region.host)
                guard address >= base, UInt64(address - base) < region.size else { continue }
                let number = firsts[position] + Int(UInt64(address - base) / index.chunkSize)
                if fill(number, worker) { return }
                // The chunk was here before: the page was given back to the host since, or has just come.
                let page = unsafe region.host + Int(address - base) / Self.pageSize * Self.pageSize
                // SAFETY: a page of the region.
                unsafe _ = chost_fault_zero(faults, page, Self.pageSize)
                unsafe chost_fault_wake(faults, page, Self.pageSize)
            }
        }

        /// Puts chunk `number` in place, unless somebody else has, or is about to.
        /// - Returns: false when it has been there before.
        @discardableResult private func fill(_ number: Int, _ worker: Worker) -> Bool {
            let before = state.withLock { state in
                let before = state.chunks[number]
                if before == .missing { state.chunks[number] = .underWay }
                return before
            }
            guard before == .missing else { return before == .underWay }
            let position = firsts.lastIndex { $0 <= number } ?? 0
            let region = regions[position]
            let offset = UInt64(number - firsts[position]) * index.chunkSize
            let size = Int(min(index.chunkSize, region.size - offset))
            // SAFETY: the chunk lies in the region.
            let host = unsafe region.host + Int(offset)
            do throws(BundleError) {
                if let entry = index.entry(at: region.start + offset) {
                    let plain = unsafe UnsafeMutableRawBufferPointer(rebasing: worker.plain.bytes[0..<size])
                    unsafe try load(entry, worker, into: plain)
                    guard let bytes = plain.baseAddress else { return true }
                    unsafe _ = chost_fault_fill(faults, host, bytes, size)
                } else {
                    unsafe _ = chost_fault_zero(faults, host, size)
                }
            } catch {
                fail(error)
                // Whoever waits must not wait for ever; the machine ends.
                unsafe _ = chost_fault_zero(faults, host, size)
            }
            state.withLock { $0.chunks[number] = .filled }
            unsafe chost_fault_wake(faults, host, size)
            return true
        }

        private func load(_ entry: Int, _ worker: Worker, into plain: UnsafeMutableRawBufferPointer) throws(BundleError)
        {
            let chunk = index[entry]
            // SAFETY: the index has no larger chunk than `stored` has room for.
            let frame = unsafe UnsafeMutableRawBufferPointer(rebasing: worker.stored.bytes[0..<Int(chunk.storedSize)])
            unsafe try file.read(BundleName.memoryData, at: start + chunk.offset, into: frame)
            unsafe try index.expand(entry, UnsafeRawBufferPointer(frame), into: plain, worker.decompressor)
        }

        private func fail(_ error: BundleError) {
            let isFirst = state.withLock { state in
                defer { if state.failure == nil { state.failure = error } }
                return state.failure == nil
            }
            if isFirst { failed() }
        }
    }

#endif
