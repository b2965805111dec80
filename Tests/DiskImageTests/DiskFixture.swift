// SPDX-License-Identifier: Apache-2.0
// Images of every kind.

import DiskImage
import TestSupport
import Testing

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// A kind of image, and what it lies on.
struct ImageKind: CustomTestStringConvertible, Sendable {
    enum Backing { case none, raw, shortRaw, qcow2 }

    let testDescription: String
    /// Nil: raw.
    var options: Qcow2Options?
    var backing = Backing.none
    var isDirect = false
    /// Writes go to an overlay that is thrown away.
    var isScratch = false
    /// Of the disk, in bytes.
    var size: UInt64 = 5 << 20 | 7 << 9

    init(_ description: String, _ change: (inout ImageKind) -> Void = { _ in }) {
        testDescription = description
        change(&self)
    }

    private static func qcow2(
        _ description: String, backing: Backing = .none, _ change: (inout Qcow2Options) -> Void = { _ in }
    ) -> Self {
        Self("qcow2, " + description) {
            var options = Qcow2Options()
            change(&options)
            $0.options = options
            $0.backing = backing
        }
    }

    static let all: [Self] = [
        Self("raw"),
        Self("raw, direct") { $0.isDirect = true },
        qcow2("version 2") { $0.version = 2 },
        qcow2("clusters of 512 bytes") { $0.clusterSize = 512 },
        qcow2("clusters of 4 KiB, refcounts of 1 bit") {
            $0.clusterSize = 4096; $0.refcountBits = 1
        },
        qcow2("clusters of 64 KiB, refcounts of 64 bits") { $0.refcountBits = 64 },
        qcow2("clusters of 2 MiB") { $0.clusterSize = 2 << 20 },
        qcow2("lazy refcounts") {
            $0.clusterSize = 4096; $0.hasLazyRefcounts = true
        },
        qcow2("subclusters") {
            $0.clusterSize = 32 << 10; $0.hasExtendedL2 = true
        },
        qcow2("version 2 on qcow2", backing: .qcow2) {
            $0.version = 2; $0.clusterSize = 8 << 10
        },
        qcow2("on raw", backing: .raw),
        qcow2("on raw that is shorter", backing: .shortRaw) { $0.clusterSize = 16 << 10 },
        qcow2("subclusters on qcow2", backing: .qcow2) { $0.hasExtendedL2 = true },
        Self("qcow2, direct") {
            $0.options = Qcow2Options(); $0.isDirect = true
        },
        Self("overlay that is thrown away") {
            $0.backing = .raw; $0.isScratch = true
        },
    ]

    /// Those that can be killed and opened again.
    static let durable = all.filter { !$0.isScratch && !$0.isDirect }

    /// Makes the image in `folder`; returns its path and what the disk has at first.
    func make(in folder: TemporaryFolder, _ chance: inout SplitMix64) throws -> (path: String, content: [UInt8]) {
        var content = [UInt8](repeating: 0, count: Int(size))
        let base = folder.file("base")
        let path = isScratch ? base : folder.file("image")
        let baseSize = backing == .shortRaw ? Int(size) / 2 & ~511 : Int(size)
        if backing != .none {
            let bytes = chance.bytes(baseSize)
            // With holes, which read as zero.
            for start in stride(from: 0, to: baseSize - 100_000, by: 300_000) {
                content.replaceSubrange(start..<start + 100_000, with: bytes[start..<start + 100_000])
            }
            try writeFile(Array(content[..<baseSize]), to: backing == .qcow2 ? base + ".raw" : base)
            if backing == .qcow2 {
                var conversion = DiskConversion()
                conversion.format = .qcow2
                try DiskTools.convert(try DiskImage.open(path: base + ".raw"), to: base, conversion)
            }
        }
        guard !isScratch else { return (path, content) }
        let format: DiskFormat = backing == .qcow2 ? .qcow2 : .raw
        try DiskTools.create(
            path: path, format: options == nil ? .raw : .qcow2, size: size,
            base: backing == .none ? nil : DiskBase(name: "base", format: format), options ?? Qcow2Options())
        return (path, content)
    }

    func open(_ path: String, in folder: TemporaryFolder) throws -> DiskImage {
        var options = DiskOpenOptions()
        options.isDirect = isDirect
        if isScratch {
            options.scratchFolder = folder.path
            options.format = .raw
        }
        // A program that another test is about to start has copies of all descriptors, and their locks, until it runs.
        for _ in 0..<100 {
            do throws(DiskImageError) { return try DiskImage.open(path: path, options) } catch {
                guard case .inUse = error else { throw error }
                usleep(20_000)
            }
        }
        return try DiskImage.open(path: path, options)
    }
}
