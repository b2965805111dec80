// SPDX-License-Identifier: Apache-2.0
// Bytes of a file that are read once.

internal import CHost

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// The bytes of a file: in memory, or mapped from the file while nobody may change it.
///
/// New memory for a large file takes longer than its use, above all in a host that is virtual itself.
@safe public final class FileBytes: Sendable {
    @safe private enum Place: @unchecked Sendable {
        case memory([UInt8])
        /// A read-only mapping, and the descriptor that holds the lease.
        case mapped(UnsafeBufferPointer<UInt8>, descriptor: Int32)
    }

    private let place: Place

    public init(_ bytes: [UInt8]) { place = .memory(bytes) }

    /// Maps the first `size` bytes, at least one, of a regular file. Nil where the host has no lease that keeps others from changing
    /// it meanwhile: the file is someone else's, is open for writing, or lies in a file system without leases.
    public init?(mapping descriptor: Int32, size: Int) {
        let own = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
        guard own >= 0 else { return nil }
        guard let start = unsafe chost_map_leased(own, size) else {
            close(own)
            return nil
        }
        // SAFETY: as many bytes are mapped, until `deinit`; they do not change as long as the lease is held.
        let bytes = unsafe UnsafeBufferPointer(start: start.assumingMemoryBound(to: UInt8.self), count: size)
        place = unsafe .mapped(bytes, descriptor: own)
    }

    deinit {
        guard case .mapped(let bytes, let descriptor) = place else { return }
        // SAFETY: what `init` mapped.
        unsafe munmap(UnsafeMutableRawPointer(mutating: bytes.baseAddress), bytes.count)
        // Ends the lease.
        close(descriptor)
    }

    /// Lends the bytes, as many as the file had, to `body`.
    public func withSpan<Result, Failure: Error>(
        _ body: (borrowing Span<UInt8>) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        switch place {
        case .memory(let bytes): return try body(bytes.span)
        // SAFETY: mapped as long as this object lives.
        case .mapped(let bytes, _): return try unsafe body(bytes.span)
        }
    }

    /// A copy in memory, where they are not there already.
    public var array: [UInt8] {
        switch place {
        case .memory(let bytes): return bytes
        case .mapped(let bytes, _): return unsafe Array(bytes)
        }
    }

    /// Whether they are in the file, and who would change it waits.
    public var isMapped: Bool {
        if case .mapped = place { return true }
        return false
    }
}
