// SPDX-License-Identifier: Apache-2.0
// `smolvmm disk commit`.

import ArgumentParser
import DiskImage

struct DiskCommitCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "commit",
        abstract: "Write what an image stores into its backing file, then empty the image.",
        discussion: """
            Other images on the same backing file become worthless by that. The backing file grows where the image's \
            disk is larger.
            """)

    @Argument(help: "The image on top.", completion: .file())
    var file: String

    @OptionGroup var backing: BackingOptions

    func run() throws {
        let line = Progress("committing")
        defer { line.finish() }
        try DiskTools.commit(path: file, allowsAnyBacking: backing.allowsAny) { line.update($0) }
    }
}
