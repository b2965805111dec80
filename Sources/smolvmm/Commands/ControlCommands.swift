// SPDX-License-Identifier: Apache-2.0
// The commands that talk to running machines: `snapshot`, `list`, `pause`, `resume` and `stop`.

import ArgumentParser
import Machine

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

struct SnapshotCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "snapshot",
        abstract: "Freeze a running machine into a bundle; it goes on running afterwards.",
        discussion: """
            The guest stands still while its state is copied. The bundle appears under its name only when it is whole: \
            if anything goes wrong, a file that was there before is still there.
            """)

    @Argument(help: "The running machine: see 'smolvmm list'.")
    var name: MachineName

    @Option(
        name: [.customShort("o"), .customLong("output")],
        help: ArgumentHelp("The bundle to write, FILE.smolmachine.", valueName: "file"), completion: .file())
    var output: String

    func run() throws {
        let path = try HostFile.absolute(output)
        let client = try ControlClient(name, in: .own())
        let progress = Progress("freezing \(name)")
        defer { progress.finish() }
        let reply = try client.ask(ControlRequest(command: .snapshot, path: path)) { progress.update($0) }
        guard let report = reply?.snapshot else { throw CommandError("machine \(name) ended before it was frozen") }
        progress.finish()
        tell(
            "machine \(name) is frozen into \(output): paused for \(milliseconds(report.pauseNanoseconds)) ms, "
                + "\(milliseconds(report.totalNanoseconds)) ms in all")
    }

    /// With one decimal.
    private func milliseconds(_ nanoseconds: UInt64) -> String {
        let tenths = (nanoseconds + 50_000) / 100_000
        return "\(tenths / 10).\(tenths % 10)"
    }
}

struct ListCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List this user's running machines.")

    /// Seconds after which a machine that says nothing is shown as hung.
    private static let patience = 1

    func run() throws {
        let folder = try RuntimeFolder.own()
        var table = TextTable(["NAME", "STATE", "MEMORY", "CPUS", "PID", "UP", "FROM"])
        for name in try folder.names() {
            let description: MachineDescription?
            do {
                guard let connection = try folder.connect(name) else { continue }
                let client = ControlClient(name, connection)
                guard let reply = try client.ask(ControlRequest(command: .status), timeout: Self.patience) else {
                    continue
                }
                description = reply.machine
            } catch {
                description = nil
            }
            guard let description else {
                table.add(name.text, "no answer", "", "", "", "", "")
                continue
            }
            table.add(
                name.text, description.activity.rawValue, ByteSize(bytes: description.memoryBytes).description,
                "\(description.cpus)", "\(description.process)", age(since: description.started), description.source)
        }
        writeAll(table.text, to: STDOUT_FILENO)
    }

    private func age(since started: UInt64) -> String {
        let seconds = UInt64(max(0, time(nil))) &- started
        switch seconds {
        case ..<120: return "\(seconds) s"
        case ..<7200: return "\(seconds / 60) min"
        case ..<172_800: return "\(seconds / 3600) h"
        case ..<(1 << 62): return "\(seconds / 86_400) d"
        default: return "0 s"
        }
    }
}

struct PauseCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pause", abstract: "Hold a running machine: its processors and its time stand still.")

    @Argument(help: "The running machine: see 'smolvmm list'.")
    var name: MachineName

    func run() throws { try command(.pause, name) }
}

struct ResumeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resume", abstract: "Let a paused machine go on.")

    @Argument(help: "The paused machine: see 'smolvmm list'.")
    var name: MachineName

    func run() throws { try command(.resume, name) }
}

struct StopCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stop",
        abstract: "End a running machine at once, as cutting its power would.",
        discussion: "Power off inside the guest to end it in order. Returns when the machine's name is free again.")

    @Argument(help: "The running machine: see 'smolvmm list'.")
    var name: MachineName

    func run() throws {
        let client = try ControlClient(name, in: .own())
        // The end of the conversation is as good as a result: the machine's process has ended.
        _ = try client.ask(ControlRequest(command: .stop))
    }
}

/// Sends a command that has no result.
private func command(_ command: ControlRequest.Command, _ name: MachineName) throws {
    let client = try ControlClient(name, in: .own())
    guard try client.ask(ControlRequest(command: command)) != nil else {
        throw CommandError("machine \(name) has ended")
    }
}
