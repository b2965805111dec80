// SPDX-License-Identifier: Apache-2.0
// Memory that the host's direct I/O accepts.

internal import CHost

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// Bytes aligned to 4096, not initialised.
@safe final class AlignedBuffer: @unchecked Sendable {
    let bytes: UnsafeMutableRawBufferPointer

    init(count: Int) throws(DiskImageError) {
        guard let start = unsafe chost_aligned(max(count, 1)) else {
            throw .outOfMemory(purpose: "\(count) bytes of disk buffers")
        }
        unsafe bytes = UnsafeMutableRawBufferPointer(start: start, count: count)
    }

    deinit { unsafe free(bytes.baseAddress) }

    /// Zero-filled.
    static func zeros(count: Int) throws(DiskImageError) -> AlignedBuffer {
        let buffer = try AlignedBuffer(count: count)
        unsafe _ = buffer.bytes.initializeMemory(as: UInt8.self, repeating: 0)
        return buffer
    }
}
