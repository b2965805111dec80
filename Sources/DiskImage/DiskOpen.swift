// SPDX-License-Identifier: Apache-2.0
// Opens a disk: the image that was named and those behind it, of which none is trusted.

internal import CHost
internal import Host

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// How a disk is opened.
public struct DiskOpenOptions: Equatable, Sendable {
    public var isReadOnly = false
    /// Nil: by the file's first bytes.
    public var format: DiskFormat?
    /// A folder for an overlay that takes all writes and is thrown away; nil: the image itself takes them.
    public var scratchFolder: String?
    /// Past the host's cache where the file system can, with the kernel's asynchronous I/O.
    public var isDirect = true
    /// Backing files may be anywhere, not only beside the image or below.
    public var allowsAnyBacking = false
    /// Read the disk as it was at this internal snapshot.
    public var snapshot: String?
    /// A raw file whose end is inside a sector counts as if zeros filled that sector: for tools, not for guests.
    public var fillsLastSector = false
    /// Stop at the first image.
    public var ignoresBacking = false

    public init() {}
}

extension DiskImage {
    /// A chain has at most so many images.
    private static let longestChain = 64

    /// Opens the disk whose topmost image is at `path`.
    public static func open(path: String, _ options: DiskOpenOptions = .init()) throws(DiskImageError) -> DiskImage {
        let isWritable = !options.isReadOnly && options.scratchFolder == nil
        let file = try ImageFile(path: path, isWritable: isWritable, direct: options.isDirect)
        return try open(file, options)
    }

    /// Opens the disk in `file`: a part of a bundle, for instance.
    public static func open(_ file: ImageFile, _ options: DiskOpenOptions) throws(DiskImageError) -> DiskImage {
        let format: DiskFormat
        if let told = options.format { format = told } else { format = try .probe(file) }
        var layers: [any ImageLayer] = []
        if format == .raw, !file.size.isMultiple(of: 512), !options.fillsLastSector {
            throw .invalidValue(
                field: "the size of \(file.path)", value: "\(file.size) bytes",
                allowed: "a multiple of 512 ('smolvmm disk resize' makes it one)")
        }
        switch format {
        case .raw: layers.append(RawLayer(file, fillsLastSector: options.fillsLastSector))
        case .qcow2:
            let layer = try Qcow2Layer.open(file)
            if let snapshot = options.snapshot { try layer.show(snapshot: snapshot) }
            layers.append(layer)
            if !options.ignoresBacking { try appendBacking(of: layer, to: &layers, options) }
        }
        if let folder = options.scratchFolder {
            layers.insert(try Qcow2Create.scratchOverlay(size: layers[0].size, in: folder), at: 0)
        }
        let isScratch = options.scratchFolder != nil
        return DiskImage(
            layers, isReadOnly: options.isReadOnly, isScratch: isScratch,
            usesKernel: layers.contains { $0.file.directDescriptor >= 0 })
    }

    /// Opens the disk whose images are in `files`, the topmost first, whatever backing files they name, under an overlay
    /// that is thrown away.
    public static func open(
        chain files: [ImageFile], formats: [DiskFormat], isReadOnly: Bool, scratchFolder: String
    ) throws(DiskImageError) -> DiskImage {
        var layers: [any ImageLayer] = []
        for (file, format) in zip(files, formats) {
            switch format {
            case .raw: layers.append(RawLayer(file))
            case .qcow2: layers.append(try Qcow2Layer.open(file))
            }
        }
        guard let base = layers.first else {
            throw .invalidValue(field: "the chain of images", value: "empty", allowed: "at least one")
        }
        if !isReadOnly { layers.insert(try Qcow2Create.scratchOverlay(size: base.size, in: scratchFolder), at: 0) }
        return DiskImage(layers, isReadOnly: isReadOnly, isScratch: !isReadOnly, usesKernel: false)
    }

    private static func appendBacking(
        of image: Qcow2Layer, to layers: inout [any ImageLayer], _ options: DiskOpenOptions
    ) throws(DiskImageError) {
        let root = folder(of: image.file.path)
        var seen = [image.file.identity]
        var current = image
        while let name = current.header.backingFile {
            func refuse(_ reason: String) -> DiskImageError {
                .backingRefused(image: current.file.path, backing: name, reason: reason)
            }
            guard layers.count < longestChain else { throw refuse("the chain has more than \(longestChain) images") }
            let path = try resolve(name, from: current.file.path, root: root, options.allowsAnyBacking)
            let file: ImageFile
            do throws(DiskImageError) { file = try ImageFile(path: path, isWritable: false, direct: false) } catch {
                throw refuse(error.description)
            }
            guard !seen.contains(file.identity) else { throw refuse("it is in the chain already") }
            seen.append(file.identity)
            let format: DiskFormat
            if let told = current.header.backingFormat {
                guard let known = DiskFormat(rawValue: told) else {
                    throw refuse("its format is '\(told)'; raw and qcow2 are supported")
                }
                format = known
            } else {
                format = try .probe(file)
            }
            guard format == .qcow2 else {
                layers.append(RawLayer(file))
                return
            }
            current = try Qcow2Layer.open(file)
            layers.append(current)
        }
    }

    static func folder(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    /// Where the file that an image names is: relative to the image, and not outside of `root` unless that is allowed.
    static func resolve(
        _ name: String, from image: String, root: String, _ allowsAny: Bool
    ) throws(DiskImageError) -> String {
        func refuse(_ reason: String) -> DiskImageError { .backingRefused(image: image, backing: name, reason: reason) }
        if let colon = name.firstIndex(of: ":"), !name[..<colon].contains("/") {
            throw refuse("only files can be backing files")
        }
        let path = name.hasPrefix("/") ? name : folder(of: image) + "/" + name
        guard !allowsAny else { return path }
        guard let real = resolvedPath(path) else { throw refuse(errorText(errno)) }
        guard let realRoot = resolvedPath(root) else { throw refuse(errorText(errno)) }
        guard realRoot == "/" || real.hasPrefix(realRoot + "/") else {
            throw refuse(
                "it is outside of the image's folder; allow that with 'backing=any' (--backing any) if you trust the image"
            )
        }
        return real
    }
}
