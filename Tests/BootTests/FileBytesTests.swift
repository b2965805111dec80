// SPDX-License-Identifier: Apache-2.0
// Files that are mapped while nobody may change them.

import Host
import TestSupport
import Testing

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

struct FileBytesTests {
    private let folder: TemporaryFolder
    private let content = (0..<100_000).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) }
    private var path: String { folder.file("kernel") }

    init() throws {
        folder = try TemporaryFolder()
        try writeFile(content, to: path)
    }

    #if os(Linux)
        private func open(_ flags: Int32) -> Int32 { unsafe Glibc.open(path, flags | O_CLOEXEC) }

        /// The file, mapped. A program that another test is about to start may still have it open for writing for a moment.
        private func mapped() throws -> FileBytes {
            let descriptor = open(O_RDONLY)
            defer { close(descriptor) }
            var bytes: FileBytes?
            for _ in 0..<1000 {
                bytes = FileBytes(mapping: descriptor, size: content.count)
                if bytes != nil { break }
                usleep(5000)
            }
            return try #require(bytes)
        }

        @Test func `a mapped file is what it was, and who would change it waits until it is no longer needed`() throws {
            do {
                let bytes = try mapped()
                #expect(bytes.isMapped)
                #expect(bytes.array == content)
                #expect(bytes.withSpan { $0.count } == content.count)
                #expect(open(O_WRONLY | O_TRUNC | O_NONBLOCK) < 0 && errno == EWOULDBLOCK)
                let reader = open(O_RDONLY | O_NONBLOCK)
                #expect(reader >= 0)
                close(reader)
                #expect(bytes.array == content)
            }
            let writer = open(O_WRONLY | O_TRUNC | O_NONBLOCK)
            #expect(writer >= 0)
            close(writer)
        }

        @Test func `a file that somebody may be changing, or that has another size, is not mapped`() throws {
            _ = try mapped()
            let descriptor = open(O_RDONLY)
            defer { close(descriptor) }
            #expect(FileBytes(mapping: descriptor, size: content.count + 1) == nil)
            let writer = open(O_WRONLY)
            #expect(FileBytes(mapping: descriptor, size: content.count) == nil)
            close(writer)
        }
    #endif

    @Test func `bytes in memory are what they are`() {
        let bytes = FileBytes(content)
        #expect(!bytes.isMapped)
        #expect(bytes.array == content)
        #expect(bytes.withSpan { $0.count } == content.count)
    }
}
