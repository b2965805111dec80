// SPDX-License-Identifier: Apache-2.0
// New images, empty or on top of others.

/// What a new image lies on.
public struct DiskBase: Equatable, Sendable {
    /// As the image names it: relative to the image's own folder.
    public var name: String
    /// Nil: by the file's first bytes.
    public var format: DiskFormat?

    public init(name: String, format: DiskFormat?) {
        self.name = name
        self.format = format
    }
}

extension DiskTools {
    /// Makes an image. Sizes are rounded up to whole sectors.
    /// - Parameters:
    ///   - size: of the disk in bytes; nil: the base's.
    ///   - replacing: a file of this name may go.
    public static func create(
        path: String, format: DiskFormat, size: UInt64?, base: DiskBase?, _ options: Qcow2Options = .init(),
        allowsAnyBacking: Bool = false, replacing: Bool = false
    ) throws(DiskImageError) {
        var options = options
        var size = size
        if let base {
            guard format == .qcow2 else {
                throw .invalidValue(field: "the format of an image with a base", value: "raw", allowed: "qcow2")
            }
            let image = try openBase(base, of: path, allowsAnyBacking: allowsAnyBacking)
            options.backingFile = base.name
            options.backingFormat = image.format
            size = size ?? image.size
        }
        guard let size else {
            throw .invalidValue(field: "the disk's size", value: "missing", allowed: "given where there is no base")
        }
        guard size <= Qcow2Header.Limit.virtualSize else {
            throw .invalidValue(field: "the disk's size", value: "\(size)", allowed: "at most 2^61")
        }
        let rounded = (size + 511) & ~511
        let new = try NewImageFile(path: path, replacing: replacing)
        switch format {
        case .raw: try new.file.truncate(to: rounded)
        case .qcow2: try Qcow2Create.empty(new.file, size: rounded, options)
        }
        try new.finish()
    }

    /// Opens what an image at `path` shall lie on, as that image will find it.
    static func openBase(
        _ base: DiskBase, of path: String, allowsAnyBacking: Bool
    ) throws(DiskImageError) -> DiskImage {
        let found = try DiskImage.resolve(
            base.name, from: path, root: DiskImage.folder(of: path), allowsAnyBacking)
        if let real = resolvedPath(path), real == resolvedPath(found) {
            throw .backingRefused(image: path, backing: base.name, reason: "it is the image itself")
        }
        return try open(path: found, format: base.format, allowsAnyBacking: allowsAnyBacking)
    }
}
