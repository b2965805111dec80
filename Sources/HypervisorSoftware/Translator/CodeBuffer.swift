// SPDX-License-Identifier: Apache-2.0
// Memory for translated code: one piece of memory at two addresses, writable at one, executable at the other.

#if arch(x86_64) && os(Linux)
    internal import CHost
    internal import Glibc

    /// The code buffer. Its pages are touched as they are filled. Threads may have it in common: each writes what is its own.
    @safe struct CodeBuffer: @unchecked Sendable {
        let size: Int
        /// The buffer where it can be written.
        let writable: UnsafeMutablePointer<UInt8>
        /// The buffer where it can be executed.
        let executable: UnsafeRawPointer

        /// Nil where the host has no such memory.
        init?(size: Int) {
            let file = chost_memory_file()
            guard file >= 0 else { return nil }
            defer { close(file) }
            guard ftruncate(file, size) == 0,
                let writable = unsafe mmap(nil, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0),
                unsafe writable != MAP_FAILED
            else { return nil }
            guard let executable = unsafe mmap(nil, size, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0),
                unsafe executable != MAP_FAILED
            else {
                unsafe munmap(writable, size)
                return nil
            }
            // SAFETY: both mappings have `size` bytes until `deallocate`.
            self.size = size
            unsafe self.writable = writable.assumingMemoryBound(to: UInt8.self)
            unsafe self.executable = UnsafeRawPointer(executable)
        }

        /// Some of `range` is about to be filled: has the host provide the pages.
        func provide(_ range: Range<Int>) {
            let range = range.clamped(to: 0..<size)
            // SAFETY: a range of the mapping.
            unsafe chost_provide_memory(writable + range.lowerBound, range.count)
        }

        func deallocate() {
            unsafe munmap(writable, size)
            unsafe munmap(UnsafeMutableRawPointer(mutating: executable), size)
        }
    }
#endif
