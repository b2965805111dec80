// SPDX-License-Identifier: Apache-2.0
// What an image says about itself.

/// Facts about one image.
public struct DiskInformation: Equatable, Sendable {
    /// What only qcow2 images have.
    public struct Qcow2: Equatable, Sendable {
        public var version: Int
        public var clusterSize: UInt64
        public var compression: Qcow2Compression
        public var refcountBits: Int
        public var hasLazyRefcounts: Bool
        public var hasExtendedL2: Bool
        /// Marked as damaged.
        public var isCorrupt: Bool
        /// Its refcounts may be out of date.
        public var isDirty: Bool
        public var backingFile: String?
        public var backingFormat: String?
        /// The backing file as it is found from here.
        public var backingPath: String?
        public var snapshots: [DiskSnapshot]
    }

    public var path: String
    public var format: DiskFormat
    /// Bytes of the disk.
    public var size: UInt64
    /// Bytes that the file takes on the host.
    public var storedBytes: UInt64
    /// Nil for raw images.
    public var qcow2: Qcow2?
}

extension DiskTools {
    /// What the image at `path` says, the images behind it left aside. Damaged ones tell what they can.
    public static func information(path: String, format: DiskFormat? = nil) throws(DiskImageError) -> DiskInformation {
        let file = try ImageFile(path: path, isWritable: false, direct: false)
        let found: DiskFormat
        if let format { found = format } else { found = try .probe(file) }
        switch found {
        case .raw: return try information(RawLayer(file, fillsLastSector: true), path: path)
        case .qcow2: return try information(try Qcow2Layer(file, for: .examination), path: path)
        }
    }

    /// What each image of a chain says, the topmost first.
    public static func chainInformation(
        path: String, format: DiskFormat? = nil, allowsAnyBacking: Bool
    ) throws(DiskImageError) -> [DiskInformation] {
        let image = try open(path: path, format: format, allowsAnyBacking: allowsAnyBacking)
        var list: [DiskInformation] = []
        for layer in image.layers {
            list.append(try information(layer, path: list.last?.qcow2?.backingPath ?? path))
        }
        return list
    }

    private static func information(
        _ layer: any ImageLayer, path: String
    ) throws(DiskImageError) -> DiskInformation {
        var information = DiskInformation(
            path: path, format: layer.format, size: layer.size, storedBytes: layer.file.allocatedBytes)
        if layer.format == .raw { information.size = (layer.size + 511) & ~511 }
        guard let layer = layer as? Qcow2Layer else { return information }
        let header = layer.header
        information.qcow2 = DiskInformation.Qcow2(
            version: header.version, clusterSize: header.clusterSize, compression: header.compression,
            refcountBits: 1 << header.refcountOrder,
            hasLazyRefcounts: header.compatible & Qcow2Header.lazyRefcounts != 0, hasExtendedL2: header.hasExtendedL2,
            isCorrupt: header.incompatible.contains(.corrupt), isDirty: header.incompatible.contains(.dirty),
            backingFile: header.backingFile, backingFormat: header.backingFormat,
            backingPath: header.backingFile.map { combine(path, $0) }, snapshots: try layer.readSnapshots().list)
        return information
    }

    /// `name` as a file beside `path`.
    private static func combine(_ path: String, _ name: String) -> String {
        guard !name.hasPrefix("/"), !name.contains(":"), let slash = path.lastIndex(of: "/") else { return name }
        return path[...slash] + name
    }
}
