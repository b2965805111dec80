// SPDX-License-Identifier: Apache-2.0
// `smolvmm disk convert`.

import ArgumentParser
import DiskImage

struct DiskConvertCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "convert",
        abstract: "Write a disk as a new image: another format, compressed, without its chain, or on another base.",
        discussion: """
            The new image appears under its name only when it is whole. Zeros take no space in it. With --base, it \
            stores only what differs from that image.
            """)

    @Argument(help: "The image to read.", completion: .file())
    var source: String

    @Argument(help: "The image to write.", completion: .file())
    var destination: String

    @Option(help: "The new image's: qcow2 or raw.")
    var format = DiskFormat.qcow2

    @Option(help: ArgumentHelp("The old image's. (default: by its first bytes)", valueName: "format"))
    var sourceFormat: DiskFormat?

    @Flag(help: "Compress clusters; they are written without compression when they change.")
    var compress = false

    @Option(help: ArgumentHelp("zlib, or zstd for QEMU since 5.1. (default: zlib)", valueName: "type"))
    var compressionType: Qcow2Compression?

    @Option(help: ArgumentHelp("Bytes that are allocated together, a power of two from 512 to 2M.", valueName: "size"))
    var clusterSize: DiskSize?

    @Option(help: ArgumentHelp("2 (for QEMU before 1.1) or 3. (default: 3)", valueName: "version"))
    var qcow2Version: Int?

    @Option(help: ArgumentHelp("The disk as it was at this internal snapshot: its id or name.", valueName: "name"))
    var snapshot: String?

    @Option(help: ArgumentHelp("The image that the new one lies on.", valueName: "file"), completion: .file())
    var base: String?

    @Option(help: ArgumentHelp("The base's format. (default: by its first bytes)", valueName: "format"))
    var baseFormat: DiskFormat?

    @Flag(help: "Show how far it is also where standard error is no terminal.")
    var progress = false

    @Flag(help: "Replace a file of that name.")
    var force = false

    @OptionGroup var backing: BackingOptions

    func validate() throws {
        if baseFormat != nil, base == nil { throw ValidationError("--base-format needs --base.") }
        guard format == .raw else { return }
        if compress || compressionType != nil || clusterSize != nil || qcow2Version != nil || base != nil {
            throw ValidationError("A raw image is nothing but the disk's bytes: these options need --format qcow2.")
        }
    }

    var conversion: DiskConversion {
        var conversion = DiskConversion()
        conversion.format = format
        conversion.compresses = compress
        conversion.qcow2.compression = compressionType ?? .zlib
        conversion.qcow2.clusterSize = clusterSize?.bytes ?? conversion.qcow2.clusterSize
        conversion.qcow2.version = qcow2Version ?? 3
        conversion.base = base.map { DiskBase(name: $0, format: baseFormat) }
        conversion.allowsAnyBacking = backing.allowsAny
        conversion.replaces = force
        return conversion
    }

    func run() throws {
        let image = try DiskTools.open(
            path: source, format: sourceFormat, snapshot: snapshot, allowsAnyBacking: backing.allowsAny)
        let line = Progress("converting", always: progress)
        defer { line.finish() }
        try DiskTools.convert(image, to: destination, conversion) { line.update($0) }
    }
}
