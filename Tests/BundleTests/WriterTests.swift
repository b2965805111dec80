// SPDX-License-Identifier: Apache-2.0
// Writing: the old file or the new one, never something between, and clear errors.

import Bundle
import GuestMemory
import TestSupport
import Testing

#if os(Linux)
    import Glibc
#else
    import Darwin
#endif

struct WriterTests {
    @Test func `the old file stays whole until the new one is, and nothing else is left`() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("a.smolmachine")
        try writeFile([1, 2, 3], to: path)
        var during: [[String]] = []
        var old: [[UInt8]] = []
        _ = try BundleWriter.write(smallContents(memory: try smallMemory()), to: path, threads: 1) { progress in
            guard progress < 1 || during.isEmpty else { return }
            during.append(folder.names.filter { !$0.hasPrefix(".") })
            old.append((try? readFile(path)) ?? [])
        }
        #expect(during.first == ["a.smolmachine"])
        #expect(old.first == [1, 2, 3])
        #expect(folder.names == ["a.smolmachine"])
        _ = try BundleReader(path: path).verify()
    }

    @Test func `a folder that is not there is named`() throws {
        let folder = try TemporaryFolder()
        let contents = smallContents(memory: try smallMemory())
        let error = bundleError { _ = try BundleWriter.write(contents, to: folder.file("no/a.smolmachine")) }
        #expect(error == .io(operation: "open the folder", path: folder.file("no"), errno: ENOENT))
        #expect(error?.description.hasSuffix("No such file or directory") == true)
    }

    @Test func `a folder or a device is not replaced`() throws {
        let folder = try TemporaryFolder()
        let contents = smallContents(memory: try smallMemory())
        for path in [folder.path, "/dev/null", folder.path + "/", "/dev/.."] {
            #expect(throws: BundleError.self) { try BundleWriter.write(contents, to: path) }
        }
        #expect(folder.names.isEmpty)
    }

    @Test func `values that no reader would take are refused before anything is written`() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("a.smolmachine")
        let valid = smallContents(memory: try smallMemory())
        let changes: [(inout BundleContents) -> Void] = [
            { $0.configuration.name = "" }, { $0.configuration.name = "a/b" },
            { $0.configuration.cpuModel = String(repeating: "a", count: 65) }, { $0.configuration.cpus = 0 },
            { $0.configuration.memoryBytes = 2 << 20 },
            { $0.configuration.commandLine = String(repeating: "x", count: 4097) },
            { $0.states = [("a", []), ("a", [])] }, { $0.states = [("../a", [])] },
            { $0.states = [("a", [UInt8](repeating: 32, count: (16 << 20) + 1))] },
        ]
        for change in changes {
            var contents = valid
            change(&contents)
            #expect(throws: BundleError.self) { try BundleWriter.write(contents, to: path) }
        }
        #expect(folder.names.isEmpty)
    }

    #if os(Linux)
        @Test func `a full disk leaves the old file and nothing else`() throws {
            let folder = try TemporaryFolder()
            guard unsafe mount("none", folder.path, "tmpfs", 0, "size=1m") == 0 else {
                return print("skipped: only root can mount a small file system")
            }
            defer { unsafe umount2(folder.path, Int32(MNT_DETACH)) }
            let path = folder.file("a.smolmachine")
            try writeFile([1, 2, 3], to: path)
            let memory = try GuestMemory(size: 4 << 20)
            try memory.write(noise(3 << 20, seed: 4), at: GuestPhysicalAddress(0))
            let contents = smallContents(memory: memory)
            for threads in [1, 2] {
                let error = bundleError { _ = try BundleWriter.write(contents, to: path, threads: threads) }
                #expect(error == .io(operation: "write", path: path, errno: ENOSPC))
                #expect(try readFile(path) == [1, 2, 3])
                #expect(folder.names == ["a.smolmachine"])
            }
        }
    #endif

    @Test func `the file is the owner's alone, because it has all of the guest's memory`() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("a.smolmachine")
        _ = try BundleWriter.write(smallContents(memory: try smallMemory()), to: path)
        var information = stat()
        unsafe #expect(stat(path, &information) == 0)
        #expect(information.st_mode & 0o777 == 0o600)
    }
}
