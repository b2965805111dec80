// SPDX-License-Identifier: Apache-2.0
// Why a disk image could not be made, opened or used.

internal import Host

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// Why an image was refused, or an operation on it failed.
public enum DiskImageError: Error, Equatable, CustomStringConvertible {
    /// A system call on the file failed.
    case io(operation: String, path: String, errno: Int32)
    /// The file breaks a rule of its format; `reason` names the field and the offset.
    case corrupt(path: String, reason: String)
    /// The file uses something that this smolvmm does not have.
    case unsupported(path: String, feature: String)
    /// The backing file that an image names is not one that may be opened.
    case backingRefused(image: String, backing: String, reason: String)
    /// Another process has the image open.
    case inUse(path: String, forWriting: Bool)
    case readOnly(path: String)
    /// A new file would replace another.
    case exists(path: String)
    case invalidValue(field: String, value: String, allowed: String)
    case outOfRange(offset: UInt64, count: UInt64, size: UInt64)
    case outOfMemory(purpose: String)

    public var description: String {
        switch self {
        case .io(let operation, let path, let code): "cannot \(operation) \(path): \(errorText(code))"
        case .corrupt(let path, let reason): "\(path) is damaged: \(reason)"
        case .unsupported(let path, let feature): "\(path) uses \(feature), which this smolvmm does not support"
        case .backingRefused(let image, let backing, let reason):
            "\(image) names the backing file '\(backing)', which is refused: \(reason)"
        case .inUse(let path, let forWriting):
            "\(path) is in use by another process"
                + (forWriting
                    ? ": it can be written by one at a time (use ',overlay' to leave it unchanged)"
                    : ", which writes to it")
        case .exists(let path): "\(path) exists already (--force replaces it)"
        case .readOnly(let path): "\(path) is open for reading only"
        case .invalidValue(let field, let value, let allowed): "\(field) is \(value), must be \(allowed)"
        case .outOfRange(let offset, let count, let size):
            "\(count) bytes at \(offset) are not all in the disk's \(size) bytes"
        case .outOfMemory(let purpose): "the host has no memory for \(purpose)"
        }
    }

    /// The host's error number that a guest's request fails for.
    var code: Int32 {
        switch self {
        case .io(_, _, let code): code
        case .outOfMemory: ENOMEM
        case .readOnly: EROFS
        case .outOfRange: EINVAL
        default: EIO
        }
    }
}

/// An offset or value as a person compares it with a dump.
func hexadecimal(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }
