// SPDX-License-Identifier: Apache-2.0
// The commands that talk to running machines: `snapshot`, `list`, `pause`, `resume`, `stop`, `balloon`, `grow-disk`.

import ArgumentParser
import Machine

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// What goes into a bundle, for the commands that write one.
struct SnapshotArguments: ParsableArguments {
    @Flag(
        help: ArgumentHelp(
            "Leave images that the machine does not write (--disk FILE,overlay or readonly, backing files) out of the bundle.",
            discussion: """
                The bundle has their paths and hashes instead: it is small, and restoring it needs the same files, unchanged.
                """))
    var baseByReference = false
}

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

    @Flag(
        help: """
            End the machine with it: its guest does not run any more after the instant that is frozen. Returns when the \
            machine's name is free again.
            """)
    var stop = false

    @OptionGroup var options: SnapshotArguments

    func run() throws {
        let request = ControlRequest(
            command: .snapshot, path: try HostFile.absolute(output), baseByReference: options.baseByReference,
            stop: stop ? true : nil)
        let client = try ControlClient(name, in: .own())
        let progress = Progress("freezing \(name)")
        defer { progress.finish() }
        let reply = try client.ask(request) { progress.update($0) }
        guard let report = reply?.snapshot else { throw CommandError("machine \(name) ended before it was frozen") }
        // Its name is free for a copy when the command has ended.
        if stop { client.waitForEnd() }
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

struct BalloonCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "balloon",
        abstract: "Ask a running machine's guest for memory that the host can use for something else.",
        discussion: """
            The guest's balloon driver (virtio_balloon) hands over as much as it can spare, and gets it back when you ask \
            for less: 0 returns all. What the guest itself reports as free is given back without being asked for.
            """)

    @Argument(help: "The running machine: see 'smolvmm list'.")
    var name: MachineName

    @Argument(help: "How much memory the guest shall do without: 0, 64M, 1G, ...")
    var size: String

    func validate() throws {
        guard bytes != nil else { throw ValidationError("'\(size)' is no amount of memory: 0, 64M, 1G, ...") }
    }

    private var bytes: UInt64? { size == "0" ? 0 : ByteSize(argument: size)?.bytes }

    func run() throws { try send(ControlRequest(command: .balloon, bytes: bytes), name) }
}

struct GrowDiskCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "grow-disk",
        abstract: "Make a running machine's disk larger.",
        discussion: "The guest is told at once; its partitions and file systems are for the guest to grow.")

    @Argument(help: "The running machine: see 'smolvmm list'.")
    var name: MachineName

    @Argument(help: "The disk's id: disk0 is the first one's unless --disk said otherwise.")
    var disk: String

    @Argument(help: "Its new size, larger than before: 10G, ...")
    var size: ByteSize

    func run() throws { try send(ControlRequest(command: .growDisk, bytes: size.bytes, disk: disk), name) }
}

/// Sends a command that has no result.
private func command(_ command: ControlRequest.Command, _ name: MachineName) throws {
    try send(ControlRequest(command: command), name)
}

private func send(_ request: ControlRequest, _ name: MachineName) throws {
    let client = try ControlClient(name, in: .own())
    guard try client.ask(request) != nil else {
        throw CommandError("machine \(name) has ended")
    }
}
