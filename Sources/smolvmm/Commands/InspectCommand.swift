// SPDX-License-Identifier: Apache-2.0
// `smolvmm inspect` and `smolvmm verify`.

import ArgumentParser
import Bundle

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif
#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

struct InspectCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "inspect",
        abstract: "Show what is in a bundle.",
        discussion: """
            Reads the manifest and the index only, whatever the size of the bundle; 'smolvmm verify' reads everything.
            """)

    @Argument(help: "The bundle, a .smolmachine file.", completion: .file(extensions: ["smolmachine"]))
    var file: String

    @Flag(help: "As JSON, for programs.")
    var json = false

    func run() throws {
        let bundle = try BundleReader(path: file)
        writeAll(json ? try jsonText(bundle) : table(bundle), to: STDOUT_FILENO)
    }

    private struct Report: Encodable {
        struct Memory: Encodable {
            var chunkBytes: UInt64
            var chunks: Int
            var zeroChunks: Int
            var storedBytes: UInt64
        }
        var manifest: Manifest
        var memory: Memory
    }

    private func jsonText(_ bundle: BundleReader) throws -> String {
        let memory = bundle.memoryStatistics
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
        let report = Report(
            manifest: bundle.manifest,
            memory: Report.Memory(
                chunkBytes: memory.chunkSize, chunks: memory.chunks, zeroChunks: memory.zeroChunks,
                storedBytes: memory.compressedBytes))
        return String(decoding: try encoder.encode(report), as: UTF8.self) + "\n"
    }

    private func table(_ bundle: BundleReader) -> String {
        let manifest = bundle.manifest
        let machine = manifest.configuration
        let memory = bundle.memoryStatistics
        func size(_ bytes: UInt64) -> String { ByteSize(bytes: bytes).description }

        var facts = TextTable(indent: "  ")
        facts.add("format", "version \(manifest.formatVersion), written by \(Self.printable(manifest.generator))")
        facts.add("id", manifest.lineage.id.text)
        facts.add("parent", manifest.lineage.parent?.text ?? "none: the machine was booted")
        facts.add("frozen", manifest.lineage.created)
        facts.add("root hash", manifest.root)

        var configuration = TextTable(indent: "  ")
        configuration.add("name", machine.name)
        configuration.add("CPU model", machine.cpuModel)
        configuration.add("processors", "\(machine.cpus)")
        configuration.add("memory", size(machine.memoryBytes))
        configuration.add("command line", Self.printable(machine.commandLine))
        configuration.add("console", machine.console)
        if let network = machine.network { configuration.add("network", Self.describe(network)) }
        if !machine.devices.isEmpty { configuration.add("devices", machine.devices.joined(separator: ", ")) }

        var stored = TextTable(indent: "  ")
        let used = memory.chunks - memory.zeroChunks
        stored.add("chunks", "\(memory.chunks) of \(size(memory.chunkSize)), \(memory.zeroChunks) of them zero")
        stored.add("in use", size(UInt64(max(0, used)) * memory.chunkSize))
        stored.add("stored", size(memory.compressedBytes))

        var disks = TextTable(["ID", "SIZE", "STORED", "", "BASES"], indent: "  ")
        for (index, disk) in machine.disks.enumerated() {
            let member = manifest.members.first { $0.name == "disks/\(index).qcow2" }
            disks.add(
                disk.id, size(disk.size), size(member?.size ?? 0), disk.isReadOnly ? "read-only" : "",
                disk.bases.map { Self.printable($0.path) }.joined(separator: ", "))
        }

        var members = TextTable(["NAME", "BYTES", "SHA-256"], indent: "  ")
        for member in manifest.members {
            members.add(member.name, "\(member.size)", member.sha256 ?? "each chunk has its own")
        }
        let diskPart = machine.disks.isEmpty ? "" : "\ndisks\n\(disks.text)"
        return "\(file)\n\(facts.text)\nmachine\n\(configuration.text)\nmemory\n\(stored.text)\(diskPart)"
            + "\nmembers\n\(members.text)"
    }

    private static func describe(_ network: NetworkConfiguration) -> String {
        let host: String =
            switch network.attachment {
            case .user(let allow, let publish):
                "user" + (allow.map { ", only to \($0.isEmpty ? "nowhere" : $0.joined(separator: ", "))" } ?? "")
                    + (publish.isEmpty ? "" : ", publishes \(publish.map(\.description).joined(separator: ", "))")
            case .tap(let interface): "tap, \(interface)"
            case .none: "none"
            }
        return printable("\(network.address), MTU \(network.mtu): \(host)")
    }

    /// Text from a file that may be hostile: nothing in it may steer the terminal.
    static func printable(_ text: String) -> String {
        String(
            String.UnicodeScalarView(
                text.unicodeScalars.map { $0.value < 0x20 || (0x7f...0x9f).contains($0.value) ? "?" : $0 }))
    }
}

struct VerifyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify",
        abstract: "Check every hash of a bundle.",
        discussion: "Status 0 when all of it is what was written; status 1 names the member that is not.")

    @Argument(help: "The bundle, a .smolmachine file.", completion: .file(extensions: ["smolmachine"]))
    var file: String

    func run() throws {
        let bundle = try BundleReader(path: file)
        let progress = Progress("verifying")
        defer { progress.finish() }
        let report = try bundle.verify { progress.update($0) }
        progress.finish()
        let size = ByteSize(bytes: report.bytes)
        writeAll(
            "\(file): \(report.members) members, \(report.chunks) chunks of memory, \(size): every hash is right\n",
            to: STDOUT_FILENO)
    }
}
