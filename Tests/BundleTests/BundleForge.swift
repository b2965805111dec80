// SPDX-License-Identifier: Apache-2.0
// Bundles as an attacker would make them: written from docs/bundle-format.md alone, every hash right, some value wrong.

import Crypto

struct ForgedMember {
    var name: String
    var data: [UInt8]
    /// What the manifest says, if not the truth.
    var manifestName: String?
    var manifestSize: UInt64?
    var hash: String??
    /// What the archive says, if not the truth.
    var archiveSize: UInt64?
    var archiveOffset: UInt64?
}

/// Everything of a bundle, open to change. `bytes` builds it with the hashes that fit.
struct BundleForge {
    var version = "1"
    var configuration: [String: String] = [:]
    var lineage =
        #"{ "created" : "2026-01-31T23:59:59Z", "id" : "00112233445566778899aabbccddeeff" }"#
    /// More text in the manifest's top level.
    var more = ""
    var members: [ForgedMember] = []
    /// The manifest's text, if not made from the rest; the root goes where `ROOT` stands.
    var manifest: String?
    var manifestSize: UInt64?
    var listsMembers = true

    /// The parts of a valid bundle of `small` memory.
    init(_ bundle: [UInt8]) throws {
        configuration = [
            "commandLine": #""console=ttyS0""#, "cpuModel": #""x86-64-v2""#, "cpus": "1", "memoryBytes": "1048576",
            "name": #""small""#,
        ]
        var position = integer(bundle, bundle.count - 98 + 48, 8)
        let end = position + integer(bundle, bundle.count - 98 + 40, 8)
        while position < end {
            let nameSize = integer(bundle, position + 28, 2)
            let name = String(decoding: bundle[(position + 46)..<(position + 46 + nameSize)], as: UTF8.self)
            let extra = position + 46 + nameSize
            let size = integer(bundle, extra + 4, 8)
            let header = integer(bundle, extra + 20, 8)
            let start = header + 30 + integer(bundle, header + 26, 2) + integer(bundle, header + 28, 2)
            if name != "manifest.json" {
                members.append(ForgedMember(name: name, data: Array(bundle[start..<(start + size)])))
            }
            position = extra + 28
        }
    }

    subscript(name: String) -> ForgedMember {
        get { members[index(name)] }
        set { members[index(name)] = newValue }
    }

    private func index(_ name: String) -> Int { members.firstIndex { $0.name == name } ?? 0 }

    var bytes: [UInt8] {
        var archive: [UInt8] = []
        var directory: [UInt8] = []
        var all = members
        all.append(ForgedMember(name: "manifest.json", data: sealedManifest, archiveSize: manifestSize))
        for member in all {
            let crc = slowCRC(member.data)
            let size = member.archiveSize ?? UInt64(member.data.count)
            let offset = UInt64(archive.count)
            let smallest = 30 + member.name.utf8.count + 20 + 6
            let padding = (4096 - (archive.count + smallest) % 4096) % 4096
            let common =
                little(45, 2) + little(0, 2) + little(0, 2) + little(0, 2) + little(0x21, 2) + little(UInt64(crc), 4)
                + little(0xffff_ffff, 4) + little(0xffff_ffff, 4) + little(UInt64(member.name.utf8.count), 2)
            archive += little(0x0403_4b50, 4) + common + little(UInt64(26 + padding), 2) + Array(member.name.utf8)
            archive += little(1, 2) + little(16, 2) + little(size, 8) + little(size, 8)
            archive += little(0xd935, 2) + little(UInt64(2 + padding), 2) + little(4096, 2)
            archive += [UInt8](repeating: 0, count: padding) + member.data
            directory += little(0x0201_4b50, 4) + little(0x032d, 2) + common + little(28, 2) + little(0, 6)
            directory += little(0o100644 << 16, 4) + little(0xffff_ffff, 4) + Array(member.name.utf8)
            directory += little(1, 2) + little(24, 2) + little(size, 8) + little(size, 8)
            directory += little(member.archiveOffset ?? offset, 8)
        }
        let start = UInt64(archive.count)
        archive += directory
        archive += little(0x0606_4b50, 4) + little(44, 8) + little(0x032d, 2) + little(45, 2) + little(0, 8)
        archive += little(UInt64(all.count), 8) + little(UInt64(all.count), 8)
        archive += little(UInt64(directory.count), 8) + little(start, 8)
        archive += little(0x0706_4b50, 4) + little(0, 4) + little(start + UInt64(directory.count), 8) + little(1, 4)
        archive += little(0x0605_4b50, 4) + little(0, 4) + little(0xffff_ffff, 4) + little(0xffff_ffff_ffff_ffff, 8)
        return archive + little(0, 2)
    }

    private var sealedManifest: [UInt8] {
        let list = members.map { member in
            let hash = member.hash ?? (member.name == "memory.data" ? nil : hexadecimalSHA256(member.data))
            let size = member.manifestSize ?? UInt64(member.data.count)
            let hashText = hash.map { #", "sha256" : "\#($0)""# } ?? ""
            return #"{ "name" : "\#(member.manifestName ?? member.name)", "size" : \#(size)\#(hashText) }"#
        }
        let fields = configuration.sorted { $0.key < $1.key }.map { "\"\($0.key)\" : \($0.value)" }
        let text =
            manifest
                ?? """
                { "formatVersion" : \(version), "generator" : "forge", "lineage" : \(lineage),
                  "configuration" : { \(fields.joined(separator: ", ")) },
                  "members" : [ \(listsMembers ? list.joined(separator: ",\n") : "") ],\(more)
                  "root" : "ROOT" }
                """
        let parts = split(text)
        let zeros = [UInt8](repeating: UInt8(ascii: "0"), count: 64)
        let root = Array(hexadecimalSHA256(parts.before + zeros + parts.after).utf8)
        return parts.found ? parts.before + root + parts.after : parts.before
    }

    private func split(_ text: String) -> (before: [UInt8], after: [UInt8], found: Bool) {
        let bytes = Array(text.utf8)
        let mark = Array("ROOT".utf8)
        for start in 0...max(0, bytes.count - mark.count) where bytes[start...].starts(with: mark) {
            return (Array(bytes[..<start]), Array(bytes[(start + mark.count)...]), true)
        }
        return (bytes, [], false)
    }
}

func hexadecimalSHA256(_ bytes: [UInt8]) -> String {
    SHA256.hash(data: bytes).map { byte in
        let text = String(byte, radix: 16)
        return text.count == 1 ? "0" + text : text
    }.joined()
}

/// `count` bytes of `value`, lowest first.
func little(_ value: UInt64, _ count: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
}

func integer(_ bytes: [UInt8], _ offset: Int, _ count: Int) -> Int {
    bytes[offset..<(offset + count)].reversed().reduce(0) { $0 << 8 | Int($1) }
}

private func slowCRC(_ bytes: [UInt8]) -> UInt32 {
    var crc = UInt32.max
    for byte in bytes {
        crc ^= UInt32(byte)
        for _ in 0..<8 { crc = crc & 1 != 0 ? crc >> 1 ^ 0xedb8_8320 : crc >> 1 }
    }
    return ~crc
}
