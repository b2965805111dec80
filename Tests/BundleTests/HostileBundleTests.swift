// SPDX-License-Identifier: Apache-2.0
// Bundles that lie: each is refused with an error that names the culprit, and nothing traps.

import Bundle
import CZstd
import GuestMemory
import TestSupport
import Testing

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// A change to a valid bundle, and the start of the words that refuse it.
struct Lie: CustomTestStringConvertible, Sendable {
    let testDescription: String
    let refusal: String
    let change: @Sendable (inout BundleForge) -> Void

    init(_ description: String, refusal: String, change: @escaping @Sendable (inout BundleForge) -> Void) {
        testDescription = description
        self.refusal = refusal
        self.change = change
    }
}

struct HostileBundleTests {
    @Test func `a forged bundle without a lie is accepted`() throws {
        #expect(try openAndVerify(BundleForge(smallBundle()).bytes).stateNames == ["vcpu0"])
    }

    @Test func `a bundle cut off at any byte is refused`() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("cut.smolmachine")
        let bytes = try smallBundle()
        try writeFile(bytes, to: path)
        for size in (0..<bytes.count).reversed() {
            #expect(unsafe truncate(path, off_t(size)) == 0)
            let error = bundleError { _ = try BundleReader(path: path) }
            guard case .notABundle = error else {
                Issue.record("cut to \(size) bytes: \(String(describing: error))")
                return
            }
        }
    }

    @Test(arguments: 0..<4)
    func `a flipped bit in any byte is found`(part: Int) throws {
        let folder = try TemporaryFolder()
        let path = folder.file("flip.smolmachine")
        let bytes = try smallBundle()
        try writeFile(bytes, to: path)
        let descriptor = unsafe open(path, O_WRONLY | O_CLOEXEC)
        defer { close(descriptor) }
        for position in stride(from: part, to: bytes.count, by: 4) {
            var flipped = bytes[position] ^ (1 << UInt8((position / 4 + position) % 8))
            unsafe pwrite(descriptor, &flipped, 1, off_t(position))
            let error = bundleError { _ = try BundleReader(path: path).verify(threads: 1) }
            if error == nil { Issue.record("flipped byte \(position) of \(bytes.count) went unnoticed") }
            var original = bytes[position]
            unsafe pwrite(descriptor, &original, 1, off_t(position))
        }
        _ = try BundleReader(path: path).verify()
    }

    static let lies: [Lie] = [
        Lie("newer version", refusal: "PATH has format version 4; this smolvmm reads up to 3") { $0.version = "4" },
        Lie("version 0", refusal: "formatVersion is 0") { $0.version = "0" },
        Lie("version that is text", refusal: "manifest.json is damaged: formatVersion is not of type Int") {
            $0.version = "\"one\""
        },
        Lie("no manifest fields", refusal: "manifest.json is damaged: the top level has no formatVersion") {
            $0.manifest = "{}"
        },
        Lie("manifest is not JSON", refusal: "manifest.json is damaged: not JSON") { $0.manifest = "ROOT" },
        Lie("deep manifest", refusal: "manifest.json is damaged: nested deeper than 64") {
            $0.more = "\"x\" : " + String(repeating: "[", count: 100_000) + String(repeating: "]", count: 100_000) + ","
        },
        Lie("large manifest", refusal: "manifest.json has") { $0.more = String(repeating: " ", count: 1 << 20) },
        Lie("root in two places", refusal: "manifest.json is damaged: its bytes do not have the root hash") {
            $0.more = "\"x\" : \"\(String(repeating: "0", count: 64))\","
            $0.manifest = """
                { "formatVersion" : 1, "generator" : "", "lineage" : \($0.lineage), "configuration" : { "name" : "a",
                "memoryBytes" : 1048576, "cpus" : 1, "cpuModel" : "a", "commandLine" : "" }, "members" : [],
                "root" : "\(String(repeating: "a", count: 64))", "x" : "\(String(repeating: "a", count: 64))" }
                """
        },
        Lie("bad id", refusal: "manifest.json is damaged: lineage.id has a value that cannot be") {
            $0.lineage = #"{ "created" : "2026-01-31T23:59:59Z", "id" : "../../etc" }"#
        },
        Lie("bad time", refusal: "lineage.created is 'now'") {
            $0.lineage = #"{ "created" : "now", "id" : "00112233445566778899aabbccddeeff" }"#
        },
        Lie("absurd memory", refusal: "configuration.memoryBytes is 1152921504606846976") {
            $0.configuration["memoryBytes"] = "1152921504606846976"
        },
        Lie("memory beyond 64 bits", refusal: "manifest.json is damaged: a number does not fit") {
            $0.configuration["memoryBytes"] = "99999999999999999999999"
        },
        Lie("more memory than the index has", refusal: "memory.index is damaged: it describes 1048576 bytes") {
            $0.configuration["memoryBytes"] = "2097152"
        },
        Lie("no processors", refusal: "configuration.cpus is 0") { $0.configuration["cpus"] = "0" },
        Lie("negative processors", refusal: "configuration.cpus is -1") { $0.configuration["cpus"] = "-1" },
        Lie("name with a path", refusal: "configuration.name is '../x'") { $0.configuration["name"] = "\"../x\"" },
        Lie("command line with a NUL", refusal: "configuration.commandLine is") {
            $0.configuration["commandLine"] = #""a\u0000b""#
        },
        Lie("size in the manifest", refusal: "kernel is damaged: it has 300 bytes in the directory, 301") {
            $0["kernel"].manifestSize = 301
        },
        Lie("size in both, beyond the member", refusal: "initramfs is damaged: it starts at") {
            $0["kernel"].manifestSize = 5000
            $0["kernel"].archiveSize = 5000
        },
        Lie("size beyond the file", refusal: "kernel is damaged: its 100000000 bytes reach over the directory") {
            $0["kernel"].manifestSize = 100_000_000
            $0["kernel"].archiveSize = 100_000_000
        },
        Lie("size of 2^64 - 1", refusal: "kernel has 18446744073709551615 bytes; at most") {
            $0["kernel"].manifestSize = .max
            $0["kernel"].archiveSize = .max
        },
        Lie("state of 100 GB", refusal: "state/vcpu0.json has 107374182400 bytes; at most 16777216") {
            $0["state/vcpu0.json"].manifestSize = 100 << 30
            $0["state/vcpu0.json"].archiveSize = 100 << 30
        },
        Lie("manifest larger than the file", refusal: "manifest.json is damaged: it is larger than the file") {
            $0.manifestSize = 1 << 20
        },
        Lie("manifest of 100 GB", refusal: "manifest.json has 107374182400 bytes; at most") {
            $0.manifestSize = 100 << 30
        },
        Lie("overlap", refusal: "initramfs is damaged: it starts at 0, must start at") {
            $0["initramfs"].archiveOffset = 0
        },
        Lie("offset of 2^64 - 1", refusal: "initramfs is damaged: it starts at 18446744073709551615") {
            $0["initramfs"].archiveOffset = .max
        },
        Lie("wrong hash", refusal: "memory.index is damaged: its bytes do not have the SHA-256 in the manifest") {
            $0["memory.index"].hash = String(repeating: "a", count: 64)
        },
        Lie("hash that is no hash", refusal: "kernel is damaged: its hash is missing or cannot be") {
            $0["kernel"].hash = "../../etc/passwd"
        },
        Lie("no hash", refusal: "kernel is damaged: its hash is missing or cannot be") {
            $0["kernel"].hash = .some(nil)
        },
        Lie("duplicate", refusal: "state/vcpu0.json is damaged: it is listed twice") {
            $0.members.insert($0["state/vcpu0.json"], at: 2)
        },
        Lie("path out of the archive", refusal: "manifest.json is damaged: it lists a member 'state/../../x.json'") {
            $0["state/vcpu0.json"].name = "state/../../x.json"
        },
        Lie("absolute path", refusal: "manifest.json is damaged: it lists a member '/etc/passwd'") {
            $0["kernel"].name = "/etc/passwd"
        },
        Lie("unknown member", refusal: "manifest.json is damaged: it lists a member 'disks/9.raw'") {
            $0.members.append(ForgedMember(name: "disks/9.raw", data: []))
        },
        Lie("another name in the directory", refusal: "the central directory is damaged: it has 'state/vcpu0.json'") {
            $0["state/vcpu0.json"].manifestName = "state/vcpu1.json"
        },
        Lie("a member that is not listed", refusal: "the bundle has no member kernel") { $0.listsMembers = false },
        Lie("out of order", refusal: "kernel is damaged: it is out of order") { $0.members.swapAt(0, 1) },
        Lie("no kernel", refusal: "the bundle has no member kernel") { $0.members.removeFirst() },
    ]

    @Test(arguments: lies)
    func `a bundle that lies is refused by name`(lie: Lie) throws {
        let folder = try TemporaryFolder()
        let path = folder.file("lie.smolmachine")
        var forge = try BundleForge(smallBundle())
        lie.change(&forge)
        try writeFile(forge.bytes, to: path)
        let error = try #require(bundleError { _ = try BundleReader(path: path).verify() })
        let wanted = lie.refusal.split(separator: "PATH", omittingEmptySubsequences: false).joined(separator: path)
        #expect(error.description.hasPrefix(wanted), "\(error)")
    }

    /// A changed 4- or 8-byte number in `memory.index`, and what refuses it.
    static let indexLies: [(offset: Int, size: Int, value: UInt64, refusal: String)] = [
        (0, 8, 0, "it has no index header"),
        (8, 4, 2, "its header has a value that cannot be"),
        (12, 4, 0, "a chunk size of 0 bytes"),
        (12, 4, 96 << 10, "a chunk size of 98304 bytes"),
        (12, 4, 1 << 31, "a chunk size of 2147483648 bytes"),
        (16, 4, 0, "it has 0 memory ranges"),
        (16, 4, 0xffff_ffff, "it has 4294967295 memory ranges"),
        (20, 4, 49, "its header has a value that cannot be"),
        (24, 8, .max, "bytes do not hold 18446744073709551615 entries"),
        (24, 8, 1 << 60, "bytes do not hold 1152921504606846976 entries"),
        (32, 8, .max, "it is for 18446744073709551615 bytes of memory.data"),
        (40, 8, 4096, "it describes 1048576 bytes of memory"),
        (48, 8, 1, "its header has a value that cannot be"),
        (64, 8, 4096, "memory range 0 cannot be"),
        (64, 8, .max - 0xfffff, "memory range 0 cannot be"),
        (72, 8, .max, "memory range 0 cannot be"),
        (72, 8, 0, "memory range 0 cannot be"),
        (80, 4, 5000, "entry 0 is for 0x13880000, which is not in memory"),
        (80, 4, 0xffff_ffff, "is for 0xffffffff0000, which is not in memory"),
        (80, 4, 8, "entry 1 is not after the one before it"),
        (84, 4, 0, "entry 0 has 0 stored bytes"),
        (84, 4, 0xffff_ffff, "entry 0 has 4294967295 stored bytes"),
        (84, 4, 5, "entry 1 starts at"),
        (88, 8, 1, "entry 0 starts at 1, must start at 0"),
        (88, 8, .max, "entry 0 starts at 18446744073709551615"),
    ]

    @Test(arguments: indexLies)
    func `an index that lies is refused`(lie: (offset: Int, size: Int, value: UInt64, refusal: String)) throws {
        var forge = try BundleForge(smallBundle())
        forge["memory.index"].data.replaceSubrange(
            lie.offset..<(lie.offset + lie.size), with: little(lie.value, lie.size))
        let bytes = forge.bytes
        let error = try #require(bundleError { _ = try openAndVerify(bytes) })
        #expect(error.description.hasPrefix("memory.index is damaged: "), "\(error)")
        #expect(error.description.contains(lie.refusal), "\(error)")
    }

    /// A bundle whose first chunk is stored as `frame`, with every hash and offset right.
    private func bundle(firstFrame frame: [UInt8]) throws -> [UInt8] {
        var forge = try BundleForge(smallBundle())
        var index = forge["memory.index"].data
        let old = integer(index, 84, 4)
        forge["memory.data"].data.replaceSubrange(0..<old, with: frame)
        index.replaceSubrange(32..<40, with: little(UInt64(forge["memory.data"].data.count), 8))
        index.replaceSubrange(84..<88, with: little(UInt64(frame.count), 4))
        let hash = hexadecimalSHA256(frame)
        for byte in 0..<32 {
            let digits = hash.dropFirst(byte * 2).prefix(2)
            index[96 + byte] = try #require(UInt8(digits, radix: 16))
        }
        for entry in stride(from: 128, to: index.count, by: 48) {
            let offset = integer(index, entry + 8, 8) - old + frame.count
            index.replaceSubrange((entry + 8)..<(entry + 16), with: little(UInt64(offset), 8))
        }
        forge["memory.index"].data = index
        return forge.bytes
    }

    private func frame(_ plain: [UInt8], level: Int32 = 1) -> [UInt8] {
        var output = [UInt8](repeating: 0, count: ZSTD_compressBound(plain.count))
        let size = unsafe ZSTD_compress(&output, output.count, plain, plain.count, level)
        return Array(output[0..<size])
    }

    @Test func `a chunk of the right size is accepted whatever made it`() throws {
        let plain = noise(64 << 10, seed: 77)
        let reader = try openAndVerify(bundle(firstFrame: frame(plain, level: 19)))
        #expect(reader.memoryStatistics.zeroChunks == 13)
    }

    @Test func `a chunk that unpacks to more than its size is refused and stays in its place`() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("bomb.smolmachine")
        for plain in [128 << 10, 64 << 20, (64 << 10) - 1, (64 << 10) + 1, 0] {
            try writeFile(bundle(firstFrame: frame([UInt8](repeating: 0x41, count: plain))), to: path)
            let reader = try BundleReader(path: path)
            let memory = try GuestMemory(size: 1 << 20)
            let error = try #require(bundleError { try reader.restoreMemory(into: memory, threads: 1) })
            #expect(
                error.description == "memory.data is damaged: the chunk of 0x0 is not one zstd frame of 65536 bytes")
            #expect(try ram(memory).allSatisfy { $0 == 0 })
        }
    }

    @Test func `two frames, a skippable frame or no frame are not a chunk`() throws {
        let half = frame([UInt8](repeating: 0x41, count: 32 << 10))
        let whole = frame([UInt8](repeating: 0x41, count: 64 << 10))
        for bytes in [half + half, [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0], whole + [0], Array(whole.dropLast()), [0]] {
            let forged = try bundle(firstFrame: bytes)
            let error = try #require(bundleError { _ = try openAndVerify(forged) })
            #expect(error.description.contains("is not one zstd frame"), "\(error)")
        }
    }

    @Test func `a damaged chunk is never decompressed`() throws {
        var forge = try BundleForge(smallBundle())
        forge["memory.data"].data[10] ^= 1
        let folder = try TemporaryFolder()
        let path = folder.file("a.smolmachine")
        try writeFile(forge.bytes, to: path)
        let memory = try GuestMemory(size: 1 << 20)
        let reader = try BundleReader(path: path)
        let error = try #require(bundleError { try reader.restoreMemory(into: memory, threads: 1) })
        #expect(
            error
                == .damaged(
                    member: "memory.data", reason: "the chunk of 0x0 does not have the SHA-256 in memory.index"))
        #expect(try ram(memory).allSatisfy { $0 == 0 })
    }

    @Test func `random damage under right hashes never traps`() throws {
        let valid = try BundleForge(smallBundle())
        var generator = SplitMix(state: 20_260_131)
        for _ in 0..<400 {
            var forge = valid
            let name = ["memory.index", "memory.data", "memory.index"][Int(generator.next() % 3)]
            for _ in 0..<(1 + generator.next() % 4) {
                let position = Int(generator.next() % UInt64(forge[name].data.count))
                forge[name].data[position] = UInt8(truncatingIfNeeded: generator.next())
            }
            if generator.next() % 8 == 0 { forge[name].data.removeLast(Int(generator.next() % 60)) }
            let bytes = forge.bytes
            // Accepted only when the change wrote what was there before.
            let error = bundleError { _ = try openAndVerify(bytes) }
            #expect((error == nil) == (forge[name].data == valid[name].data))
        }
    }

    @Test func `what is no bundle is refused`() throws {
        let folder = try TemporaryFolder()
        try writeFile([], to: folder.file("empty"))
        try writeFile(Array(repeating: 0, count: 100_000), to: folder.file("zeros"))
        #expect(unsafe mkfifo(folder.file("pipe"), 0o600) == 0)
        for name in ["empty", "zeros", "pipe", ""] {
            let error = bundleError { _ = try BundleReader(path: folder.file(name)) }
            guard case .notABundle = error else {
                Issue.record("\(name): \(String(describing: error))")
                continue
            }
        }
        #expect(
            throws: BundleError.io(operation: "open", path: folder.file("absent"), errno: ENOENT)
        ) { try BundleReader(path: folder.file("absent")) }
    }

    @Test func `a huge sparse file is refused at once`() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("sparse")
        let bytes = try smallBundle()
        try writeFile([], to: path)
        let descriptor = unsafe open(path, O_WRONLY | O_CLOEXEC)
        defer { close(descriptor) }
        #expect(ftruncate(descriptor, 1 << 40) == 0)
        let trailer = Array(bytes.suffix(98))
        #expect(unsafe pwrite(descriptor, trailer, 98, (1 << 40) - 98) == 98)
        #expect(throws: BundleError.self) { try BundleReader(path: path) }
    }
}

private struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ value >> 30) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ value >> 27) &* 0x94d0_49bb_1331_11eb
        return value ^ value >> 31
    }
}
