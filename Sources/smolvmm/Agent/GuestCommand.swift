// SPDX-License-Identifier: Apache-2.0
// A command that the guest's agent shall run, and what it is run with.

import AgentProtocol
import Machine

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

struct GuestCommand: Equatable {
    var words: [String]
    /// Standard input is passed on.
    var isInteractive = false
    /// It gets this process's terminal.
    var hasTerminal = false
    /// Each NAME=VALUE.
    var environment: [String] = []
    /// USER or USER:GROUP; nil: the agent's.
    var user: String?
    /// Nil: the user's home.
    var folder: String?

    /// What is wrong with it, for the user.
    var fault: String? {
        guard let program = words.first, !program.isEmpty else {
            return "there is no command: write it behind '--', as in '-- uname -a'"
        }
        for variable in environment where !variable.dropFirst().contains("=") {
            return "-e \(variable): it must be NAME=VALUE"
        }
        let texts = words + environment + [user ?? "", folder ?? ""]
        guard texts.reduce(0, { $0 + $1.utf8.count + 4 }) < AgentProtocol.largestPayload - 64 else {
            return "the command and its environment have more than 128 KiB"
        }
        if hasTerminal, isatty(STDIN_FILENO) != 1 {
            return "-t needs a terminal, and standard input is none: leave it out"
        }
        return nil
    }

    /// Runs the command over the connection that `connect` makes for its request. Returns its exit status.
    func run(name: String, connect: (Frame) throws -> AgentConnection) throws -> Int32 {
        let terminal = hasTerminal ? Terminal() : nil
        defer { terminal?.leave() }
        let size = terminal?.size
        let request = Execute(
            arguments: words.map { Array($0.utf8) }, environment: environment.map { Array($0.utf8) },
            user: Array((user ?? "").utf8), folder: Array((folder ?? "").utf8), hasInput: isInteractive,
            terminal: hasTerminal ? WindowSize(columns: size?.columns ?? 80, rows: size?.rows ?? 24) : nil)
        let connection: AgentConnection
        do { connection = try connect(request.frame) } catch {
            terminal?.leave()
            throw error
        }
        // Until here signals end this process; from here on they are the command's.
        return try RemoteCommand(
            connection, name: name, hasInput: isInteractive, terminal: terminal, signals: Signals()
        ).run()
    }
}
