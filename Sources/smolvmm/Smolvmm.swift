// SPDX-License-Identifier: Apache-2.0
// The command `smolvmm`: its subcommands, and the one place where errors become messages and exit statuses.

import ArgumentParser

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// The root of the command line.
struct Smolvmm: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "smolvmm",
        abstract: "Boots Linux once, freezes the whole machine into one file, and starts copies of it in milliseconds.",
        discussion: """
            smolvmm boot vmlinuz initramfs.cpio        first boot; Ctrl-A X leaves
            smolvmm snapshot NAME -o app.smolmachine   freezes the running machine NAME; it goes on running
            smolvmm restore app.smolmachine            the machine again, where it was frozen
            smolvmm run app.smolmachine -- COMMAND     a command in a throw-away copy of it
            smolvmm exec NAME -- COMMAND               a command in a running machine's guest

            EXIT STATUS:
              0    done; for boot and restore: the guest powered off, was stopped, or you left with Ctrl-A X
              1    an error, told on standard error
              3    the guest's kernel panicked
              4    the guest's processor shut down (a triple fault)
              5    the machine ended before the text of --snapshot-when appeared
              125  for exec and run: smolvmm could not do it; otherwise their status is the command's
              64   the command line was wrong
            Ended by a signal, smolvmm dies of that signal (a shell shows 128 and its number).
            """,
        version: "0.1.0",
        subcommands: [
            BootCommand.self, SnapshotCommand.self, RestoreCommand.self, RunCommand.self, ExecCommand.self,
            CopyCommand.self, LogsCommand.self, ListCommand.self, PauseCommand.self,
            ResumeCommand.self, StopCommand.self, BalloonCommand.self, GrowDiskCommand.self, InspectCommand.self,
            VerifyCommand.self, DiskCommand.self, DoctorCommand.self, BenchCPUCommand.self,
        ])
}

/// How smolvmm ended, for who started it.
enum ExitStatus: Int32 {
    case success = 0
    case failure = 1
    case panic = 3
    case tripleFault = 4
    case textNotSeen = 5
}

/// Why a command could not do its work: one line with what to do about it.
struct CommandError: Error, Equatable, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
}

/// Where the process starts.
@main
enum EntryPoint {
    static func main() {
        // Whoever reads our output may go away: writes tell us so.
        _ = signal(SIGPIPE, SIG_IGN)
        do {
            if let plain = PlainCommandLine(CommandLine.arguments.dropFirst()) { return try plain.run() }
            var command = try Smolvmm.parseAsRoot()
            try command.run()
        } catch {
            exit(report(error))
        }
    }

    /// Tells the user about `error`; returns the exit status that goes with it.
    private static func report(_ error: any Error) -> Int32 {
        if let status = error as? ExitCode { return status.rawValue }
        let status = Smolvmm.exitCode(for: error)
        if status == .success {
            // Help and version come as errors, too.
            writeAll(Smolvmm.fullMessage(for: error) + "\n", to: STDOUT_FILENO)
            return ExitStatus.success.rawValue
        }
        guard status == .validationFailure else {
            tell(error: "\(error)")
            return ExitStatus.failure.rawValue
        }
        var message = Smolvmm.fullMessage(for: error)
        if message.hasPrefix("Error: ") { message.removeFirst("Error: ".count) }
        tell(error: message)
        return status.rawValue
    }
}

/// An error on standard error.
func tell(error message: String) { writeAll("smolvmm: error: \(message)\n", to: STDERR_FILENO) }

/// A remark on standard error.
func tell(_ message: String) { writeAll("smolvmm: \(message)\n", to: STDERR_FILENO) }

/// Writes as much of `text` as the reader takes.
func writeAll(_ text: String, to descriptor: Int32) { writeAll(Array(text.utf8), to: descriptor) }

/// Writes as much of `bytes` as the reader takes.
func writeAll(_ bytes: [UInt8], to descriptor: Int32) {
    var done = 0
    while done < bytes.count {
        // SAFETY: `done` is below `bytes.count`.
        let count = unsafe bytes.withUnsafeBytes { buffer in
            unsafe write(descriptor, buffer.baseAddress.map { unsafe $0 + done }, buffer.count - done)
        }
        if count < 0, errno == EINTR { continue }
        if count < 0, errno == EAGAIN {
            var waiting = [pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)]
            unsafe _ = poll(&waiting, 1, -1)
            continue
        }
        guard count > 0 else { return }
        done += count
    }
}
