// SPDX-License-Identifier: Apache-2.0
// `smolvmm disk info`.

import ArgumentParser
import DiskImage

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

struct DiskInfoCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "info",
        abstract: "Show what a disk image is.",
        discussion: "Reads the image's own description only; images that are damaged tell what they can.")

    @Argument(help: "The image.", completion: .file())
    var file: String

    @Option(help: "qcow2 or raw. (default: by the file's first bytes)")
    var format: DiskFormat?

    @Flag(help: "The images behind it, too.")
    var chain = false

    @Flag(help: "As JSON, with the keys of qemu-img.")
    var json = false

    @OptionGroup var backing: BackingOptions

    func run() throws {
        let list =
            chain
            ? try DiskTools.chainInformation(path: file, format: format, allowsAnyBacking: backing.allowsAny)
            : [try DiskTools.information(path: file, format: format)]
        let reports = list.map(DiskInfoReport.init)
        let text =
            if json {
                try chain ? DiskJSON.text(reports) : DiskJSON.text(reports[0])
            } else {
                list.map(DiskInfoText.text).joined(separator: "\n")
            }
        writeAll(text, to: STDOUT_FILENO)
    }
}

/// An image's description for people.
enum DiskInfoText {
    static func text(_ information: DiskInformation) -> String {
        var lines = [
            "image: \(printable(information.path))",
            "file format: \(information.format.rawValue)",
            "virtual size: \(size(information.size)) (\(information.size) bytes)",
            "disk size: \(size(information.storedBytes))",
        ]
        guard let qcow2 = information.qcow2 else { return lines.map { $0 + "\n" }.joined() }
        lines.append("cluster_size: \(qcow2.clusterSize)")
        if qcow2.isDirty { lines.append("cleanly shut down: no") }
        if let name = qcow2.backingFile {
            let actual = qcow2.backingPath == name ? "" : " (actual path: \(printable(qcow2.backingPath ?? "")))"
            lines.append("backing file: \(printable(name))\(actual)")
        }
        if let format = qcow2.backingFormat { lines.append("backing file format: \(printable(format))") }
        var text = lines.map { $0 + "\n" }.joined()
        if !qcow2.snapshots.isEmpty { text += "Snapshot list:\n" + snapshots(qcow2.snapshots) }
        var facts = [("compat", qcow2.version == 2 ? "0.10" : "1.1"), ("compression type", qcow2.compression.name)]
        if qcow2.version > 2 { facts.append(("lazy refcounts", "\(qcow2.hasLazyRefcounts)")) }
        facts.append(("refcount bits", "\(qcow2.refcountBits)"))
        if qcow2.version > 2 {
            facts += [("corrupt", "\(qcow2.isCorrupt)"), ("extended l2", "\(qcow2.hasExtendedL2)")]
        }
        text += "Format specific information:\n"
        for (name, value) in facts { text += "    \(name): \(value)\n" }
        return text
    }

    private static func size(_ bytes: UInt64) -> String { ByteSize(bytes: bytes).description }
    private static func printable(_ text: String) -> String { InspectCommand.printable(text) }

    private static func snapshots(_ list: [DiskSnapshot]) -> String {
        var table = TextTable(["ID", "TAG", "VM SIZE", "DATE", "VM CLOCK"])
        for snapshot in list {
            table.add(
                printable(snapshot.id), printable(snapshot.name), size(snapshot.vmStateSize), date(snapshot.date),
                clock(snapshot.vmClock))
        }
        return table.text
    }

    /// Local time.
    private static func date(_ seconds: UInt32) -> String {
        var time = time_t(seconds)
        var parts = unsafe tm()
        // SAFETY: both outlive the call.
        guard unsafe localtime_r(&time, &parts) != nil else { return "\(seconds)" }
        let date = unsafe (parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday)
        let clock = unsafe (parts.tm_hour, parts.tm_min, parts.tm_sec)
        return "\(date.0)-\(two(date.1))-\(two(date.2)) \(two(clock.0)):\(two(clock.1)):\(two(clock.2))"
    }

    /// Hours, minutes, seconds and thousandths.
    private static func clock(_ nanoseconds: UInt64) -> String {
        let milliseconds = nanoseconds / 1_000_000
        let seconds = milliseconds / 1000
        let rest = String(milliseconds % 1000 + 1000).dropFirst()
        return "\(two(seconds / 3600)):\(two(seconds / 60 % 60)):\(two(seconds % 60)).\(rest)"
    }

    private static func two(_ number: some BinaryInteger) -> String { number < 10 ? "0\(number)" : "\(number)" }
}
