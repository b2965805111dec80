// SPDX-License-Identifier: Apache-2.0
// Machines that go on without a terminal: `--detach` starts the command again as a process of its own, with its console in a
// file, and waits until the guest is ready.

import ArgumentParser
import CHost
import Host
import Machine

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// For the commands that start machines.
struct DetachArguments: ParsableArguments {
    @Flag(
        name: .shortAndLong,
        help: ArgumentHelp(
            "Leave the machine running and return when its guest is ready.",
            discussion: """
                Ready is when the guest's agent answers and the guest's start script, if the agent runs one, has ended. \
                'smolvmm logs' shows the console.
                """))
    var detach = false

    @Flag(help: "Tell on standard error when the guest is ready.")
    var waitReady = false

    @Option(
        help: ArgumentHelp(
            "How long --detach waits for the guest; it goes on either way. 0: not at all.", valueName: "seconds"))
    var readyTimeout = 300

    /// Set in the process that `--detach` starts: where it tells that the guest is ready.
    @Option(help: .hidden)
    var readyDescriptor: Int32?

    func validate() throws {
        guard readyTimeout >= 0 else {
            throw ValidationError("--ready-timeout is \(readyTimeout): it must be 0 or more")
        }
    }
}

enum Detachment {
    private static let readyByte: UInt8 = 1
    private static let lateByte: UInt8 = 2
    private static let childDescriptor: Int32 = 3

    /// Starts this command again as the machine `name` without a terminal, and waits for it.
    static func start(_ name: MachineName, in folder: RuntimeFolder, timeout: Int) throws {
        // What goes wrong later is in the log; a name that is taken is told here.
        if try folder.connect(name) != nil {
            throw CommandError("machine \(name) is already running: choose another --name, or stop it first")
        }
        let log = folder.logPath(name)
        var ends: [Int32] = [-1, -1]
        // SAFETY: pipe writes two descriptors.
        guard unsafe pipe(&ends) == 0 else { throw CommandError("the host refused a pipe: \(errorText(errno))") }
        defer { close(ends[0]) }
        _ = fcntl(ends[0], F_SETFD, FD_CLOEXEC)
        let process: pid_t
        do {
            defer { close(ends[1]) }
            process = try spawn(arguments(name), log: log, ready: ends[1])
        }
        var told: UInt8 = 0
        var count: Int
        repeat {
            // SAFETY: one byte.
            count = unsafe read(ends[0], &told, 1)
        } while count < 0 && errno == EINTR
        guard count == 1 else {
            var status: Int32 = 0
            // SAFETY: fills one status word.
            unsafe _ = waitpid(process, &status, 0)
            let code = status & 0x7f == 0 ? status >> 8 & 0xff : ExitStatus.failure.rawValue
            tell("machine \(name) ended before its guest was ready; its console: \(log)")
            throw ExitCode(code == 0 ? ExitStatus.failure.rawValue : code)
        }
        if told == lateByte, timeout > 0 {
            tell("the guest of machine \(name) was not ready within \(timeout) s; it goes on: 'smolvmm logs \(name)'")
        }
        writeAll(name.text + "\n", to: STDOUT_FILENO)
        if told == lateByte, timeout > 0 { throw ExitCode(ExitStatus.failure.rawValue) }
    }

    /// This process's arguments for the other one.
    private static func arguments(_ name: MachineName) -> [String] {
        var words = CommandLine.arguments
        words.removeAll { $0 == "--detach" || $0 == "-d" }
        if let index = words.firstIndex(of: "--name") { words.removeSubrange(index...min(index + 1, words.count - 1)) }
        words.removeAll { $0.hasPrefix("--name=") }
        return words + ["--name", name.text, "--ready-descriptor", "\(childDescriptor)"]
    }

    private static func spawn(_ words: [String], log: String, ready: Int32) throws(CommandError) -> pid_t {
        var actions = unsafe posix_spawn_file_actions_t()
        var attributes = posix_spawnattr_t()
        // SAFETY: both are initialised here and destroyed after their one use.
        unsafe _ = posix_spawn_file_actions_init(&actions)
        unsafe _ = posix_spawnattr_init(&attributes)
        defer {
            unsafe _ = posix_spawn_file_actions_destroy(&actions)
            unsafe _ = posix_spawnattr_destroy(&attributes)
        }
        unsafe _ = posix_spawnattr_setflags(&attributes, Int16(CHOST_SPAWN_NEW_SESSION))
        unsafe _ = posix_spawn_file_actions_adddup2(&actions, ready, childDescriptor)
        if ready != childDescriptor { unsafe _ = posix_spawn_file_actions_addclose(&actions, ready) }
        unsafe _ = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
        unsafe _ = posix_spawn_file_actions_addopen(
            &actions, STDOUT_FILENO, log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0o600)
        var process = pid_t()
        var list = unsafe words.map { unsafe strdup($0) }
        unsafe list.append(nil)
        // SAFETY: freed once, behind the call; the list ends with nil, its texts with NUL.
        defer { for index in 0..<words.count { unsafe free(list[index]) } }
        let code = unsafe posix_spawn(&process, "/proc/self/exe", &actions, &attributes, list, environ)
        guard code == 0 else { throw CommandError("the host refused a process: \(errorText(code))") }
        return process
    }

    /// In the process without a terminal: waits for the guest on a thread, then tells who waits.
    static func tellWhenReady(_ agent: GuestAgent, descriptor: Int32, timeout: Int) throws {
        _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        try HostThread.start {
            let isReady = timeout > 0 && agent.waitUntilReady(seconds: timeout)
            // A machine that has ended tells by its end.
            if !isReady, agent.control.activity == .ended { return }
            // From now on messages belong to the log, too.
            dup2(STDOUT_FILENO, STDERR_FILENO)
            var byte = isReady ? readyByte : lateByte
            // SAFETY: one byte; somebody who does not wait any more is none to tell.
            unsafe _ = write(descriptor, &byte, 1)
            close(descriptor)
        }
    }
}
