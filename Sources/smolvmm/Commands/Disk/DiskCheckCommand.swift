// SPDX-License-Identifier: Apache-2.0
// `smolvmm disk check`.

import ArgumentParser
import DiskImage

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

struct DiskCheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Check the structure of a qcow2 image, and repair it.",
        discussion: """
            EXIT STATUS:
              0    nothing is wrong, or all of it was repaired
              1    the image could not be checked
              2    the image is damaged
              3    space is lost, but no data
            """)

    private enum Status {
        static let damaged: Int32 = 2
        static let leaking: Int32 = 3
    }

    @Argument(help: "The image.", completion: .file())
    var file: String

    @Option(help: "Repair leaks (what only wastes space), or all.")
    var repair: DiskRepair?

    @Flag(help: "As JSON, with the keys of qemu-img.")
    var json = false

    func run() throws {
        let report = try DiskTools.check(path: file, repair: repair)
        for finding in report.findings { writeAll(finding + "\n", to: STDERR_FILENO) }
        let text = json ? try DiskJSON.text(DiskCheckJSON(report, file)) : Self.text(report)
        writeAll(text, to: STDOUT_FILENO)
        if report.corruptions > 0 { throw ExitCode(Status.damaged) }
        if report.leaks > 0 { throw ExitCode(Status.leaking) }
    }

    static func text(_ report: DiskCheckReport) -> String {
        var text = ""
        if report.corruptionsFixed + report.leaksFixed > 0 {
            text += """
                The following inconsistencies were found and repaired:

                    \(report.leaksFixed) leaked clusters
                    \(report.corruptionsFixed) corruptions

                Double checking the fixed image now...

                """
        }
        if report.corruptions == 0, report.leaks == 0 { text += "No errors were found on the image.\n" }
        if report.corruptions > 0 {
            text += """

                \(report.corruptions) errors were found on the image.
                Data may be corrupted, or further writes to the image may corrupt it.

                """
        }
        if report.leaks > 0 {
            text += """

                \(report.leaks) leaked clusters were found on the image.
                This means waste of disk space, but no harm to data.

                """
        }
        if report.totalClusters > 0, report.allocatedClusters > 0 {
            let allocated = report.allocatedClusters
            text += "\(allocated)/\(report.totalClusters) = \(percent(allocated, report.totalClusters)) allocated, "
            text += "\(percent(report.fragmentedClusters, allocated)) fragmented, "
            text += "\(percent(report.compressedClusters, allocated)) compressed clusters\n"
        }
        return text + "Image end offset: \(report.endOffset)\n"
    }

    /// With two decimals.
    private static func percent(_ part: UInt64, _ whole: UInt64) -> String {
        let hundredths = Int((Double(part) * 10_000 / Double(whole)).rounded(.toNearestOrEven))
        return "\(hundredths / 100).\(String(hundredths % 100 + 100).dropFirst())%"
    }
}

/// A check's result as qemu-img tells it to programs: what is zero is left out.
private struct DiskCheckJSON: Encodable {
    private enum CodingKeys: String, CodingKey {
        case filename
        case format
        case errors = "check-errors"
        case endOffset = "image-end-offset"
        case corruptions
        case leaks
        case corruptionsFixed = "corruptions-fixed"
        case leaksFixed = "leaks-fixed"
        case total = "total-clusters"
        case allocated = "allocated-clusters"
        case fragmented = "fragmented-clusters"
        case compressed = "compressed-clusters"
    }

    let filename: String
    let format = DiskFormat.qcow2.rawValue
    let errors = 0
    let endOffset: UInt64?
    let corruptions: Int?
    let leaks: Int?
    let corruptionsFixed: Int?
    let leaksFixed: Int?
    let total: UInt64?
    let allocated: UInt64?
    let fragmented: UInt64?
    let compressed: UInt64?

    init(_ report: DiskCheckReport, _ file: String) {
        func some<Number: BinaryInteger>(_ number: Number) -> Number? { number == 0 ? nil : number }
        filename = file
        endOffset = some(report.endOffset)
        corruptions = some(report.corruptions)
        leaks = some(report.leaks)
        corruptionsFixed = some(report.corruptionsFixed)
        leaksFixed = some(report.leaksFixed)
        total = some(report.totalClusters)
        allocated = some(report.allocatedClusters)
        fragmented = some(report.fragmentedClusters)
        compressed = some(report.compressedClusters)
    }
}
