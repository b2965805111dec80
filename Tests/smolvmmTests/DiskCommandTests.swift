// SPDX-License-Identifier: Apache-2.0
// What `smolvmm disk` accepts on the command line, and how it tells results.

import ArgumentParser
import DiskImage
import Testing

@testable import smolvmm

struct DiskCommandTests {
    private func parse<Command: ParsableCommand>(_ type: Command.Type, _ words: [String]) throws -> Command {
        try #require(try Smolvmm.parseAsRoot(["disk"] + words) as? Command)
    }

    @Test func `create has QEMU's defaults`() throws {
        let command = try parse(DiskCreateCommand.self, ["create", "f", "8G"])
        #expect(command.file == "f")
        #expect(command.size?.bytes == 8 << 30)
        #expect(command.format == .qcow2)
        #expect(command.options == Qcow2Options())
        #expect(!command.force)
        #expect(!command.backing.allowsAny)
    }

    @Test func `create takes every documented option`() throws {
        let command = try parse(
            DiskCreateCommand.self,
            [
                "create", "f", "--base", "b", "--base-format", "raw", "--cluster-size", "16K", "--refcount-bits", "1",
                "--qcow2-version", "3", "--lazy-refcounts", "--extended-l2", "--compression-type", "zstd", "--force",
                "--backing", "any",
            ])
        #expect(command.size == nil)
        #expect(command.base == "b")
        #expect(command.baseFormat == .raw)
        #expect(command.options.clusterSize == 16 << 10)
        #expect(command.options.refcountBits == 1)
        #expect(command.options.hasLazyRefcounts)
        #expect(command.options.hasExtendedL2)
        #expect(command.options.compression == .zstd)
        #expect(command.force)
        #expect(command.backing.allowsAny)
    }

    @Test(arguments: [("0.10", 2), ("1.1", 3)])
    func `compat names versions`(_ level: String, _ version: Int) throws {
        let command = try parse(DiskCreateCommand.self, ["create", "f", "1M", "--compat", level])
        #expect(command.options.version == version)
    }

    @Test func `convert takes every documented option`() throws {
        let command = try parse(
            DiskConvertCommand.self,
            [
                "convert", "a", "b", "--compress", "--compression-type", "zstd", "--cluster-size", "2M", "--snapshot",
                "s",
                "--base", "c", "--base-format", "qcow2", "--progress", "--force", "--qcow2-version", "3",
            ])
        #expect(command.source == "a")
        #expect(command.destination == "b")
        #expect(command.snapshot == "s")
        #expect(command.progress)
        var expected = DiskConversion()
        expected.compresses = true
        expected.qcow2.compression = .zstd
        expected.qcow2.clusterSize = 2 << 20
        expected.base = DiskBase(name: "c", format: .qcow2)
        expected.replaces = true
        #expect(command.conversion == expected)
    }

    @Test func `check, map, info, commit and resize take their options`() throws {
        #expect(try parse(DiskCheckCommand.self, ["check", "f"]).repair == nil)
        #expect(try parse(DiskCheckCommand.self, ["check", "f", "--repair", "leaks"]).repair == .leaks)
        #expect(try parse(DiskCheckCommand.self, ["check", "f", "--repair", "all", "--json"]).json)
        #expect(try parse(DiskMapCommand.self, ["map", "f", "--json", "--format", "raw"]).format == .raw)
        #expect(try parse(DiskInfoCommand.self, ["info", "f", "--chain", "--json"]).chain)
        #expect(try parse(DiskCommitCommand.self, ["commit", "f"]).file == "f")
        #expect(try parse(DiskResizeCommand.self, ["resize", "f", "1G", "--shrink"]).shrink)
        let less = try parse(DiskResizeCommand.self, ["resize", "f", "--", "-1G"])
        #expect(less.size.applied(to: 3 << 30) == 2 << 30)
    }

    @Test(arguments: [
        ["create"], ["create", "f"], ["create", "f", "big"], ["create", "f", "-1M"], ["create", "f", "1M", "2M"],
        ["create", "f", "1M", "--format", "vmdk"], ["create", "f", "1M", "--base-format", "raw"],
        ["create", "f", "1M", "--format", "raw", "--cluster-size", "64K"],
        ["create", "f", "--format", "raw", "--base", "b"], ["create", "f", "1M", "--compat", "2.0"],
        ["create", "f", "1M", "--compat", "1.1", "--qcow2-version", "3"], ["info"], ["info", "a", "b"],
        ["check", "f", "--repair", "some"], ["convert", "a"], ["convert", "a", "b", "--format", "raw", "--compress"],
        ["convert", "a", "b", "--compression-type", "lzma"], ["convert", "a", "b", "--base-format", "raw"],
        ["commit"], ["map"], ["resize", "f"], ["resize", "f", "*2"], ["info", "f", "--backing", "none"],
        ["format", "f"],
    ])
    func `wrong usage ends with status 64`(_ words: [String]) {
        let error = #expect(throws: (any Error).self) { try Smolvmm.parseAsRoot(["disk"] + words) }
        #expect(error.map { Smolvmm.exitCode(for: $0).rawValue } == 64)
    }

    @Test(arguments: ["create", "info", "check", "convert", "commit", "map", "resize"])
    func `every command has help that begins with what it does`(_ word: String) throws {
        var command = try Smolvmm.parseAsRoot(["disk", word, "--help"])
        let help = try #require(#expect(throws: (any Error).self) { try command.run() })
        #expect(Smolvmm.fullMessage(for: help).hasPrefix("OVERVIEW: "))
    }

    @Test(arguments: [("0", 0), ("512", 512), ("64K", 65536), ("1.5M", 0x18_0000), ("8GiB", 8 << 30)])
    func `sizes of disks are bytes or have a unit`(_ text: String, _ bytes: UInt64) {
        #expect(DiskSize(argument: text)?.bytes == bytes)
    }

    @Test(arguments: ["", "-1", "+1", "1e3", "0x10", "1 M", "18446744073709551616", "1.5"])
    func `what is no size of a disk is refused`(_ text: String) {
        #expect(DiskSize(argument: text) == nil)
    }

    @Test(arguments: [("4M", 4 << 20), ("+1M", 3 << 20), ("-1M", 1 << 20), ("-2M", 0), ("+0", 2 << 20)])
    func `a size changes another`(_ text: String, _ bytes: UInt64) {
        #expect(DiskSizeChange(argument: text)?.applied(to: 2 << 20) == bytes)
    }

    @Test(arguments: ["-3M", "+18446744073709551615"])
    func `a change that leaves no size is none`(_ text: String) throws {
        #expect(try #require(DiskSizeChange(argument: text)).applied(to: 2 << 20) == nil)
    }

    @Test(arguments: ["", "+", "-", "++1M", "+-1M", "*2"])
    func `what is no change of a size is refused`(_ text: String) {
        #expect(DiskSizeChange(argument: text) == nil)
    }

    @Test func `a check's result is told in words`() {
        var report = DiskCheckReport()
        report.totalClusters = 320
        report.endOffset = 65536
        #expect(DiskCheckCommand.text(report) == "No errors were found on the image.\nImage end offset: 65536\n")
        report.allocatedClusters = 2
        report.fragmentedClusters = 1
        report.leaks = 3
        #expect(
            DiskCheckCommand.text(report) == """

                3 leaked clusters were found on the image.
                This means waste of disk space, but no harm to data.
                2/320 = 0.62% allocated, 50.00% fragmented, 0.00% compressed clusters
                Image end offset: 65536

                """)
    }
}
