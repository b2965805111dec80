// SPDX-License-Identifier: Apache-2.0
// The images of a chain that nobody writes: a snapshot can name them instead of copying them.

/// One read-only image file under a disk.
public struct BaseImage: Sendable {
    /// Absolute, without links.
    public var path: String
    public var format: DiskFormat
    /// When the file was last changed: nanoseconds since 1970.
    public var modified: UInt64
    /// The file's bytes, whatever they mean.
    public var contents: any DiskSource & Sendable
}

extension DiskImage {
    /// Where the images begin that are whole files which nobody writes, down to the last one.
    var firstBase: Int {
        (layers.lastIndex { $0.file.isWritable || $0.file.isPart } ?? -1) + 1
    }

    /// The images at the end of the chain that are whole files which nobody writes, the topmost first.
    public var bases: [BaseImage] {
        layers[firstBase...].map { layer in
            BaseImage(
                path: layer.file.realPath, format: layer.format, modified: layer.file.modified,
                contents: FileContents(layer.file))
        }
    }
}

/// A file's bytes as a disk.
private final class FileContents: DiskSource, @unchecked Sendable {
    private let file: ImageFile

    init(_ file: ImageFile) { self.file = file }

    var size: UInt64 { file.size }
    func nextStored(from offset: UInt64) -> Range<UInt64>? { file.nextData(from: offset) }

    func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(DiskImageError) {
        unsafe try file.read(at: offset, into: buffer)
    }
}
