// SPDX-License-Identifier: Apache-2.0
// An overlay's data goes into the image below it.

extension DiskTools {
    /// Writes what the qcow2 image at `path` holds into its backing file, then empties it. The backing file grows where the
    /// overlay's disk is larger.
    public static func commit(
        path: String, allowsAnyBacking: Bool = false, progress: ((Double) -> Void)? = nil
    ) throws(DiskImageError) {
        let overlay = try openToChange(path: path, allowsAnyBacking: allowsAnyBacking, ignoresBacking: true)
        guard let layer = overlay.top as? Qcow2Layer, let name = layer.header.backingFile else {
            throw .invalidValue(field: "the backing file of \(path)", value: "missing", allowed: "there")
        }
        let found = try DiskImage.resolve(
            name, from: path, root: DiskImage.folder(of: path), allowsAnyBacking)
        var format: DiskFormat?
        if let told = layer.header.backingFormat {
            format = DiskFormat(rawValue: told)
            guard format != nil else {
                throw .backingRefused(
                    image: path, backing: name, reason: "its format is '\(told)'; raw and qcow2 are supported")
            }
        }
        let base: DiskImage
        do throws(DiskImageError) {
            base = try openToChange(path: found, format: format, allowsAnyBacking: allowsAnyBacking)
        } catch {
            throw .backingRefused(image: path, backing: name, reason: error.description)
        }
        guard base.layers.allSatisfy({ $0.file.identity != layer.file.identity }) else {
            throw .backingRefused(image: path, backing: name, reason: "it is in the chain already")
        }
        if base.size < overlay.size { try base.resizeTop(to: overlay.size) }
        try copy(layer, overlay, to: base, progress)
        // All of it is below before any of it goes here.
        try base.flushAll()
        try base.close()
        try layer.empty()
        progress?(1)
    }

    private static func copy(
        _ layer: Qcow2Layer, _ overlay: DiskImage, to base: DiskImage, _ progress: ((Double) -> Void)?
    ) throws(DiskImageError) {
        let buffer = try AlignedBuffer(count: block)
        var position: UInt64 = 0
        while position < layer.size {
            let extent = try layer.extent(at: position, limit: layer.size - position)
            let end = position + extent.count
            switch extent.mapping {
            case .hole: position = end
            case .zero:
                try base.zeroAll(position..<end)
                position = end
            case .data, .compressed:
                while position < end {
                    let count = Int(min(end - position, UInt64(block)))
                    guard let start = unsafe buffer.bytes.baseAddress else { return }
                    // SAFETY: `count` is at most the buffer's size.
                    unsafe try overlay.read(
                        at: position, into: UnsafeMutableRawBufferPointer(start: start, count: count))
                    unsafe base.write(0, at: position, from: [DiskBuffer(start: start, count: count)])
                    try base.settle("write")
                    position += UInt64(count)
                    progress?(Double(position) / Double(layer.size))
                }
            }
        }
    }
}
