// SPDX-License-Identifier: Apache-2.0
// Which image of a chain holds which part of a disk.

/// A part of a disk that is found in one place.
public struct DiskMapEntry: Equatable, Sendable {
    /// Bytes of the disk.
    public var start: UInt64
    public var length: UInt64
    /// Of the image in the chain: 0 is the topmost.
    public var depth: Int
    /// An image says what is here; else it is zero because none does.
    public var isPresent: Bool
    public var isZero: Bool
    public var isData: Bool
    /// In the image's file, where the bytes are there as they are.
    public var offset: UInt64?

    func isContinued(by next: Self) -> Bool {
        guard depth == next.depth, isPresent == next.isPresent, isZero == next.isZero, isData == next.isData else {
            return false
        }
        guard let offset, let further = next.offset else { return offset == nil && next.offset == nil }
        return offset + length == further
    }
}

extension DiskTools {
    /// The paths of a disk's images, the topmost first.
    public static func paths(of image: DiskImage) -> [String] { image.layers.map(\.file.path) }

    /// Hands all parts of a disk to `body`, in order and as long as they can be.
    public static func map(_ image: DiskImage, _ body: (DiskMapEntry) -> Void) throws(DiskImageError) {
        var pending: DiskMapEntry?
        var position: UInt64 = 0
        let size = image.size
        while position < size {
            let entry = try image.locked { () throws(DiskImageError) in
                try image.mapEntry(position, limit: size - position)
            }
            position += entry.length
            if let last = pending, last.isContinued(by: entry) {
                pending?.length += entry.length
            } else {
                if let pending { body(pending) }
                pending = entry
            }
        }
        if let pending { body(pending) }
    }
}

extension DiskImage {
    /// What is at `position`. With the lock held.
    fileprivate func mapEntry(_ position: UInt64, limit: UInt64) throws(DiskImageError) -> DiskMapEntry {
        var entry = DiskMapEntry(
            start: position, length: limit, depth: 0, isPresent: false, isZero: true, isData: false)
        for (depth, layer) in layers.enumerated() {
            // Behind the end of what lies below, the image above stands for the zeros.
            guard position < layer.size else { break }
            let extent = try layer.extent(at: position, limit: min(entry.length, layer.size - position))
            entry.length = extent.count
            entry.depth = depth
            guard extent.mapping != .hole else {
                if (layer as? Qcow2Layer)?.hasSubclusters == true {
                    try layer.narrow(&entry)
                } else {
                    entry.offset = nil
                }
                continue
            }
            entry.offset = nil
            entry.isPresent = true
            switch extent.mapping {
            case .data(let host):
                entry.offset = host
                entry.isZero = false
                entry.isData = true
                if layer.format == .raw { layer.file.narrow(&entry) }
            case .compressed:
                entry.isZero = false
                entry.isData = true
            case .zero: try layer.narrow(&entry)
            case .hole: break
            }
            break
        }
        return entry
    }
}

extension ImageFile {
    /// Cuts a part of a raw image to what its file stores, or to the hole that is there instead.
    fileprivate func narrow(_ entry: inout DiskMapEntry) {
        let data = nextData(from: entry.start)
        if let data, data.lowerBound <= entry.start {
            entry.length = min(entry.length, data.upperBound - entry.start)
        } else {
            if let data { entry.length = min(entry.length, data.lowerBound - entry.start) }
            entry.isZero = true
            entry.isData = false
        }
    }
}

extension ImageLayer {
    /// Cuts a part that holds no data to one cluster, and notes the space that the cluster has all the same.
    fileprivate func narrow(_ entry: inout DiskMapEntry) throws(DiskImageError) {
        entry.length = min(entry.length, clusterSize - entry.start % clusterSize)
        entry.offset = try (self as? Qcow2Layer)?.space(at: entry.start)
    }
}

extension Qcow2Layer {
    /// Where the byte at `offset` would go in the file; nil where there is no space for it yet.
    fileprivate func space(at offset: UInt64) throws(DiskImageError) -> UInt64? {
        let cluster = offset >> clusterBits
        guard let table = try mappingTable(cluster) else { return nil }
        let index = Int(cluster % entriesPerTable)
        let entry = table.entry(hasSubclusters ? index * 2 : index)
        guard entry & Entry.compressed == 0, entry & Entry.offsetMask != 0 else { return nil }
        return entry & Entry.offsetMask + offset & (clusterSize - 1)
    }
}
