// SPDX-License-Identifier: Apache-2.0
// `smolvmm restore`.

import ArgumentParser
import Bundle
import Machine

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

struct RestoreCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "restore",
        abstract: "Start a copy of a frozen machine, with this terminal as its console.",
        discussion: """
            The guest goes on where it was frozen; it learns that it is a copy (its VM generation id changes) and, by \
            default, what time it is. The bundle is not changed: any number of copies can be started from it, at the \
            same time, too. The console's keys and the exit statuses are those of 'smolvmm boot'.
            """)

    @Argument(help: "The bundle, a .smolmachine file.", completion: .file(extensions: ["smolmachine"]))
    var file: String

    @Option(help: "The machine's name for the other commands. (default: made from the bundle's)")
    var name: MachineName?

    @Option(
        help: ArgumentHelp(
            "The guest's wall clock: now is the host's, keep goes on from when it was frozen; or a time like 2026-01-31T12:00:00Z.",
            valueName: "time"))
    var resetClock = ClockReset.now

    @OptionGroup var detachment: DetachArguments

    @Option(
        help: ArgumentHelp(
            "A port of the host that leads to one of the guest's, instead of those in the bundle. Once for each.",
            discussion: "'none' publishes none.", valueName: "\(PublishArgument.grammar)|none"))
    var publish: [RestorePublishArgument] = []

    @Option(
        help: ArgumentHelp(
            "The host's side of the network instead of the one in the bundle; none pulls the cable out.",
            valueName: "user[,allow=DESTINATION]...|tap,ifname=NAME|none"))
    var net: NetworkArgument?

    @OptionGroup var acceleration: AccelerationArguments

    @Flag(help: .hidden)
    var stats = false

    func validate() throws {
        if net?.address != nil || net?.mtu != nil {
            throw ValidationError("--net cannot change mac and mtu of a restored machine: its guest knows them")
        }
    }

    /// What the options change of the bundle's network.
    var networkChange: NetworkChange {
        NetworkChange(
            attachment: net?.attachment, publish: publish.isEmpty ? nil : publish.compactMap(\.port))
    }

    func run() throws {
        let name = name ?? MachineName(from: file, process: getpid())
        if detachment.detach {
            return try Detachment.start(name, in: .own(), timeout: detachment.readyTimeout)
        }
        let bundle = try BundleReader(path: file)
        let server = try ControlServer(name, in: .own())
        defer { server.remove() }
        let machine = try Machine.restore(
            bundle, name: name.text, clock: resetClock, network: networkChange,
            scratchFolder: HostFile.scratchFolder, backend: acceleration.chosen)
        let attachment = Attachment(
            name: name, server: server, source: try HostFile.absolute(file), showsStatistics: stats,
            setsClock: resetClock == .now, detachment: detachment)
        let status = try attachment.run(machine)
        if status != .success { throw ExitCode(status.rawValue) }
    }
}
