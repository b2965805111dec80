// SPDX-License-Identifier: Apache-2.0
// Guest RAM as it was at one instant, kept by the host's kernel: a process that shares this one's pages copy-on-write.

#if os(Linux)

    internal import CHost
    internal import Glibc

    /// A view of guest RAM that later changes do not reach, whoever makes them: devices, the kernel, or the guest under
    /// hardware virtualisation. Any number of threads may read it.
    public final class MemoryTwin: Sendable {
        /// RAM (no ROM), ascending.
        public let ranges: [(start: GuestPhysicalAddress, size: UInt64)]
        private let memory: GuestMemory
        private let process: pid_t

        /// Begins a view of `memory` as it is now. It costs a copy of page tables: some microseconds for each MiB.
        ///
        /// It ends with the calling thread at the latest.
        /// - Throws: `twinRefused` where the host has no process or no memory for it, or does not let it be read.
        public init(of memory: GuestMemory) throws(GuestMemoryError) {
            self.memory = memory
            ranges = memory.regions.filter(\.isWritable).map { ($0.start, $0.size) }
            process = chost_twin_start()
            guard process > 0 else { throw .twinRefused(errno: errno) }
            var byte: UInt8 = 0
            // SAFETY: the first region has a first byte, in both processes.
            guard unsafe chost_twin_read(process, memory.regions[0].host, &byte, 1) == 0 else {
                let code = errno
                chost_twin_end(process)
                throw .twinRefused(errno: code)
            }
        }

        deinit { chost_twin_end(process) }

        /// Fills `buffer` with the bytes from `address`, all in one of `ranges`, as they were; false when the view is lost.
        public func read(at address: GuestPhysicalAddress, into buffer: UnsafeMutableRawBufferPointer) -> Bool {
            guard let host = unsafe try? memory.hostPointer(at: address, count: UInt64(buffer.count)),
                let start = buffer.baseAddress
            else { return false }
            // SAFETY: `hostPointer` checked the count; the twin has the same mappings.
            return unsafe chost_twin_read(process, host, start, buffer.count) == 0
        }
    }

#endif
