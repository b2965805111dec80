// SPDX-License-Identifier: Apache-2.0
// `smolvmm exec`, and what it shares with `smolvmm run`.

import AgentProtocol
import ArgumentParser
import Machine

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// What a command in the guest is run with.
struct CommandArguments: ParsableArguments {
    @Flag(name: .shortAndLong, help: "Pass standard input on to the command.")
    var interactive = false

    @Flag(name: .shortAndLong, help: "Give the command a terminal: yours, with its keys and its size.")
    var tty = false

    @Option(
        name: .shortAndLong, help: ArgumentHelp("An environment variable for the command.", valueName: "NAME=VALUE"))
    var env: [String] = []

    @Option(
        name: .shortAndLong,
        help: ArgumentHelp("The user that runs the command: a name or a number, USER or USER:GROUP.", valueName: "user")
    )
    var user: String?

    @Option(
        name: .shortAndLong,
        help: ArgumentHelp("The folder that the command starts in. (default: the user's home)", valueName: "folder"))
    var workdir: String?

    @Argument(parsing: .postTerminator, help: "The command and its arguments, behind '--'.")
    var command: [String] = []

    func validate() throws {
        guard let program = command.first, !program.isEmpty else {
            throw ValidationError("there is no command: write it behind '--', as in '-- uname -a'")
        }
        for variable in env where !variable.dropFirst().contains("=") {
            throw ValidationError("-e \(variable): it must be NAME=VALUE")
        }
        let texts = command + env + [user ?? "", workdir ?? ""]
        guard texts.reduce(0, { $0 + $1.utf8.count + 4 }) < AgentProtocol.largestPayload - 64 else {
            throw ValidationError("the command and its environment have more than 128 KiB")
        }
        if tty, isatty(STDIN_FILENO) != 1 {
            throw ValidationError("-t needs a terminal, and standard input is none: leave it out")
        }
    }

    /// Runs the command over the connection that `connect` makes for its request. Returns its exit status.
    func run(name: String, connect: (Frame) throws -> AgentConnection) throws -> Int32 {
        let terminal = tty ? Terminal() : nil
        defer { terminal?.leave() }
        let size = terminal?.size
        let request = Execute(
            arguments: command.map { Array($0.utf8) }, environment: env.map { Array($0.utf8) },
            user: Array((user ?? "").utf8), folder: Array((workdir ?? "").utf8), hasInput: interactive,
            terminal: tty ? WindowSize(columns: size?.columns ?? 80, rows: size?.rows ?? 24) : nil)
        let connection: AgentConnection
        do { connection = try connect(request.frame) } catch {
            terminal?.leave()
            throw error
        }
        // Until here signals end this process; from here on they are the command's.
        return try RemoteCommand(
            connection, name: name, hasInput: interactive, terminal: terminal, signals: Signals()
        ).run()
    }
}

struct ExecCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "exec",
        abstract: "Run a command in a running machine's guest.",
        discussion: """
            The guest's agent runs it (docs/agent-protocol.md). Its standard output and error are yours, signals that you \
            send are passed on, and its exit status is smolvmm's: 128 and the signal's number when a signal ended it, 127 \
            when there is no such program, 126 when it cannot be run, 125 when smolvmm itself could not do it.

            EXAMPLES:
              smolvmm exec web -- uname -a
              smolvmm exec web -it -- sh
              smolvmm exec web -i -u postgres -e PGPORT=5433 -- psql <dump.sql
            """)

    @Argument(help: "The running machine: see 'smolvmm list'.")
    var name: MachineName

    @OptionGroup var command: CommandArguments

    func run() throws {
        let folder = try RuntimeFolder.own()
        let status = try command.run(name: name.text) { request in
            do { return try AgentConnection(name, in: folder, request: request) } catch {
                tell(error: "\(error)")
                throw ExitCode(125)
            }
        }
        if status != 0 { throw ExitCode(status) }
    }
}
