// SPDX-License-Identifier: Apache-2.0
// Guest RAM that is read from a bundle as it is used: the host tells of each page that is missed (userfaultfd).

#if os(Linux)

    public import GuestMemory

    /// Fills a machine's memory chunk by chunk, when the guest, a device or the host's kernel first touches one. Each chunk
    /// is checked against its hash before it gets there. The bundle's working set is filled before anybody asks.
    public final class LazyMemory: Sendable {
        private let filler: MemoryFiller

        fileprivate init(_ filler: MemoryFiller) { self.filler = filler }

        deinit { filler.stop() }

        /// Why a chunk could not be read; the machine must not go on.
        public var failure: BundleError? { filler.failure }

        /// Ends filling: what is missing then stays so. The guest does not run any more.
        public func stop() { filler.stop() }

        /// Fills all that is missing: before another process shares the memory.
        public func fillAll() throws(BundleError) { try filler.fillAll() }
    }

    extension BundleReader {
        /// Has `memory`, as `GuestMemory.init` makes it, filled from the bundle as it is used. Nil where the host does not let
        /// this process do that: then `restoreMemory` fills it at once.
        /// - Parameter failed: called once, on another thread, when a chunk turns out to be damaged.
        public func fillAsUsed(
            _ memory: GuestMemory, failed: @escaping @Sendable () -> Void
        ) throws(BundleError) -> LazyMemory? {
            try checkRanges(of: memory)
            let filler = MemoryFiller(
                index: index, workingSet: workingSet, file: file, start: try dataOffset(of: BundleName.memoryData),
                memory: memory, failed: failed)
            return filler.map { LazyMemory($0) }
        }
    }

#endif
