// SPDX-License-Identifier: Apache-2.0
// `smolvmm disk resize`.

import ArgumentParser
import DiskImage

struct DiskResizeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resize",
        abstract: "Make a disk larger or smaller.",
        discussion: """
            What is added reads as zero. Inside the guest, its partitions and file systems still have their old sizes: \
            grow them afterwards, shrink them before.
            """)

    @Argument(help: "The image.", completion: .file())
    var file: String

    @Argument(help: "The new size; +SIZE is that much more, -SIZE that much less (write '-- -SIZE').")
    var size: DiskSizeChange

    @Option(help: "qcow2 or raw. (default: by the file's first bytes)")
    var format: DiskFormat?

    @Flag(help: "The new size may be smaller: what is behind the new end is lost.")
    var shrink = false

    @OptionGroup var backing: BackingOptions

    func run() throws {
        try DiskTools.resize(path: file, format: format, shrinks: shrink, allowsAnyBacking: backing.allowsAny) {
            (old) throws(DiskImageError) in
            guard let new = size.applied(to: old) else {
                throw .invalidValue(
                    field: "the change of the disk's size", value: ByteSize(bytes: size.size.bytes).description,
                    allowed: "at most its size of \(ByteSize(bytes: old))")
            }
            return new
        }
    }
}
