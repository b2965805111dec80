// SPDX-License-Identifier: Apache-2.0
// Starting a command: its user, folder, environment and terminal, between clone(2) and execve(2).

import CLibc

/// What a child of the agent does to become a command.
struct CommandStart {
    /// What could not be done.
    enum Step {
        case user, folder, terminal, program
    }

    static let standardEnvironment = [
        [UInt8]("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    ]

    let command: Execute
    let user: user
    /// The user's own, or somebody else was asked for.
    let changesUser: Bool

    /// - Throws: when there is no such user.
    init(_ command: Execute) throws(Failure) {
        self.command = command
        var found = CLibc.user()
        changesUser = !command.user.isEmpty
        if !changesUser {
            // SAFETY: `found` outlives the call. Without an entry the agent's user has no name.
            if unsafe find_user_number(getuid(), &found) != 0 { found.number = getuid() }
        } else {
            let parts = command.user.split(separator: UInt8(ascii: ":"), maxSplits: 1, omittingEmptySubsequences: false)
            let name = Array(parts[0])
            if let number = Self.number(name) {
                // SAFETY: `found` outlives the call.
                if unsafe find_user_number(number, &found) != 0 {
                    found.number = number
                    found.group = number
                }
            } else if unsafe Self.withText(name, { unsafe find_user($0, &found) }) != 0 {
                throw Failure(.other, [UInt8]("the guest has no user '") + name + [UInt8]("'"))
            }
            if parts.count > 1 {
                let group = Array(parts[1])
                if let number = Self.number(group) {
                    found.group = number
                } else if unsafe Self.withText(group, { unsafe find_group($0, &found.group) }) != 0 {
                    throw Failure(.other, [UInt8]("the guest has no group '") + group + [UInt8]("'"))
                }
            }
        }
        user = found
    }

    private static func number(_ text: [UInt8]) -> UInt32? {
        guard !text.isEmpty, text.count < 10 else { return nil }
        var value: UInt32 = 0
        for byte in text {
            guard byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") else { return nil }
            value = value * 10 + UInt32(byte - UInt8(ascii: "0"))
        }
        return value
    }

    /// In the child: becomes the command. When that fails, `report` says why.
    /// - Parameters:
    ///   - descriptors: standard input, output and error; nil for a terminal at `terminalPath`.
    func run(descriptors: (Int32, Int32, Int32)?, terminalPath: [CChar], report: StartReport) -> Never {
        restore_signals()
        _ = setsid()
        if let descriptors {
            _ = dup2(descriptors.0, STDIN_FILENO)
            _ = dup2(descriptors.1, STDOUT_FILENO)
            _ = dup2(descriptors.2, STDERR_FILENO)
        } else {
            // SAFETY: `terminalPath` ends with NUL.
            let terminal = unsafe open_any(terminalPath, O_RDWR)
            guard terminal >= 0, take_terminal(terminal) == 0 else { fail(.terminal, report) }
            for standard in STDIN_FILENO...STDERR_FILENO { _ = dup2(terminal, standard) }
        }
        var user = user
        // SAFETY: `user` outlives the call.
        if changesUser, unsafe CLibc.become(&user) != 0 { fail(.user, report) }
        let home = Self.text(of: user.home)
        if command.folder.isEmpty {
            let isThere = unsafe !home.isEmpty && Self.withText(home, { unsafe chdir($0) }) == 0
            if !isThere { _ = unsafe chdir(("/" as StaticString).cString) }
        } else if unsafe Self.withText(command.folder, { unsafe chdir($0) }) != 0 {
            fail(.folder, report)
        }
        var variables = Self.standardEnvironment
        variables.append([UInt8]("HOME=") + (home.isEmpty ? [UInt8]("/") : home))
        let name = Self.text(of: user.name)
        if !name.isEmpty {
            variables.append([UInt8]("USER=") + name)
            variables.append([UInt8]("LOGNAME=") + name)
        }
        if command.terminal != nil { variables.append([UInt8]("TERM=xterm")) }
        Self.become(command.arguments, Self.merged(variables, command.environment))
        fail(.program, report)
    }

    /// The later of two variables of one name counts.
    private static func merged(_ base: [[UInt8]], _ more: [[UInt8]]) -> [[UInt8]] {
        var result = base
        for variable in more {
            let name = variable.prefix { $0 != UInt8(ascii: "=") } + [UInt8(ascii: "=")]
            result.removeAll { $0.starts(with: name) }
            result.append(variable)
        }
        return result
    }

    private func fail(_ step: Step, _ report: StartReport) -> Never {
        report.failure = (step, last_error())
        _exit(127)
    }

    /// Becomes the program; returns only when that fails.
    static func become(_ arguments: [[UInt8]], _ variables: [[UInt8]]) {
        let first = unsafe cList(arguments)
        let second = unsafe cList(variables)
        // SAFETY: both lists end with nil, their texts with NUL.
        unsafe become_program(first, second)
    }

    /// A list for execve(2), never freed: the process becomes another, or ends, and so does the one whose memory it has.
    private static func cList(_ texts: [[UInt8]]) -> [UnsafeMutablePointer<CChar>?] {
        var list = unsafe texts.map { text in unsafe withText(text) { unsafe strdup($0) } }
        unsafe list.append(nil)
        return unsafe list
    }

    /// The text in a field of a C structure.
    private static func text<Field>(of field: Field) -> [UInt8] {
        var field = field
        // SAFETY: the bytes of a copy, for the call.
        return unsafe withUnsafeBytes(of: &field) { unsafe Array($0.prefix { $0 != 0 }) }
    }

    /// Calls `body` with `text` as C has it.
    static func withText<Value>(_ text: [UInt8], _ body: (UnsafePointer<CChar>) -> Value) -> Value {
        unsafe TreeName.with(text) { unsafe body($0) }
    }
}

/// Where a child that has its parent's memory leaves why it did not become the command.
final class StartReport {
    var failure: (step: CommandStart.Step, error: Int32)?
}
