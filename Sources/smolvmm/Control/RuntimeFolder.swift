// SPDX-License-Identifier: Apache-2.0
// The folder in which the running machines of one user have their control sockets. Spec: XDG base directories.

import Host

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// A folder of mode 0700 that belongs to this user.
struct RuntimeFolder: Equatable {
    let path: String

    /// Opens the folder `path`, making it if need be.
    /// - Throws: when it is somebody else's, open to others, or no folder.
    init(path: String) throws(CommandError) {
        self.path = path
        if unsafe mkdir(path, 0o700) != 0, errno != EEXIST {
            throw CommandError("cannot make the folder for control sockets, \(path): \(errorText(errno))")
        }
        var information = stat()
        // SAFETY: `information` outlives the call.
        guard unsafe lstat(path, &information) == 0 else {
            throw CommandError("cannot use the folder for control sockets, \(path): \(errorText(errno))")
        }
        guard information.st_mode & S_IFMT == S_IFDIR else {
            throw CommandError("\(path) is not a folder: control sockets need it, move it away")
        }
        guard information.st_uid == geteuid(), information.st_mode & 0o077 == 0 else {
            throw CommandError(
                "the folder for control sockets, \(path), belongs to another user or is open to others: "
                    + "it must be yours with mode 0700")
        }
    }

    /// Where this user's folder is: `$XDG_RUNTIME_DIR/smolvmm`, `/run/user/UID/smolvmm` or `/tmp/smolvmm-UID`.
    static func location(runtimeDirectory: String?, user: UInt32, isFolder: (String) -> Bool) -> String {
        if let runtimeDirectory, runtimeDirectory.hasPrefix("/") { return runtimeDirectory + "/smolvmm" }
        let standard = "/run/user/\(user)"
        return isFolder(standard) ? standard + "/smolvmm" : "/tmp/smolvmm-\(user)"
    }

    /// This user's folder.
    static func own() throws(CommandError) -> RuntimeFolder {
        var directory: String?
        // SAFETY: getenv gives a NUL-terminated string, copied at once.
        if let value = unsafe getenv("XDG_RUNTIME_DIR") { directory = unsafe String(cString: value) }
        let path = location(runtimeDirectory: directory, user: geteuid()) { unsafe access($0, W_OK | X_OK) == 0 }
        return try RuntimeFolder(path: path)
    }

    private static let ending = ".sock"

    func socketPath(_ name: MachineName) -> String { path + "/" + name.text + Self.ending }

    /// Where the machine's vsock ports are served; `_PORT` behind it is for connections of the guest's own.
    func vsockPath(_ name: MachineName) -> String { path + "/" + name.text + ".vsock" }

    /// The console of a machine without a terminal.
    func logPath(_ name: MachineName) -> String { path + "/" + name.text + ".log" }

    /// Names with a socket, sorted; some may be stale.
    func names() throws(CommandError) -> [MachineName] {
        guard let folder = unsafe opendir(path) else { throw CommandError("cannot list \(path): \(errorText(errno))") }
        defer { unsafe _ = closedir(folder) }
        var names: [MachineName] = []
        while let entry = unsafe readdir(folder) {
            // SAFETY: the entry is valid until the next readdir; its name is NUL-terminated and copied.
            let file = unsafe withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                unsafe pointer.withMemoryRebound(to: CChar.self, capacity: 1) { unsafe String(cString: $0) }
            }
            guard file.hasSuffix(Self.ending), let name = MachineName(argument: String(file.dropLast(5))) else {
                continue
            }
            names.append(name)
        }
        return names.sorted { $0.text < $1.text }
    }

    /// Runs `body` while no other smolvmm of this user claims or cleans up names.
    func locked<Value>(_ body: () throws(CommandError) -> Value) throws(CommandError) -> Value {
        let descriptor = unsafe open(path + "/.lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { throw CommandError("cannot lock \(path): \(errorText(errno))") }
        defer { close(descriptor) }
        while flock(descriptor, LOCK_EX) != 0 {
            guard errno == EINTR else { throw CommandError("cannot lock \(path): \(errorText(errno))") }
        }
        return try body()
    }

    /// A listener for the machine `name`; a socket that a killed machine left is replaced.
    func claim(_ name: MachineName) throws(CommandError) -> UnixSocket {
        try locked { () throws(CommandError) in
            let path = socketPath(name)
            if try UnixSocket.connect(to: path) != nil {
                throw CommandError("machine \(name) is already running: choose another --name, or stop it first")
            }
            unsafe unlink(path)
            unsafe unlink(vsockPath(name))
            return try UnixSocket.listen(at: path)
        }
    }

    /// A connection to the machine `name`; nil when it does not run. A stale socket is removed.
    func connect(_ name: MachineName) throws(CommandError) -> UnixSocket? {
        let path = socketPath(name)
        if let connection = try UnixSocket.connect(to: path) { return connection }
        guard unsafe access(path, F_OK) == 0 else { return nil }
        return try locked { () throws(CommandError) in
            // Somebody may have claimed the name in the meantime.
            if let connection = try UnixSocket.connect(to: path) { return connection }
            unsafe unlink(path)
            unsafe unlink(vsockPath(name))
            return nil
        }
    }
}
