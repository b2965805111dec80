// SPDX-License-Identifier: Apache-2.0
// `smolvmm disk map`.

import ArgumentParser
import DiskImage

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

struct DiskMapCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "map",
        abstract: "Show which file holds which part of a disk.",
        discussion: "Parts that are zero are left out, but for --json.")

    @Argument(help: "The image.", completion: .file())
    var file: String

    @Option(help: "qcow2 or raw. (default: by the file's first bytes)")
    var format: DiskFormat?

    @Flag(help: "As JSON, with the keys of qemu-img.")
    var json = false

    @OptionGroup var backing: BackingOptions

    private struct Entry: Encodable {
        var start: UInt64
        var length: UInt64
        var depth: Int
        var present: Bool
        var zero: Bool
        var data: Bool
        var offset: UInt64?
    }

    func run() throws {
        let image = try DiskTools.open(path: file, format: format, allowsAnyBacking: backing.allowsAny)
        var entries: [DiskMapEntry] = []
        try DiskTools.map(image) { if json || $0.isData { entries.append($0) } }
        if json {
            let list = entries.map {
                Entry(
                    start: $0.start, length: $0.length, depth: $0.depth, present: $0.isPresent, zero: $0.isZero,
                    data: $0.isData, offset: $0.offset)
            }
            writeAll(try DiskJSON.text(list), to: STDOUT_FILENO)
        } else {
            writeAll(Self.table(entries, DiskTools.paths(of: image)), to: STDOUT_FILENO)
        }
    }

    private static func table(_ entries: [DiskMapEntry], _ paths: [String]) -> String {
        var table = TextTable(["Offset", "Length", "Mapped to", "File"])
        for entry in entries {
            table.add(
                hexadecimal(entry.start), hexadecimal(entry.length), entry.offset.map(hexadecimal) ?? "compressed",
                InspectCommand.printable(paths[entry.depth]))
        }
        return table.text
    }

    private static func hexadecimal(_ value: UInt64) -> String { value == 0 ? "0" : "0x" + String(value, radix: 16) }
}
