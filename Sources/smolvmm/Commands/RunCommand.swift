// SPDX-License-Identifier: Apache-2.0
// `smolvmm run`.

import ArgumentParser
import Bundle
import Machine

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

struct RunCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Start a throw-away copy of a frozen machine, run one command in it, and end it.",
        discussion: """
            The command's output and exit status are smolvmm's, as with 'smolvmm exec'; the copy's console is not shown. \
            Nothing of the copy is left, and the bundle is not changed. It publishes no ports.

            EXAMPLES:
              smolvmm run app.smolmachine -- make test
              smolvmm run app.smolmachine -it -- sh
            """)

    @Argument(help: "The bundle, a .smolmachine file.", completion: .file(extensions: ["smolmachine"]))
    var file: String

    @Option(help: "The copy's name for the other commands. (default: made from the bundle's)")
    var name: MachineName?

    @OptionGroup var acceleration: AccelerationArguments

    @OptionGroup var command: CommandArguments

    func run() throws { try Self.run(command.guestCommand, in: file, name: name, backend: acceleration.chosen) }

    /// - Parameter backend: nil: what this host is good for.
    static func run(
        _ command: GuestCommand, in file: String, name: MachineName? = nil, backend: BackendOptions? = nil
    ) throws {
        let bundle = try BundleReader(path: file)
        let name = name ?? MachineName(from: file, process: getpid())
        let server = try ControlServer(name, in: .own())
        defer { server.remove() }
        // Ports of the host are those of machines that stay.
        let hasNetwork = bundle.manifest.configuration.network != nil
        let machine = try Machine.restore(
            bundle, name: name.text, network: NetworkChange(publish: hasNetwork ? [] : nil),
            scratchFolder: HostFile.scratchFolder,
            backend: backend ?? BackendOptions(accelerator: RuntimeFolder.measuredAccelerator()))
        try machine.serveSockets(at: server.vsockPath)
        try server.serve(machine.control, as: .init(machine, source: try HostFile.absolute(file)))
        let control = machine.control
        let console = machine.console
        let result = try Promise<Int32>()
        try HostThread.start {
            result.deliver(talk(command, name, server.vsockPath))
            control.stop()
        }
        // Nobody sees the console, but it has to be taken: a full one holds the machine.
        try HostThread.start {
            while control.activity != .ended {
                var waiting = [pollfd(fd: console.outputReady.descriptor, events: Int16(POLLIN), revents: 0)]
                // SAFETY: one descriptor.
                unsafe _ = poll(&waiting, 1, 100)
                _ = console.take()
            }
        }
        let end = machine.run()
        server.remove()
        if case .failed(let reason) = end { tell(error: reason) }
        if case .panicked(let reason) = end { tell(error: "the guest's kernel panicked: \(reason)") }
        let status = result.wait()
        if status != 0 { throw ExitCode(status) }
    }

    /// Runs the command; returns its exit status.
    private static func talk(_ command: GuestCommand, _ name: MachineName, _ path: String) -> Int32 {
        do {
            return try command.run(name: name.text) { request in
                do throws(AgentAbsence) {
                    return try AgentConnection(path: path, request: request)
                } catch {
                    throw error.error(name)
                }
            }
        } catch {
            tell(error: "\(error)")
            return RemoteCommand.refused
        }
    }
}
