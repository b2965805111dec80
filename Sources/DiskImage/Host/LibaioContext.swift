// SPDX-License-Identifier: Apache-2.0
// The kernel's asynchronous I/O (libaio): operations go in batches, an eventfd tells of their end.

#if os(Linux)

    internal import CAio
    internal import CHost
    internal import Glibc

    /// Operations of one queue in the kernel.
    @safe final class LibaioContext {
        private static let depth = 256
        /// Operations that go to the kernel together: more would leave the disk idle while they are prepared.
        private static let batchSize = 4

        @safe private struct Operation {
            var tag = 0
            var kind = IOQueue.Kind.read
            var bytes = 0
            var vectors: UnsafeMutablePointer<iovec>?
            var count = 0
        }

        private let descriptor: Int32
        private var context: io_context_t?
        private let blocks: UnsafeMutablePointer<iocb>
        private let batch: UnsafeMutablePointer<UnsafeMutablePointer<iocb>?>
        private let events: UnsafeMutablePointer<io_event>
        private var operations = [Operation](repeating: Operation(), count: LibaioContext.depth)
        private var free: [Int] = Array(0..<LibaioContext.depth)
        private var collected = 0
        /// Ended while room was made for others.
        private var early: [IOQueue.Completion] = []
        private(set) var inFlight = 0
        private var cannotSync = false

        /// Nil when the kernel has no room for another context.
        /// - Parameter signal: an eventfd that is set when an operation has ended; it outlives the context.
        init?(signal: Int32) {
            descriptor = signal
            // SAFETY: `context` outlives the call.
            guard unsafe io_setup(Int32(Self.depth), &context) == 0 else { return nil }
            unsafe blocks = .allocate(capacity: Self.depth)
            unsafe batch = .allocate(capacity: Self.depth)
            unsafe events = .allocate(capacity: Self.depth)
            // SAFETY: each was allocated with `depth` elements.
            unsafe memset(blocks, 0, MemoryLayout<iocb>.stride * Self.depth)
            unsafe batch.initialize(repeating: nil, count: Self.depth)
            unsafe memset(events, 0, MemoryLayout<io_event>.stride * Self.depth)
        }

        deinit {
            if let context = unsafe context { unsafe _ = io_destroy(context) }
            unsafe blocks.deallocate()
            unsafe batch.deallocate()
            unsafe events.deallocate()
        }

        func transfer(
            _ kind: IOQueue.Kind, _ file: ImageFile, _ offset: UInt64, _ vectors: UnsafeMutablePointer<iovec>,
            _ count: Int, _ bytes: Int, _ tag: Int
        ) {
            let slot = takeSlot()
            unsafe operations[slot] = Operation(tag: tag, kind: kind, bytes: bytes, vectors: vectors, count: count)
            // SAFETY: slots are below `depth`.
            let block = unsafe blocks + slot
            let position = Int64(file.start + offset)
            if kind == .read {
                unsafe io_prep_preadv(block, file.directDescriptor, vectors, Int32(count), position)
            } else {
                unsafe io_prep_pwritev(block, file.directDescriptor, vectors, Int32(count), position)
            }
            unsafe collect(block, slot)
        }

        /// False when the kernel cannot sync asynchronously.
        func sync(_ file: ImageFile, _ tag: Int) -> Bool {
            guard !cannotSync else { return false }
            let slot = takeSlot()
            operations[slot] = unsafe Operation(tag: tag, kind: .sync)
            // SAFETY: slots are below `depth`.
            let block = unsafe blocks + slot
            unsafe io_prep_fdsync(block, file.descriptor)
            unsafe collect(block, slot)
            return true
        }

        private func collect(_ block: UnsafeMutablePointer<iocb>, _ slot: Int) {
            unsafe io_set_eventfd(block, descriptor)
            unsafe block.pointee.data = UnsafeMutableRawPointer(bitPattern: slot + 1)
            // SAFETY: there are never more blocks than slots.
            unsafe batch[collected] = block
            collected += 1
            inFlight += 1
            if collected >= Self.batchSize { kick() }
        }

        private func takeSlot() -> Int {
            while free.isEmpty {
                kick()
                poll(waiting: true, into: &early)
            }
            return free.removeLast()
        }

        func kick() {
            var done = 0
            while done < collected {
                // SAFETY: `done` is below `collected`, which is at most `depth`.
                let count = unsafe io_submit(context, collected - done, batch + done)
                if count > 0 {
                    done += Int(count)
                } else if count == -EAGAIN, inFlight > collected - done {
                    var ended: [IOQueue.Completion] = []
                    harvest(atLeast: 1, into: &ended)
                    early += ended
                } else if count != -EINTR {
                    unsafe refuse(batch[done], error: count == 0 ? EIO : Int32(-count))
                    done += 1
                }
            }
            collected = 0
        }

        /// The kernel did not take a block.
        private func refuse(_ block: UnsafeMutablePointer<iocb>?, error: Int32) {
            guard let block = unsafe block else { return }
            let slot = unsafe Int(bitPattern: block.pointee.data) - 1
            if operations[slot].kind == .sync { cannotSync = true }
            early.append(IOQueue.Completion(tag: operations[slot].tag, error: error))
            free.append(slot)
            inFlight -= 1
        }

        /// Takes what has ended, and leaves the signal alone.
        func collect(into completions: inout [IOQueue.Completion]) {
            takeEarly(into: &completions)
            if inFlight > collected { harvest(atLeast: 0, into: &completions) }
        }

        private func takeEarly(into completions: inout [IOQueue.Completion]) {
            if early.isEmpty { return }
            completions += early
            early.removeAll(keepingCapacity: true)
        }

        func poll(waiting: Bool, into completions: inout [IOQueue.Completion]) {
            let before = completions.count
            takeEarly(into: &completions)
            guard inFlight > collected else { return }
            harvest(atLeast: waiting && completions.isEmpty ? 1 : 0, into: &completions)
            guard completions.count > before else { return }
            // Clears the signal, then looks again: what ended in between has signalled for nothing.
            var count: UInt64 = 0
            // SAFETY: eight bytes, which is what an eventfd gives.
            unsafe _ = read(descriptor, &count, 8)
            harvest(atLeast: 0, into: &completions)
        }

        private func harvest(atLeast: Int, into completions: inout [IOQueue.Completion]) {
            var none = timespec(tv_sec: 0, tv_nsec: 0)
            while true {
                // SAFETY: `events` has `depth` elements; `none` outlives the call.
                let count = unsafe withUnsafeMutablePointer(to: &none) { none in
                    unsafe io_getevents(context, atLeast, Self.depth, events, atLeast > 0 ? nil : none)
                }
                if count == -EINTR { continue }
                for index in 0..<max(0, Int(count)) {
                    let event = unsafe events[index]
                    let slot = unsafe Int(bitPattern: event.data) - 1
                    let operation = operations[slot]
                    completions.append(
                        IOQueue.Completion(
                            tag: operation.tag,
                            error: unsafe Self.error(of: operation, Int(bitPattern: UInt(event.res)))))
                    free.append(slot)
                    inFlight -= 1
                }
                return
            }
        }

        /// A read ends early at the end of the file, where zeros follow; a write does only when the disk is full.
        private static func error(of operation: Operation, _ result: Int) -> Int32 {
            if result < 0 { return Int32(-result) }
            guard operation.kind != .sync, result < operation.bytes else { return 0 }
            guard operation.kind == .read, let vectors = unsafe operation.vectors else { return ENOSPC }
            var cursor = unsafe VectorCursor(vectors, operation.count)
            cursor.advance(result)
            cursor.zero(operation.bytes - result)
            return 0
        }
    }

#endif
