// SPDX-License-Identifier: Apache-2.0
// What people do with disk images, without a machine.

/// Tools for disk images. Nothing of a machine's may be under way on them.
public enum DiskTools {
    /// Bytes that are copied at once.
    static let block = 1 << 20

    /// Opens a disk to read all of it.
    public static func open(
        path: String, format: DiskFormat? = nil, snapshot: String? = nil, allowsAnyBacking: Bool = false
    ) throws(DiskImageError) -> DiskImage {
        var options = DiskOpenOptions()
        options.isReadOnly = true
        options.format = format
        options.isDirect = false
        options.snapshot = snapshot
        options.allowsAnyBacking = allowsAnyBacking
        options.fillsLastSector = true
        let image = try DiskImage.open(path: path, options)
        if snapshot != nil, image.format == .raw {
            throw .invalidValue(field: "the format of \(path)", value: "raw", allowed: "qcow2, to have snapshots")
        }
        return image
    }
}

extension DiskImage {
    /// Waits for the end of what was asked for.
    func settle(_ operation: String) throws(DiskImageError) {
        drain()
        for completion in takeCompletions() where completion.error != 0 {
            throw .io(operation: operation, path: path, errno: completion.error)
        }
    }

    /// Makes a range of any length read as zero.
    func zeroAll(_ range: Range<UInt64>) throws(DiskImageError) {
        var offset = range.lowerBound
        while offset < range.upperBound {
            let count = min(range.upperBound - offset, Self.largestRequest)
            zero(0, at: offset, count: count, releasing: true)
            try settle("write")
            offset += count
        }
    }

    /// Puts all that was written on the disk.
    func flushAll() throws(DiskImageError) {
        flush(0)
        try settle("write")
    }
}
