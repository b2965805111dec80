// SPDX-License-Identifier: Apache-2.0
// What `--accel auto` was found to mean on this host, kept in the runtime folder: looking takes longer than a restore.

import Machine

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

extension RuntimeFolder {
    /// What this host was found to be good for since it was started.
    static func measuredAccelerator() -> Accelerator {
        guard let folder = try? own() else { return Accelerator.measured() }
        if let known = folder.knownAccelerator { return known }
        let measured = Accelerator.measured()
        folder.remember(measured)
        return measured
    }

    private var acceleratorPath: String { path + "/.accelerator" }

    /// What the answer depends on: the host's kernel since it was started, and whether this user may open /dev/kvm.
    private static func circumstances() -> String? {
        guard let boot = readSmall("/proc/sys/kernel/random/boot_id") else { return nil }
        return boot + (unsafe access("/dev/kvm", R_OK | W_OK) == 0 ? "open" : "closed")
    }

    /// Nil when nobody has looked, or something has changed.
    var knownAccelerator: Accelerator? {
        guard let text = readSmall(acceleratorPath), let now = Self.circumstances() else { return nil }
        let lines = text.split(separator: " ")
        guard lines.count == 2, lines[1] == now else { return nil }
        return Accelerator(rawValue: String(lines[0]))
    }

    /// Keeps what was found; where that fails, the next one looks again.
    func remember(_ accelerator: Accelerator) {
        guard let now = Self.circumstances() else { return }
        let partial = acceleratorPath + ".\(getpid())"
        let descriptor = unsafe open(partial, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { return }
        writeAll("\(accelerator.rawValue) \(now)", to: descriptor)
        close(descriptor)
        if unsafe rename(partial, acceleratorPath) != 0 { unsafe _ = unlink(partial) }
    }
}

/// The first line of a small file, such as a setting of the kernel.
func readSmall(_ path: String) -> String? {
    let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var bytes = [UInt8](repeating: 0, count: 256)
    // SAFETY: `bytes` has the count that is passed.
    let count = unsafe read(descriptor, &bytes, bytes.count)
    return String(decoding: bytes.prefix(max(0, count)).prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
}
