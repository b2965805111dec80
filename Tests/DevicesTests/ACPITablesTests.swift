// SPDX-License-Identifier: Apache-2.0
// ACPI tables: structure, checksums, and the verdict of Intel's compiler.

import Bus
import GuestMemory
import Testing

@testable import Devices

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// Whether `iasl` of acpica-tools can be run.
private let hasCompiler = unsafe system("iasl -v >/dev/null 2>&1") == 0

struct ACPITablesTests {
    private static let extraDevice = AML.device(
        "VR00",
        [
            .name("_HID", .string("LNRO0005")), .name("_UID", .integer(0)),
            .name(
                "_CRS",
                .resources([
                    .memory(GuestPhysicalAddress(0xd000_0000), size: 0x200), .interrupt(16, isLevelTriggered: true),
                ])),
        ])

    private func table(_ signature: String, in tables: [ACPITables.Table]) -> ACPITables.Table? {
        tables.first { $0.bytes.starts(with: signature.utf8) }
    }

    @Test(arguments: [1, 4, 240])
    func `every table sums to zero and none overlaps the next`(processors: Int) throws {
        let tables = try ACPITables.build(.init(processors: processors, devices: [Self.extraDevice]))
        for table in tables { #expect(table.bytes.reduce(0, &+) == 0) }
        #expect(tables[0].bytes.prefix(20).reduce(0, &+) == 0)
        for (table, next) in zip(tables, tables.dropFirst()) {
            #expect(table.address + UInt64(table.bytes.count) <= next.address)
        }
        let last = try #require(tables.last)
        #expect(last.address + UInt64(last.bytes.count) <= PlatformLayout.generationPage)
    }

    @Test func `the root pointer leads to every table`() throws {
        let memory = try GuestMemory(size: 1 << 20)
        let tables = try ACPITables.build(.init(processors: 2))
        for table in tables { try memory.write(table.bytes, at: table.address) }
        #expect(try memory.read(at: GuestPhysicalAddress(0xe_0000), count: 8) == Array("RSD PTR ".utf8))
        let root = GuestPhysicalAddress(try memory.load(UInt64.self, at: GuestPhysicalAddress(0xe_0018)))
        #expect(try memory.read(at: root, count: 4) == Array("XSDT".utf8))
        let count = (try memory.load(UInt32.self, at: root + 4) - 36) / 8
        let found = try (0..<UInt64(count)).map { index in
            let address = GuestPhysicalAddress(try memory.load(UInt64.self, at: root + 36 + index * 8))
            return String(decoding: try memory.read(at: address, count: 4), as: UTF8.self)
        }
        #expect(found == ["FACP", "APIC"])
        let fixed = try #require(table("FACP", in: tables))
        let definitions = GuestPhysicalAddress(try memory.load(UInt64.self, at: fixed.address + 140))
        #expect(try memory.read(at: definitions, count: 4) == Array("DSDT".utf8))
    }

    @Test func `tables that do not fit are refused`() {
        #expect(throws: DevicesError.self) {
            try ACPITables.build(
                .init(processors: 1, devices: [.name("BIG_", .buffer(Array(repeating: 0, count: 1 << 17)))]))
        }
    }

    @Test(.enabled(if: hasCompiler, "iasl (package acpica-tools) is not installed"))
    func `iasl disassembles and compiles the tables without complaint`() throws {
        var template = Array("/tmp/smolvmm-acpi-XXXXXX".utf8CString)
        // SAFETY: `template` is NUL-terminated and outlives the call.
        try #require(unsafe mkdtemp(&template) != nil)
        let folder = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        defer { unsafe system("rm -r \(folder)") }

        for table in try ACPITables.build(.init(processors: 4, devices: [Self.extraDevice])).dropFirst() {
            let name = String(decoding: table.bytes.prefix(4), as: UTF8.self)
            try write(table.bytes, to: "\(folder)/\(name).dat")
            let disassembly = try run("iasl -d \(name).dat", in: folder)
            #expect(disassembly.status == 0, "\(disassembly.output)")
            #expect(!disassembly.output.contains("Error"), "\(disassembly.output)")
            #expect(!disassembly.output.contains("Warning"), "\(disassembly.output)")
            let compilation = try run("iasl -p again-\(name) \(name).dsl", in: folder)
            #expect(compilation.output.contains(" 0 Errors, 0 Warnings"), "\(compilation.output)")
            // All but the header's checksum and compiler id comes back.
            let again = try read("\(folder)/again-\(name).aml")
            #expect(again.dropFirst(36) == table.bytes.dropFirst(36))
        }
    }

    private func run(_ command: String, in folder: String) throws -> (status: Int32, output: String) {
        let status = unsafe system("cd \(folder) && \(command) >log 2>&1")
        return (status, String(decoding: try read("\(folder)/log"), as: UTF8.self))
    }

    private func write(_ bytes: [UInt8], to path: String) throws {
        let file = try unsafe #require(unsafe fopen(path, "w"))
        defer { _ = unsafe fclose(file) }
        // SAFETY: `fwrite` reads `bytes.count` bytes of `bytes`.
        #expect(unsafe fwrite(bytes, 1, bytes.count, file) == bytes.count)
    }

    private func read(_ path: String) throws -> [UInt8] {
        let file = try unsafe #require(unsafe fopen(path, "r"))
        defer { _ = unsafe fclose(file) }
        var bytes = [UInt8](repeating: 0, count: 1 << 20)
        // SAFETY: `fread` writes at most `bytes.count` bytes.
        let count = unsafe fread(&bytes, 1, bytes.count, file)
        return Array(bytes.prefix(count))
    }
}
