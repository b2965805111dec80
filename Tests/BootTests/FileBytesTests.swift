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

        /// What `attempt` returns once it is not nil: a program that another test is about to start may still have for a moment
        /// what this one has closed.
        private func eventually<Value>(_ attempt: () -> Value?) -> Value? {
            for _ in 0..<1000 {
                if let value = attempt() { return value }
                usleep(5000)
            }
            return nil
        }

        /// The file, mapped.
        private func mapped() throws -> FileBytes {
            let descriptor = open(O_RDONLY)
            defer { close(descriptor) }
            return try #require(eventually { FileBytes(mapping: descriptor, size: content.count) })
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
            let writer = eventually {
                let writer = open(O_WRONLY | O_TRUNC | O_NONBLOCK)
                return writer < 0 ? nil : writer
            }
            close(try #require(writer))
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
