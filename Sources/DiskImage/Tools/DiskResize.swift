// SPDX-License-Identifier: Apache-2.0
// A larger or smaller disk in the same image.

extension DiskTools {
    /// Opens an image to change it.
    static func openToChange(
        path: String, format: DiskFormat? = nil, allowsAnyBacking: Bool, ignoresBacking: Bool = false
    ) throws(DiskImageError) -> DiskImage {
        var options = DiskOpenOptions()
        options.format = format
        options.isDirect = false
        options.allowsAnyBacking = allowsAnyBacking
        options.ignoresBacking = ignoresBacking
        options.fillsLastSector = true
        return try DiskImage.open(path: path, options)
    }

    /// Gives the disk at `path` the size that `newSize` makes of its old one, rounded up to a whole sector.
    /// - Parameter shrinks: what is behind the new end may be lost.
    /// - Returns: the new size.
    @discardableResult
    public static func resize(
        path: String, format: DiskFormat? = nil, shrinks: Bool, allowsAnyBacking: Bool = false,
        _ newSize: (UInt64) throws(DiskImageError) -> UInt64
    ) throws(DiskImageError) -> UInt64 {
        let image = try openToChange(path: path, format: format, allowsAnyBacking: allowsAnyBacking)
        let wanted = try newSize(image.size)
        guard wanted <= Qcow2Header.Limit.virtualSize else {
            throw .invalidValue(field: "the disk's size", value: "\(wanted)", allowed: "at most 2^61")
        }
        let size = (wanted + 511) & ~511
        guard size >= image.size || shrinks else {
            throw .invalidValue(
                field: "the disk's size", value: "\(size)",
                allowed: "at least \(image.size): with --shrink, what is behind the new end is lost")
        }
        try image.resizeTop(to: size)
        try image.close()
        return size
    }
}

extension DiskImage {
    /// Resizes the topmost image; what is added reads as zero, whatever was there or lies below.
    func resizeTop(to size: UInt64) throws(DiskImageError) {
        let old = top.size
        if size < old, top.format == .qcow2 {
            // The rest of the last cluster stays: nothing must be found in it by a larger disk.
            let end = min(old, (size + top.clusterSize - 1) & ~(top.clusterSize - 1))
            try zeroAll(size..<end)
        }
        try locked { () throws(DiskImageError) in try top.resize(to: size) }
        let below = layers.dropFirst().first?.size ?? 0
        if size > old, below > old {
            try zeroAll(old..<min(size, below))
            try flushAll()
        }
    }
}
