// SPDX-License-Identifier: Apache-2.0
// Control sockets: where they are, who may use them, how names are claimed and freed.

import Machine
import Testing

@testable import smolvmm

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// A folder of its own for each test, removed with what is in it.
final class TemporaryFolder {
    let path: String

    init() throws {
        var template = Array("/tmp/smolvmm-test-XXXXXX".utf8CString)
        // SAFETY: mkdtemp changes the template in place, which is NUL-terminated.
        let made = unsafe template.withUnsafeMutableBufferPointer { buffer -> String? in
            guard let base = buffer.baseAddress, let path = unsafe mkdtemp(base) else { return nil }
            return unsafe String(cString: path)
        }
        path = try #require(made)
    }

    deinit {
        if let folder = try? RuntimeFolder(path: path), let names = try? folder.names() {
            for name in names { unsafe _ = unlink(folder.socketPath(name)) }
        }
        for file in ["/.lock", "/.accelerator"] { unsafe _ = unlink(path + file) }
        unsafe _ = rmdir(path)
    }

    func mode(of file: String) throws -> UInt32 {
        var information = stat()
        // SAFETY: `information` outlives the call.
        try #require(unsafe lstat(path + file, &information) == 0)
        return UInt32(information.st_mode) & 0o7777
    }
}

struct RuntimeFolderTests {
    private func name(_ text: String) throws -> MachineName { try #require(MachineName(argument: text)) }

    @Test func `the folder is the one of XDG, of the user's session, or a private one`() {
        func location(_ directory: String?, _ exists: Bool) -> String {
            RuntimeFolder.location(runtimeDirectory: directory, user: 7) { _ in exists }
        }
        #expect(location("/run/me", false) == "/run/me/smolvmm")
        #expect(location("relative", true) == "/run/user/7/smolvmm")
        #expect(location(nil, true) == "/run/user/7/smolvmm")
        #expect(location(nil, false) == "/tmp/smolvmm-7")
    }

    @Test func `a folder that others can enter is refused`() throws {
        let folder = try TemporaryFolder()
        #expect(throws: Never.self) { try RuntimeFolder(path: folder.path) }
        unsafe _ = chmod(folder.path, 0o750)
        #expect(throws: CommandError.self) { try RuntimeFolder(path: folder.path) }
        unsafe _ = chmod(folder.path, 0o700)
    }

    @Test func `a file or a link in the folder's place is refused`() throws {
        let folder = try TemporaryFolder()
        let link = folder.path + "/link.sock"
        unsafe _ = symlink(folder.path, link)
        #expect(throws: CommandError.self) { try RuntimeFolder(path: link) }
    }

    @Test func `a folder that is missing is made for its owner only`() throws {
        let folder = try TemporaryFolder()
        _ = try RuntimeFolder(path: folder.path + "/new")
        #expect(try folder.mode(of: "/new") == 0o700)
        unsafe _ = rmdir(folder.path + "/new")
    }

    @Test func `a claimed name has a socket of mode 0600 and is refused to others`() throws {
        let temporary = try TemporaryFolder()
        let folder = try RuntimeFolder(path: temporary.path)
        let listener = try folder.claim(name("web"))
        #expect(try temporary.mode(of: "/web.sock") == 0o600)
        #expect(try folder.names() == [name("web")])
        #expect { try folder.claim(name("web")) } throws: { "\($0)".contains("web is already running") }
        #expect(try folder.connect(name("web")) != nil)
        _ = listener
    }

    @Test func `a socket that nobody serves is cleaned up`() throws {
        let temporary = try TemporaryFolder()
        let folder = try RuntimeFolder(path: temporary.path)
        do { _ = try folder.claim(name("gone")) }
        #expect(try folder.names() == [name("gone")])
        #expect(try folder.connect(name("gone")) == nil)
        #expect(try folder.names().isEmpty)
    }

    @Test func `a socket that nobody serves does not keep its name`() throws {
        let temporary = try TemporaryFolder()
        let folder = try RuntimeFolder(path: temporary.path)
        do { _ = try folder.claim(name("again")) }
        let listener = try folder.claim(name("again"))
        #expect(try folder.connect(name("again")) != nil)
        _ = listener
    }

    @Test func `what auto was found to mean is remembered, and not believed of another host`() throws {
        let temporary = try TemporaryFolder()
        let folder = try RuntimeFolder(path: temporary.path)
        #expect(folder.knownAccelerator == nil)
        folder.remember(.kvm)
        #expect(folder.knownAccelerator == .kvm)
        folder.remember(.software)
        #expect(folder.knownAccelerator == .software)
        #expect(try temporary.mode(of: "/.accelerator") == 0o600)
        #expect(try folder.names().isEmpty)
        let file = unsafe open(folder.path + "/.accelerator", O_WRONLY | O_TRUNC)
        writeAll("kvm 00000000-0000-0000-0000-000000000000open", to: file)
        close(file)
        #expect(folder.knownAccelerator == nil)
    }

    @Test func `a path that is too long for a socket is refused with what to do`() throws {
        let temporary = try TemporaryFolder()
        let long = temporary.path + "/" + String(repeating: "x", count: 90)
        let folder = try RuntimeFolder(path: long)
        #expect { try folder.claim(name("n")) } throws: { "\($0)".contains("XDG_RUNTIME_DIR") }
        unsafe _ = unlink(long + "/.lock")
        unsafe _ = rmdir(long)
    }
}
