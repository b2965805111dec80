// SPDX-License-Identifier: Apache-2.0
// The chunks that are read first.

import GuestMemory
import Synchronization
import TestSupport
import Testing

@testable import Bundle

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

struct WorkingSetTests {
    private func write(_ workingSet: [UInt64], in folder: TemporaryFolder) throws -> String {
        let path = folder.file("a.smolmachine")
        var contents = smallContents(memory: try smallMemory())
        contents.workingSet = workingSet.map { GuestPhysicalAddress($0) }
        _ = try BundleWriter.write(contents, to: path)
        return path
    }

    @Test func `it comes back in its order, each chunk once, without what is no memory`() throws {
        let folder = try TemporaryFolder()
        let reader = try BundleReader(path: try write([0x8_0005, 0x1000, 0x8_ffff, 0x10_0000, 0xf_0000], in: folder))
        #expect(reader.workingSet.map(\.rawValue) == [0x8_0000, 0, 0xf_0000])
        #expect(try reader.verify().members == 7)
    }

    @Test func `a bundle need not have one`() throws {
        let folder = try TemporaryFolder()
        #expect(try BundleReader(path: try write([], in: folder)).workingSet.isEmpty)
    }

    @Test(arguments: [[1], [16, 0, 0, 0], [0xff, 0xff, 0xff, 0xff], [0, 0, 0, 0, 0, 0, 0, 0]] as [[UInt8]])
    func `one that cannot be is refused`(bytes: [UInt8]) throws {
        let folder = try TemporaryFolder()
        var forge = try BundleForge(readFile(try write([0], in: folder)))
        forge["memory.workingset"].data = bytes
        let error = try #require(bundleError { _ = try openAndVerify(forge.bytes) })
        #expect(error.description.hasPrefix("memory.workingset is damaged: "), "\(error)")
    }

    #if os(Linux)
        private final class Flag: Sendable {
            let isSet = Atomic<Bool>(false)
        }

        /// Reads a bundle whose first chunk is damaged, of which the reader tells.
        @Test func `it is read before anybody uses memory`() throws {
            let folder = try TemporaryFolder()
            let path = try write([0], in: folder)
            var forge = try BundleForge(readFile(path))
            forge["memory.data"].data[10] ^= 1
            try writeFile(forge.bytes, to: path)
            let memory = try GuestMemory(size: 1 << 20)
            let told = Flag()
            let lazy = try BundleReader(path: path).fillAsUsed(memory) { told.isSet.store(true, ordering: .releasing) }
            guard let lazy else { return print("skipped: this host does not let a process handle faults") }
            for _ in 0..<1000 where !told.isSet.load(ordering: .acquiring) { usleep(10_000) }
            #expect(lazy.failure?.description.contains("0x0") == true)
        }
    #endif
}
