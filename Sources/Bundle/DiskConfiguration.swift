// SPDX-License-Identifier: Apache-2.0
// A machine's disk as its bundle describes it.

internal import DiskImage

/// One disk of a machine.
public struct DiskConfiguration: Codable, Equatable, Sendable {
    /// An image outside of the bundle that the disk in it builds on.
    public struct Base: Codable, Equatable, Sendable {
        /// As an absolute path of the host that wrote the bundle.
        public var path: String
        /// `raw` or `qcow2`.
        public var format: String
        /// Of the file, in bytes.
        public var fileBytes: UInt64
        /// When the file was last changed: nanoseconds since 1970. A file with another time is read whole, to compare.
        public var modified: UInt64

        public init(path: String, format: String, fileBytes: UInt64, modified: UInt64) {
            self.path = path
            self.format = format
            self.fileBytes = fileBytes
            self.modified = modified
        }
    }

    /// 1 to 20 letters, digits, `.`, `_` or `-`: also what the guest reads as serial number.
    public var id: String
    /// Of the disk, in bytes, a multiple of 512.
    public var size: UInt64
    public var isReadOnly: Bool
    /// The topmost first; empty when the bundle has all of the disk.
    public var bases: [Base] = []

    public init(id: String, size: UInt64, isReadOnly: Bool) {
        self.id = id
        self.size = size
        self.isReadOnly = isReadOnly
    }

    /// Bytes of the longest id: what virtio has room for.
    public static let longestID = 20

    /// Whether `id` may name a disk.
    public static func isValid(id: String) -> Bool { BundleName.isValid(id) && id.utf8.count <= longestID }

    func validate() throws(BundleError) {
        guard Self.isValid(id: id) else {
            throw .invalidValue(
                field: "configuration.disks.id", value: "'\(id.prefix(80))'",
                allowed: "1 to \(Self.longestID) letters, digits, '.', '_' or '-'")
        }
        guard size.isMultiple(of: 512), size <= 1 << 61 else {
            throw .invalidValue(
                field: "configuration.disks.size", value: "\(size)", allowed: "a multiple of 512, at most 2^61")
        }
        guard bases.count <= BundleLimits.bases,
            bases.allSatisfy({ DiskFormat(rawValue: $0.format) != nil }),
            bases.allSatisfy({ $0.path.hasPrefix("/") && $0.path.utf8.count < 4096 && !$0.path.utf8.contains(0) })
        else {
            throw .invalidValue(
                field: "configuration.disks.bases", value: "\(bases.count) images",
                allowed: "at most \(BundleLimits.bases), raw or qcow2, with absolute paths")
        }
    }
}
