// SPDX-License-Identifier: Apache-2.0
// `smolvmm exec`, and what it shares with `smolvmm run`.

import ArgumentParser
import Machine

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

    var guestCommand: GuestCommand {
        GuestCommand(
            words: command, isInteractive: interactive, hasTerminal: tty, environment: env, user: user, folder: workdir)
    }

    func validate() throws {
        if let fault = guestCommand.fault { throw ValidationError(fault) }
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

    func run() throws { try Self.run(command.guestCommand, on: name) }

    static func run(_ command: GuestCommand, on name: MachineName) throws {
        let folder = try RuntimeFolder.own()
        let status = try command.run(name: name.text) { request in
            do { return try AgentConnection(name, in: folder, request: request) } catch {
                tell(error: "\(error)")
                throw ExitCode(RemoteCommand.refused)
            }
        }
        if status != 0 { throw ExitCode(status) }
    }
}
