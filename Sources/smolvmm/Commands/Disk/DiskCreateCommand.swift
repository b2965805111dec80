// SPDX-License-Identifier: Apache-2.0
// `smolvmm disk create`.

import ArgumentParser
import DiskImage

struct DiskCreateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create",
        abstract: "Make an empty disk image, or one on top of another.",
        discussion: """
            With --base, the new disk starts as the base and stores only what is written; the base must not change \
            any more. Its name is stored as given: it is relative to the new image's folder.
            """)

    @Argument(help: "The image to make.", completion: .file())
    var file: String

    @Argument(help: "The disk's size. (default: the base's)")
    var size: DiskSize?

    @Option(help: "qcow2 or raw.")
    var format = DiskFormat.qcow2

    @Option(help: ArgumentHelp("The image to lie on.", valueName: "file"), completion: .file())
    var base: String?

    @Option(help: ArgumentHelp("The base's format. (default: by its first bytes)", valueName: "format"))
    var baseFormat: DiskFormat?

    @Option(
        help: ArgumentHelp(
            "Bytes that are allocated together, a power of two from 512 to 2M. (default: 64K; with --extended-l2 128K)",
            valueName: "size"))
    var clusterSize: DiskSize?

    @Option(help: ArgumentHelp("Width of reference counts, a power of two from 1 to 64.", valueName: "bits"))
    var refcountBits: Int?

    @Option(help: ArgumentHelp("2 (for QEMU before 1.1) or 3. (default: 3)", valueName: "version"))
    var qcow2Version: Int?

    @Option(help: ArgumentHelp("The same as qemu-img names it: 0.10 or 1.1.", valueName: "level"))
    var compat: String?

    @Flag(help: "Keep reference counts in memory while the image is in use; after a crash they are counted again.")
    var lazyRefcounts = false

    @Flag(name: .customLong("extended-l2"), help: "Allocate in 32nds of clusters.")
    var extendedL2 = false

    @Option(help: ArgumentHelp("What may compress clusters: zlib or zstd.", valueName: "type"))
    var compressionType: Qcow2Compression?

    @Flag(help: "Replace a file of that name.")
    var force = false

    @OptionGroup var backing: BackingOptions

    func validate() throws {
        if size == nil, base == nil { throw ValidationError("Give a size, or --base with an image to take it from.") }
        if baseFormat != nil, base == nil { throw ValidationError("--base-format needs --base.") }
        guard format == .raw else {
            if compat != nil, qcow2Version != nil {
                throw ValidationError("--compat and --qcow2-version say the same; give one of them.")
            }
            if let compat, compat != "0.10", compat != "1.1" {
                throw ValidationError("--compat is '\(compat)', must be 0.10 or 1.1.")
            }
            return
        }
        if base != nil || clusterSize != nil || refcountBits != nil || qcow2Version != nil || compat != nil
            || lazyRefcounts || extendedL2 || compressionType != nil
        {
            throw ValidationError("A raw image is nothing but the disk's bytes: these options need --format qcow2.")
        }
    }

    /// The qcow2 image's properties.
    var options: Qcow2Options {
        var options = Qcow2Options()
        if let clusterSize {
            options.clusterSize = clusterSize.bytes
        } else if extendedL2 {
            // A subcluster is then 4 KiB.
            options.clusterSize = 128 << 10
        }
        options.refcountBits = refcountBits ?? options.refcountBits
        options.version = qcow2Version ?? (compat == "0.10" ? 2 : 3)
        options.hasLazyRefcounts = lazyRefcounts
        options.hasExtendedL2 = extendedL2
        options.compression = compressionType ?? .zlib
        return options
    }

    func run() throws {
        try DiskTools.create(
            path: file, format: format, size: size?.bytes, base: base.map { DiskBase(name: $0, format: baseFormat) },
            options, allowsAnyBacking: backing.allowsAny, replacing: force)
    }
}
