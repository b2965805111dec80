// SPDX-License-Identifier: Apache-2.0
// `smolvmm exec` and `smolvmm run` as scripts write them, understood without ArgumentParser: what that looks up of its types
// takes 2 ms, as long as a short command in the guest.

/// A command line that is right and has nothing unusual. ArgumentParser understands it in the same way, and all others.
enum PlainCommandLine: Equatable {
    case exec(MachineName, GuestCommand)
    case run(file: String, GuestCommand)

    /// - Parameter words: without the program's name. Nil for everything but `exec NAME` or `run FILE`, short options of
    ///   both behind it, `--`, and a command.
    init?(_ words: some Collection<String>) {
        guard let verb = words.first, verb == "exec" || verb == "run" else { return nil }
        let rest = words.dropFirst()
        guard let end = rest.firstIndex(of: "--") else { return nil }
        var options = Array(rest[..<end])[...]
        guard let subject = options.popFirst(), !subject.isEmpty, !subject.hasPrefix("-"),
            let command = Self.command(Array(rest[end...].dropFirst()), options)
        else { return nil }
        if verb == "run" {
            self = .run(file: subject, command)
        } else {
            guard let name = MachineName(argument: subject) else { return nil }
            self = .exec(name, command)
        }
    }

    private static func command(_ words: [String], _ options: ArraySlice<String>) -> GuestCommand? {
        var command = GuestCommand(words: words)
        var options = options
        while let option = options.popFirst() {
            switch option {
            case "-i": command.isInteractive = true
            case "-t": command.hasTerminal = true
            case "-it":
                command.isInteractive = true
                command.hasTerminal = true
            case "-e", "-u", "-w":
                guard let value = options.popFirst(), !value.isEmpty, !value.hasPrefix("-") else { return nil }
                switch option {
                case "-e": command.environment.append(value)
                case "-u": command.user = value
                default: command.folder = value
                }
            default: return nil
            }
        }
        return command.fault == nil ? command : nil
    }

    func run() throws {
        switch self {
        case .exec(let name, let command): try ExecCommand.run(command, on: name)
        case .run(let file, let command): try RunCommand.run(command, in: file)
        }
    }
}
