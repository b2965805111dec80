// SPDX-License-Identifier: Apache-2.0
// What is written comes back, for this reader and for everyday tools.

import Bundle
import GuestMemory
import TestSupport
import Testing

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// Two ranges with the hole between them, without 3 GiB of memory.
private final class SplitMemory: MemorySource {
    let ranges = [
        (start: GuestPhysicalAddress(0), size: UInt64(1 << 20)),
        (start: GuestPhysicalAddress(4 << 30), size: UInt64((1 << 20) + 4096)),
    ]

    func read(at address: GuestPhysicalAddress, into buffer: UnsafeMutableRawBufferPointer) -> Bool {
        let fill: UInt8 = address.rawValue >= 4 << 30 ? 0xaa : 0
        for index in 0..<buffer.count { unsafe buffer[index] = fill }
        return true
    }
}

struct RoundTripTests {
    @Test func `everything that was written comes back`() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("a.smolmachine")
        let memory = try smallMemory()
        var contents = smallContents(memory: memory)
        contents.parent = BundleIdentifier.random()
        contents.states.append(("apic", try encodeState([UInt64.max, 0], layer: "apic")))
        let written = try BundleWriter.write(contents, to: path)

        let reader = try BundleReader(path: path)
        #expect(reader.manifest == written)
        #expect(reader.manifest.configuration == contents.configuration)
        #expect(reader.manifest.lineage.parent == contents.parent)
        #expect(reader.stateNames == ["vcpu0", "apic"])
        #expect(try reader.state(named: "vcpu0") == contents.states[0].json)
        #expect(try decodeState(try reader.state(named: "apic"), as: [UInt64].self, layer: "apic") == [.max, 0])
        #expect(try reader.kernel() == contents.kernel)
        #expect(try reader.initramfs() == contents.initramfs)
        #expect(throws: BundleError.noSuchMember("state/absent.json")) { try reader.state(named: "absent") }
        let restored = try GuestMemory(size: memory.size)
        try reader.restoreMemory(into: restored)
        #expect(try ram(restored) == ram(memory))
    }

    @Test(arguments: [1, 2, 5])
    func `memory comes back with any number of threads`(threads: Int) throws {
        let folder = try TemporaryFolder()
        let path = folder.file("a.smolmachine")
        // Not a multiple of the chunk size; noise, text and zeros.
        let memory = try GuestMemory(size: (8 << 20) + 4096)
        try memory.write(noise(3 << 20, seed: 9), at: GuestPhysicalAddress(100))
        try memory.write(Array(repeating: 7, count: 100_000), at: GuestPhysicalAddress(5 << 20))
        try memory.write([1], at: GuestPhysicalAddress((8 << 20) + 4095))
        var contents = smallContents(memory: memory)
        contents.configuration.memoryBytes = memory.size
        var steps: [Double] = []
        _ = try BundleWriter.write(contents, to: path, threads: threads) { steps.append($0) }
        #expect(steps.last == 1)
        let reader = try BundleReader(path: path)
        let restored = try GuestMemory(size: memory.size)
        try reader.restoreMemory(into: restored, threads: threads)
        #expect(try ram(restored) == ram(memory))
        #expect(try reader.verify(threads: threads).bytes == UInt64(readFile(path).count))
    }

    @Test func `chunks that are all zeros take no space`() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("a.smolmachine")
        let memory = try GuestMemory(size: 64 << 20)
        try memory.write([1], at: GuestPhysicalAddress(32 << 20))
        _ = try BundleWriter.write(smallContents(memory: memory), to: path)
        let statistics = try BundleReader(path: path).memoryStatistics
        #expect(statistics.chunks - statistics.zeroChunks == 1)
        #expect(statistics.compressedBytes < 100)
        #expect(try readFile(path).count < 32 << 10)
    }

    @Test func `memory above the hole keeps its place`() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("a.smolmachine")
        let source = SplitMemory()
        var contents = smallContents(memory: try smallMemory())
        contents.memory = source
        contents.configuration.memoryBytes = (2 << 20) + 4096
        _ = try BundleWriter.write(contents, to: path)
        let reader = try BundleReader(path: path)
        #expect(reader.memoryStatistics.zeroChunks == 16)
        #expect(reader.memoryStatistics.chunks == 33)
        #expect(try reader.verify().chunks == 17)
    }

    @Test func `memory of another size is refused before anything is written`() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("a.smolmachine")
        _ = try BundleWriter.write(smallContents(memory: try smallMemory()), to: path)
        let other = try GuestMemory(size: 2 << 20)
        #expect(
            throws: BundleError.memoryMismatch(bundle: "1048576 bytes at 0x0", machine: "2097152 bytes at 0x0")
        ) { try BundleReader(path: path).restoreMemory(into: other) }
        #expect(try ram(other).allSatisfy { $0 == 0 })
    }

    @Test func `the data of every member starts on a page`() throws {
        let bytes = try smallBundle()
        var position = integer(bytes, bytes.count - 98 + 48, 8)
        for _ in 0..<6 {
            let nameSize = integer(bytes, position + 28, 2)
            let header = integer(bytes, position + 46 + nameSize + 20, 8)
            let start = header + 30 + integer(bytes, header + 26, 2) + integer(bytes, header + 28, 2)
            #expect(start.isMultiple(of: 4096))
            position += 46 + nameSize + 28
        }
    }

    @Test func `the root hash is the manifest's own with its digits zeroed`() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("a.smolmachine")
        let root = try BundleWriter.write(smallContents(memory: try smallMemory()), to: path).root
        let bytes = try readFile(path)
        let size = integer(bytes, bytes.count - 98 + 48 - 0, 8)
        // The manifest's text is what stands before the central directory, from its opening brace on.
        let start = try #require(bytes[..<size].lastIndex(of: 0)) + 1
        let text = String(decoding: bytes[start..<size], as: UTF8.self)
        let parts = text.split(separator: root, omittingEmptySubsequences: false)
        #expect(parts.count == 2)
        let blank = parts.joined(separator: String(repeating: "0", count: 64))
        #expect(hexadecimalSHA256(Array(blank.utf8)) == root)
    }

    @Test func `snapshots have ids of their own and say when they were made`() throws {
        let folder = try TemporaryFolder()
        let contents = smallContents(memory: try smallMemory())
        let before = time(nil)
        let first = try BundleWriter.write(contents, to: folder.file("a.smolmachine"))
        let second = try BundleWriter.write(contents, to: folder.file("b.smolmachine"))
        #expect(first.lineage.id != second.lineage.id)
        #expect(first.lineage.parent == nil)
        let times = (before...time(nil)).map { seconds in
            var seconds = seconds
            var parts = unsafe tm()
            unsafe gmtime_r(&seconds, &parts)
            var text = [CChar](repeating: 0, count: 32)
            unsafe strftime(&text, text.count, "%Y-%m-%dT%H:%M:%SZ", &parts)
            return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        }
        #expect(times.contains(first.lineage.created))
    }

    @Test func `unzip accepts it and prints the manifest`() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("a.smolmachine")
        _ = try BundleWriter.write(smallContents(memory: try smallMemory()), to: path)
        guard let test = runProgram(["unzip", "-t", path]),
            let list = runProgram(["unzip", "-p", path, "manifest.json"])
        else { return print("skipped: there is no unzip on this host") }
        #expect(test.status == 0, "\(test.output)")
        #expect(test.output.contains("No errors detected"))
        #expect(list.output.contains(#""formatVersion" : 3"#))
    }

    @Test func `Python's zipfile accepts it`() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("a.smolmachine")
        _ = try BundleWriter.write(smallContents(memory: try smallMemory()), to: path)
        let script = "import sys,zipfile; z=zipfile.ZipFile(sys.argv[1]); print(z.testzip(), len(z.read('kernel')))"
        guard let result = runProgram(["python3", "-c", script, path]) else {
            return print("skipped: there is no python3 on this host")
        }
        #expect(result.status == 0, "\(result.output)")
        #expect(result.output == "None 300\n")
    }
}
