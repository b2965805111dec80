// SPDX-License-Identifier: Apache-2.0
// `smolvmm logs`.

import ArgumentParser
import Machine

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

struct LogsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "logs",
        abstract: "Show the console of a machine that was started with --detach.",
        discussion: """
            The last machine of that name, also when it has ended. What is older than some megabytes is dropped.
            """)

    @Argument(help: "The machine's name.")
    var name: MachineName

    @Flag(name: .shortAndLong, help: "Go on showing what comes until the machine ends.")
    var follow = false

    /// Microseconds between looks.
    private static let interval: UInt32 = 100_000

    func run() throws {
        let folder = try RuntimeFolder.own()
        let descriptor = unsafe open(folder.logPath(name), O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
        guard descriptor >= 0 else {
            throw CommandError("there is no log of a machine \(name): only machines started with --detach have one")
        }
        defer { close(descriptor) }
        var position: off_t = 0
        while true {
            let isRunning = try follow && folder.connect(name) != nil
            position = show(descriptor, from: position)
            guard isRunning else { return }
            usleep(Self.interval)
        }
    }

    /// Shows what is behind `start`; returns where it ends.
    private func show(_ descriptor: Int32, from start: off_t) -> off_t {
        var information = stat()
        // SAFETY: `information` outlives the call.
        guard unsafe fstat(descriptor, &information) == 0 else { return start }
        // A log that became shorter was begun anew.
        var position = information.st_size < start ? 0 : start
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            // SAFETY: the buffer's own count.
            let count = unsafe pread(descriptor, &buffer, buffer.count, position)
            guard count > 0 else { return position }
            position += off_t(count)
            writeAll(Array(buffer[..<count]), to: STDOUT_FILENO)
        }
    }
}
