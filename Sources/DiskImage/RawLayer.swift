// SPDX-License-Identifier: Apache-2.0
// A raw image: the disk's bytes, as they are.

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

final class RawLayer: ImageLayer {
    let file: ImageFile
    private(set) var size: UInt64
    /// What space is given back in.
    let clusterSize: UInt64 = 4096
    let format = DiskFormat.raw
    var sequence: UInt64 = 0

    /// - Parameter fillsLastSector: the file's last sector is taken for whole.
    init(_ file: ImageFile, fillsLastSector: Bool = false) {
        self.file = file
        size = fillsLastSector ? (file.size + 511) & ~511 : file.size
    }

    func extent(at offset: UInt64, limit: UInt64) throws(DiskImageError) -> Extent {
        Extent(mapping: .data(offset), count: min(limit, size - offset))
    }

    func expand(_ cluster: CompressedCluster) throws(DiskImageError) -> AlignedBuffer {
        throw .corrupt(path: file.path, reason: "a raw image has no compressed clusters")
    }

    func planWrite(at offset: UInt64, limit: UInt64) throws(DiskImageError) -> WriteStep {
        WriteStep(offset: offset, count: min(limit, size - offset), hostOffset: offset)
    }

    func publish(_ step: WriteStep) {}
    func abandon(_ step: WriteStep) {}

    func zero(at offset: UInt64, count: UInt64, releasing: Bool) -> Bool {
        releasing && file.punchHole(at: offset, count: count)
    }

    func discard(at offset: UInt64, count: UInt64) { _ = file.punchHole(at: offset, count: count) }

    var isCrowded: Bool { false }
    func beginFlush() -> FlushPlan { FlushPlan() }
    func endFlush(_ plan: FlushPlan, failed: Bool) {}
    func reclaim(before sequence: UInt64) {}

    func resize(to newSize: UInt64) throws(DiskImageError) {
        try file.truncate(to: newSize)
        size = newSize
    }

    func close() throws(DiskImageError) {}
}
