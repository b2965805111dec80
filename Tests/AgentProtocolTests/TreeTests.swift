// SPDX-License-Identifier: Apache-2.0
// Trees from one side to the other, and what a hostile side may send.

import CAgentFiles
import TestSupport
import Testing
@testable import AgentProtocol

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

struct TreeTests {
    private func run(_ script: String) throws -> String {
        let done = try #require(runProgram(["sh", "-c", script]))
        #expect(done.status == 0, "\(done.output)")
        return done.output
    }

    /// Sends what is at `source` into a file, and takes it from there to `destination`; what was left out.
    private func copy(_ source: String, to destination: String, _ folder: TemporaryFolder) throws -> [[UInt8]] {
        let file = unsafe open(folder.file("stream"), O_RDWR | O_CREAT | O_TRUNC, 0o600)
        defer { close(file) }
        var sender = TreeSender(FrameStream(file))
        try sender.send(Array(source.utf8))
        lseek(file, 0, SEEK_SET)
        var receiver = try TreeReceiver(FrameStream(file), into: Array(destination.utf8))
        try receiver.receive()
        return receiver.skipped
    }

    /// Takes `frames` into `destination`.
    private func take(_ frames: [Frame], to destination: String, _ folder: TemporaryFolder) throws {
        let file = unsafe open(folder.file("stream"), O_RDWR | O_CREAT | O_TRUNC, 0o600)
        defer { close(file) }
        let stream = FrameStream(file)
        for frame in frames { try stream.queue(frame) }
        try stream.flush()
        lseek(file, 0, SEEK_SET)
        var receiver = try TreeReceiver(FrameStream(file), into: Array(destination.utf8))
        try receiver.receive()
    }

    @Test func `a tree arrives with its modes, times and links, and without what is no file`() throws {
        let folder = try TemporaryFolder()
        let tree = folder.file("tree")
        _ = try run(
            """
            mkdir -p \(tree)/a/b \(tree)/empty; head -c 300000 /dev/urandom >\(tree)/a/file; ln -s /nowhere \(tree)/a/link
            mkfifo \(tree)/pipe; chmod 4711 \(tree)/a/file; chmod 2500 \(tree)/a/b
            touch -d '2001-02-03 04:05:06.789' \(tree)/a/file; touch -d 2002-01-01 \(tree)/a; mkdir \(folder.file("to"))
            """)
        let skipped = try copy(tree, to: folder.file("to"), folder)
        #expect(skipped.count == 1)
        let list = "-printf '%P %M %T@ %l\\n' | grep -v pipe | sort"
        // Not the time of the tree's own folder, from which the pipe is missing.
        let before = try run("cd \(tree) && find . -mindepth 1 \(list)")
        #expect(try run("cd \(folder.file("to"))/tree && find . -mindepth 1 \(list)") == before)
        #expect(try run("cmp \(tree)/a/file \(folder.file("to"))/tree/a/file") == "")
        // What is in it, into a folder that has some of it.
        _ = try copy(tree + "/.", to: folder.file("to") + "/tree", folder)
        #expect(try run("cd \(folder.file("to"))/tree && find . -mindepth 1 \(list)") == before)
        // Under another name.
        _ = try copy(tree + "/a/file", to: folder.file("other"), folder)
        #expect(try run("cmp \(tree)/a/file \(folder.file("other"))") == "")
    }

    @Test func `what is not there is a failure that names it`() throws {
        let folder = try TemporaryFolder()
        for (source, destination) in [("/nowhere/x", folder.path), ("/etc/hostname", folder.file("no/where"))] {
            #expect {
                _ = try copy(source, to: destination, folder)
            } throws: { error in
                "\(error)".contains("failure") || error is Failure
            }
        }
    }

    @Test(arguments: ["..", ".", "a/b", "", "/etc/x", String(repeating: "x", count: 300)])
    func `a name that leads elsewhere is refused`(name: String) throws {
        let folder = try TemporaryFolder()
        _ = try run("mkdir -p \(folder.file("in/to"))")
        let entry = TreeEntry(Array(name.utf8), .init())
        let inner = TreeEntry(
            Array("ok".utf8), .init(kind: 0, mode: 0o700, size: 0, modified_seconds: 0, modified_nanoseconds: 0))
        for kind in [FrameKind.folder, .file, .link] {
            for frames in [[entry.frame(kind)], [inner.frame(.folder), entry.frame(kind)]] {
                // At the top, a folder without a name is its contents.
                if name.isEmpty, kind == .folder, frames.count == 1 { continue }
                #expect(throws: (any Error).self) { try take(frames, to: folder.file("in/to"), folder) }
            }
        }
        #expect(
            try run("cd \(folder.file("in")); find . -mindepth 1 | sort").split(separator: "\n").allSatisfy {
                $0.hasPrefix("./to")
            })
    }

    @Test func `a link that was sent is never followed`() throws {
        let folder = try TemporaryFolder()
        _ = try run("mkdir \(folder.file("to")) \(folder.file("secret"))")
        let mode = TreeEntry(
            Array("d".utf8), .init(kind: 0, mode: 0o700, size: 0, modified_seconds: 0, modified_nanoseconds: 0))
        let link = TreeEntry(Array("x".utf8), mode.file, target: Array(folder.file("secret").utf8))
        let file = TreeEntry(Array("x".utf8), mode.file)
        let through = [mode.frame(.folder), link.frame(.link), file.frame(.folder), file.frame(.file)]
        #expect(throws: TreeError.self) { try take(through, to: folder.file("to"), folder) }
        // A file in the place of the link replaces it.
        let replaced = [
            mode.frame(.folder), link.frame(.link), file.frame(.file), Frame(.data, [1]), Frame(.endOfFile, [1]),
            Frame(.leave), Frame(.endOfTree),
        ]
        try take(replaced, to: folder.file("to"), folder)
        #expect(try run("ls -A \(folder.file("secret"))") == "")
        #expect(try run("ls -A \(folder.file("to"))/d; stat -c %F \(folder.file("to"))/d/x").contains("regular file"))
    }

    @Test func `a file that broke off leaves nothing, and frames that are not due end the copy`() throws {
        let folder = try TemporaryFolder()
        _ = try run("mkdir \(folder.file("to"))")
        let file = TreeEntry(
            Array("x".utf8), .init(kind: 0, mode: 0o600, size: 0, modified_seconds: 0, modified_nanoseconds: 0))
        for frames in [
            [file.frame(.file), Frame(.data, [1, 2])], [file.frame(.file), Frame(.leave)], [Frame(.leave)],
            [Frame(.endOfTree)], [Frame(.data, [1])], [file.frame(.folder), Frame(.endOfTree)],
            [file.frame(.file), Frame(.endOfFile, [0]), Frame(.endOfTree)],
        ] {
            _ = try? take(frames, to: folder.file("to"), folder)
        }
        #expect(try run("find \(folder.file("to")) -type f") == "")
    }
}
