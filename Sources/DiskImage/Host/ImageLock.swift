// SPDX-License-Identifier: Apache-2.0
// Locks on image files, understood by QEMU and its tools too: one byte for each right that is used or denied to others.

internal import CHost

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

enum ImageLock {
    /// Bytes of the file that stand for rights in use, and for rights that others must not use.
    private static let used: off_t = 100
    private static let denied: off_t = 200

    private enum Right {
        static let consistentRead: off_t = 0
        static let write: off_t = 1
        static let resize: off_t = 3
    }

    /// Locks an open image: many readers, or one writer. Held until the descriptor is closed.
    static func take(_ descriptor: Int32, path: String, isWritable: Bool) throws(DiskImageError) {
        let mine = isWritable ? [Right.consistentRead, Right.write, Right.resize] : [Right.consistentRead]
        let refused = [Right.write, Right.resize]
        for byte in mine.map({ used + $0 }) + refused.map({ denied + $0 }) {
            // File systems without locks: there is nothing to be safe with.
            guard chost_lock_byte(descriptor, byte) == 0 else { return }
        }
        for byte in mine.map({ denied + $0 }) + refused.map({ used + $0 })
        where chost_byte_is_locked(descriptor, byte) == 1 {
            throw .inUse(path: path, forWriting: isWritable)
        }
    }
}
