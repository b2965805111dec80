// SPDX-License-Identifier: Apache-2.0
// Disks in bundles: used in place, checked as they are read, with bases inside or outside.

import Bundle
import DiskImage
import TestSupport
import Testing

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// A disk in memory; pieces of 64 KiB that are all zeros are not stored.
private final class MemoryDisk: DiskSource, @unchecked Sendable {
    static let piece: UInt64 = 64 << 10

    let bytes: [UInt8]
    var size: UInt64 { UInt64(bytes.count) }

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    func nextStored(from offset: UInt64) -> Range<UInt64>? {
        var start = offset
        while start < size {
            let end = min(size, (start / Self.piece + 1) * Self.piece)
            if bytes[Int(start)..<Int(end)].contains(where: { $0 != 0 }) { return start..<end }
            start = end
        }
        return nil
    }

    func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) {
        let end = min(bytes.count, Int(offset) + buffer.count)
        let part = Array(bytes[min(Int(offset), end)..<end])
        unsafe buffer.copyBytes(from: part + [UInt8](repeating: 0, count: buffer.count - part.count))
    }
}

struct DiskTests {
    private static let size = 900_096

    /// Noise, zeros, noise.
    private func content() -> [UInt8] {
        noise(200_000, seed: 7) + [UInt8](repeating: 0, count: 400_000) + noise(Self.size - 600_000, seed: 8)
    }

    private func write(_ disks: [(DiskConfiguration, BundleDiskContents)], to path: String) throws {
        var contents = smallContents(memory: try smallMemory())
        contents.configuration.disks = disks.map(\.0)
        contents.disks = disks.map(\.1)
        contents.configuration.devices = ["console", "entropy"]
        _ = try BundleWriter.write(contents, to: path)
    }

    private func bytes(_ image: DiskImage) throws -> [UInt8] {
        var failure: (any Error)?
        let count = Int(image.size)
        let all = unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            // SAFETY: the buffer has `count` bytes.
            do { unsafe try image.read(at: 0, into: UnsafeMutableRawBufferPointer(buffer)) } catch { failure = error }
            filled = failure == nil ? count : 0
        }
        if let failure { throw failure }
        return all
    }

    @Test func `disks come back, and an overlay takes what is written`() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("disks.smolmachine")
        let disk = DiskConfiguration(id: "root", size: UInt64(Self.size), isReadOnly: false)
        var other = DiskConfiguration(id: "data", size: 1024, isReadOnly: true)
        other.bases = []
        try write(
            [
                (disk, BundleDiskContents(source: MemoryDisk(content()))),
                (other, BundleDiskContents(source: MemoryDisk(noise(1024, seed: 9)))),
            ], to: path)
        let before = try readFile(path)
        let reader = try BundleReader(path: path)
        _ = try reader.verify()
        #expect(reader.manifest.configuration.devices == ["console", "entropy"])
        for _ in 0..<2 {
            let disks = try reader.openDisks(scratchFolder: folder.path)
            #expect(try bytes(disks[0]) == content())
            #expect(try bytes(disks[1]) == noise(1024, seed: 9))
            #expect(disks[1].isReadOnly && !disks[0].isReadOnly)
            var new = noise(4096, seed: 10)
            unsafe new.withUnsafeMutableBytes { buffer in
                // SAFETY: drained before the buffer goes away.
                guard let start = buffer.baseAddress else { return }
                unsafe disks[0].write(1, at: 8192, from: [DiskBuffer(start: start, count: 4096)])
                disks[0].drain()
            }
            #expect(try Array(bytes(disks[0])[8192..<12288]) == new)
        }
        #expect(try readFile(path) == before)
    }

    @Test func `a changed piece is found by verify, and is not read`() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("disks.smolmachine")
        let disk = DiskConfiguration(id: "root", size: UInt64(Self.size), isReadOnly: false)
        try write([(disk, BundleDiskContents(source: MemoryDisk(content())))], to: path)
        let whole = try readFile(path)
        let mark = noise(200_000, seed: 7)[100_000..<100_032]
        let place = try #require(whole.indices.first { whole[$0...].starts(with: mark) })
        var damaged = whole
        damaged[place] ^= 1
        try writeFile(damaged, to: path)
        let error = bundleError { _ = try BundleReader(path: path).verify() }
        #expect(error?.description.contains("disks/0.qcow2") == true)
        let image = try BundleReader(path: path).openDisks(scratchFolder: folder.path)[0]
        #expect(throws: DiskImageError.self) { try bytes(image) }
    }

    @Test func `a base outside is refused when it is missing, longer, or another`() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("disks.smolmachine")
        let base = folder.file("base.img")
        try writeFile(content(), to: base)
        var information = stat()
        #expect(unsafe stat(base, &information) == 0)
        let modified = UInt64(information.st_mtim.tv_sec) * 1_000_000_000 + UInt64(information.st_mtim.tv_nsec)
        var disk = DiskConfiguration(id: "root", size: UInt64(Self.size), isReadOnly: false)
        disk.bases = [.init(path: base, format: "raw", fileBytes: UInt64(Self.size), modified: modified)]
        // Only its second piece is the disk's own.
        let own =
            [UInt8](repeating: 0, count: 65536) + noise(65536, seed: 11)
            + [UInt8](repeating: 0, count: Self.size - 131_072)
        try write(
            [(disk, BundleDiskContents(source: MemoryDisk(own), bases: [MemoryDisk(content())]))], to: path)
        var expected = content()
        expected.replaceSubrange(65536..<131_072, with: own[65536..<131_072])
        func open() throws -> [UInt8] {
            try bytes(try BundleReader(path: path).openDisks(scratchFolder: folder.path)[0])
        }
        #expect(try open() == expected)
        var changed = content()
        changed[700_000] ^= 1
        try writeFile(changed, to: base)
        #expect(bundleError { _ = try open() }?.description.contains("not what it was") == true)
        try writeFile(content(), to: base)
        #expect(try open() == expected)
        try writeFile(content() + [0], to: base)
        #expect(bundleError { _ = try open() }?.description.contains("900097 bytes") == true)
        #expect(unsafe unlink(base) == 0)
        #expect(bundleError { _ = try open() }?.description.contains("base.img") == true)
    }

    @Test func `a disk that the configuration does not describe is refused before anything is written`() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("disks.smolmachine")
        for (id, size) in [("", 512), ("a/b", 512), ("012345678901234567890", 512), ("a", 513)] as [(String, UInt64)] {
            let disk = DiskConfiguration(id: id, size: size, isReadOnly: false)
            let error = bundleError {
                try write([(disk, BundleDiskContents(source: MemoryDisk(noise(512, seed: 1))))], to: path)
            }
            #expect(error != nil, "id '\(id)', size \(size)")
        }
        #expect(folder.names.isEmpty)
    }
}
