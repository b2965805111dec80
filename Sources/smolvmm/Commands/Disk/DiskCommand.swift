// SPDX-License-Identifier: Apache-2.0
// `smolvmm disk`: tools for disk images.

import ArgumentParser
import DiskImage

struct DiskCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "disk",
        abstract: "Make, show, check and change disk images (qcow2 and raw).",
        discussion: """
            smolvmm disk create root.qcow2 8G                 an empty disk
            smolvmm disk create --base root.qcow2 mine.qcow2  a disk that starts as another, and stores what differs
            smolvmm disk convert root.img root.qcow2 --compress

            Sizes are bytes, or have a unit: 512, 64K, 8G. An image that a machine uses is not touched. Backing files \
            outside of the image's folder are refused unless you trust the image: --backing any.
            """,
        subcommands: [
            DiskCreateCommand.self, DiskInfoCommand.self, DiskCheckCommand.self, DiskConvertCommand.self,
            DiskCommitCommand.self, DiskMapCommand.self, DiskResizeCommand.self, DiskBenchCommand.self,
        ])
}
