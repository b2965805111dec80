// SPDX-License-Identifier: Apache-2.0
// `smolvmm cp`.

import AgentProtocol
import ArgumentParser
import Machine

/// A place on the host, or in a machine's guest.
struct CopyPlace: ExpressibleByArgument, Equatable {
    /// Nil on the host.
    let machine: MachineName?
    let path: String

    /// `NAME:PATH` is a guest's; a path of the host's that looks like it is written with `./`.
    init?(argument: String) {
        guard !argument.isEmpty else { return nil }
        let parts = argument.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        if parts.count == 2, let name = MachineName(argument: String(parts[0])) {
            guard !parts[1].isEmpty else { return nil }
            machine = name
            path = String(parts[1])
        } else {
            machine = nil
            path = argument
        }
    }
}

struct CopyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cp",
        abstract: "Copy a file, or a folder with everything in it, into a running machine's guest or out of it.",
        discussion: """
            Modes and times are kept; owners are the agent's user (root) in the guest, and you on the host. Into a folder that \
            exists, the copy gets the name that it had; FOLDER/. copies what is in it. Symbolic links are copied as links; \
            sockets, devices and pipes are left out. A file has its name only when it is whole.

            EXAMPLES:
              smolvmm cp setup.sh web:/root/
              smolvmm cp web:/var/log ./log
            """)

    @Argument(help: "What is copied: PATH on the host, or NAME:PATH in a machine's guest.")
    var source: CopyPlace

    @Argument(help: "Where to: PATH, or NAME:PATH.")
    var destination: CopyPlace

    func validate() throws {
        guard (source.machine == nil) != (destination.machine == nil) else {
            throw ValidationError("one of the two must be in a machine (NAME:PATH), the other on the host (PATH)")
        }
    }

    func run() throws {
        let folder = try RuntimeFolder.own()
        let skipped: [[UInt8]]
        if let machine = source.machine {
            skipped = try copyOut(machine, folder)
        } else if let machine = destination.machine {
            skipped = try copyIn(machine, folder)
        } else {
            return
        }
        for text in skipped { tell(error: "left out: " + String(decoding: text, as: UTF8.self)) }
        if !skipped.isEmpty { throw ExitCode(ExitStatus.failure.rawValue) }
    }

    private func copyIn(_ machine: MachineName, _ folder: RuntimeFolder) throws -> [[UInt8]] {
        let request = Frame(.copyIn, Array(destination.path.utf8))
        let connection = try AgentConnection(machine, in: folder, request: request)
        var sender = TreeSender(connection.stream)
        do throws(TreeError) {
            try sender.send(Array(source.path.utf8))
        } catch {
            if case .failure(let failure) = error { throw CommandError(failure.message) }
            // The agent has closed: it may have said why.
        }
        let (failure, skipped) = connection.finish()
        if let failure { throw CommandError("machine \(machine): \(failure.message)") }
        return skipped
    }

    private func copyOut(_ machine: MachineName, _ folder: RuntimeFolder) throws -> [[UInt8]] {
        let request = Frame(.copyOut, Array(source.path.utf8))
        let connection = try AgentConnection(machine, in: folder, request: request)
        do {
            var receiver = try TreeReceiver(connection.stream, into: Array(destination.path.utf8))
            try receiver.receive()
            try? connection.stream.send(Frame(.done))
            return receiver.skipped
        } catch let failure as Failure {
            throw CommandError(failure.message)
        } catch TreeError.failure(let failure) {
            throw CommandError(failure.message)
        } catch {
            throw CommandError("the conversation with machine \(machine)'s agent broke off")
        }
    }
}
