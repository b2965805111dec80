// SPDX-License-Identifier: Apache-2.0
// A disk as a new image of another kind.

/// What a disk is converted to.
public struct DiskConversion: Equatable, Sendable {
    public var format = DiskFormat.qcow2
    /// Where the format is qcow2.
    public var qcow2 = Qcow2Options()
    public var compresses = false
    /// Store only what differs from this disk.
    public var base: DiskBase?
    public var allowsAnyBacking = false
    /// A file of the new image's name may go.
    public var replaces = false

    public init() {}
}

extension DiskTools {
    /// Writes all of `source` as a new image at `path`.
    public static func convert(
        _ source: DiskImage, to path: String, _ conversion: DiskConversion, progress: ((Double) -> Void)? = nil
    ) throws(DiskImageError) {
        var options = conversion.qcow2
        var base: DiskImage?
        if let named = conversion.base {
            guard conversion.format == .qcow2 else {
                throw .invalidValue(field: "the format of an image with a base", value: "raw", allowed: "qcow2")
            }
            let image = try openBase(named, of: path, allowsAnyBacking: conversion.allowsAnyBacking)
            options.backingFile = named.name
            options.backingFormat = image.format
            base = image
        }
        let new = try NewImageFile(path: path, replacing: conversion.replaces)
        switch conversion.format {
        case .raw: try writeRaw(source, to: new.file, progress)
        case .qcow2:
            try Qcow2Stream.write(
                source, to: new.file, options, base: base, compresses: conversion.compresses, progress: progress)
        }
        try new.finish()
    }

    /// Blocks of zeros become holes.
    private static func writeRaw(
        _ source: DiskImage, to file: ImageFile, _ progress: ((Double) -> Void)?
    ) throws(DiskImageError) {
        let size = source.size
        try file.truncate(to: size)
        let buffer = try AlignedBuffer(count: block)
        var offset: UInt64 = 0
        while offset < size, let stored = try source.nextStored(from: offset) {
            offset = stored.lowerBound
            while offset < stored.upperBound {
                // Up to a multiple of the buffer's size, so that holes are whole blocks of the file system.
                let count = min(UInt64(block) - offset % UInt64(block), stored.upperBound - offset)
                // SAFETY: `count` is at most the buffer's size.
                let bytes = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<Int(count)])
                unsafe try source.read(at: offset, into: bytes)
                unsafe try writeNonzero(UnsafeRawBufferPointer(bytes), to: file, at: offset)
                offset += count
                progress?(Double(offset) / Double(max(size, 1)))
            }
        }
        progress?(1)
    }

    private static func writeNonzero(
        _ bytes: UnsafeRawBufferPointer, to file: ImageFile, at offset: UInt64
    ) throws(DiskImageError) {
        var run: Int?
        var position = 0
        while position < bytes.count {
            let end = min(bytes.count, position + 4096 - Int((offset + UInt64(position)) % 4096))
            // SAFETY: `end` is at most the buffer's size, here and below.
            let isZero = unsafe Qcow2Stream.isZero(UnsafeRawBufferPointer(rebasing: bytes[position..<end]))
            if isZero, let start = run {
                unsafe try file.write(
                    UnsafeRawBufferPointer(rebasing: bytes[start..<position]), at: offset + UInt64(start))
                run = nil
            } else if !isZero, run == nil {
                run = position
            }
            position = end
        }
        if let start = run {
            unsafe try file.write(UnsafeRawBufferPointer(rebasing: bytes[start...]), at: offset + UInt64(start))
        }
    }
}
