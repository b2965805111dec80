// SPDX-License-Identifier: Apache-2.0
// Why a `.smolmachine` file could not be written, opened or used.

internal import Host

/// Why a bundle was not written or was refused.
public enum BundleError: Error, Equatable, CustomStringConvertible {
    /// A system call on the file failed.
    case io(operation: String, path: String, errno: Int32)
    /// The file is no bundle at all, or is cut off.
    case notABundle(path: String, reason: String)
    /// Written by a smolvmm that is newer than this one.
    case newerFormat(path: String, version: Int, newest: Int)
    /// The bytes of `member` are not what its writer wrote, or break a rule of the format.
    case damaged(member: String, reason: String)
    case tooLarge(member: String, size: UInt64, limit: UInt64)
    case noSuchMember(String)
    /// The caller (when writing) or the manifest (when reading) has a value that cannot be.
    case invalidValue(field: String, value: String, allowed: String)
    case malformedState(layer: String, reason: String)
    /// The machine's memory is laid out differently from the bundle's.
    case memoryMismatch(bundle: String, machine: String)
    case outOfMemory(purpose: String)
    /// The host ended the process that kept the guest's memory as it was.
    case memoryLost
    /// A disk could not be read or opened; the reason is the image's own.
    case disk(id: String, reason: String)

    public var description: String {
        switch self {
        case .io(let operation, let path, let code):
            "cannot \(operation) \(path): \(errorText(code))"
        case .notABundle(let path, let reason):
            "\(path) is not a whole .smolmachine file: \(reason)"
        case .newerFormat(let path, let version, let newest):
            "\(path) has format version \(version); this smolvmm reads up to \(newest): update smolvmm"
        case .damaged(let member, let reason):
            "\(member) is damaged: \(reason)"
        case .tooLarge(let member, let size, let limit):
            "\(member) has \(size) bytes; at most \(limit) are allowed"
        case .noSuchMember(let name):
            "the bundle has no member \(name)"
        case .invalidValue(let field, let value, let allowed):
            "\(field) is \(value), must be \(allowed)"
        case .malformedState(let layer, let reason):
            "state/\(layer).json is malformed: \(reason)"
        case .memoryMismatch(let bundle, let machine):
            "the bundle's memory is \(bundle), the machine's is \(machine)"
        case .outOfMemory(let purpose):
            "the host has no memory for \(purpose)"
        case .memoryLost:
            "the host ended the process that kept the frozen memory, which happens when it is short of memory: try again"
        case .disk(let id, let reason):
            "disk '\(id)': \(reason)"
        }
    }
}
