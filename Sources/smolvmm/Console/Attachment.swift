// SPDX-License-Identifier: Apache-2.0
// A machine's run from the command line: terminal, signals and control socket around it, its end as an exit status.

import Bundle
import Machine

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// Runs machines for `boot` and `restore`.
struct Attachment {
    let name: MachineName
    let server: ControlServer
    /// The kernel or the bundle, for `list`.
    let source: String
    let showsStatistics: Bool
    /// A copy whose agent is told: whether its clock is set, too.
    var setsClock: Bool?
    var detachment: DetachArguments?
    /// For the message about a text that did not appear; nil when none was waited for.
    var awaitedText: String?

    /// Runs `machine` to its end and tells how it ended.
    func run(_ machine: Machine) throws -> ExitStatus {
        let signals = try Signals()
        try machine.serveSockets(at: server.vsockPath)
        try server.serve(
            machine.control,
            as: MachineDescription(machine, source: source))
        try attend(GuestAgent(path: server.vsockPath, control: machine.control))
        let terminal = Terminal()
        if terminal != nil { tell("machine \(name): Ctrl-A X leaves, Ctrl-A H helps") }
        let server = server
        let pump: ConsolePump
        do {
            pump = try ConsolePump(
                machine, terminal: terminal, signals: signals, isLog: detachment?.readyDescriptor != nil
            ) { server.remove() }
            try pump.start()
        } catch {
            terminal?.leave()
            throw error
        }
        let end = machine.run()
        server.remove()
        pump.finish(patiently: end != .stopped)
        terminal?.leave()
        if showsStatistics {
            show(machine.statistics)
            for count in machine.processorCounts { tell("\(count.name): \(count.value)") }
        }
        for failure in machine.closingFailures { tell(error: failure) }
        let status = report(end)
        return status == .success && !machine.closingFailures.isEmpty ? .failure : status
    }

    /// What is said to the guest's agent, and heard from it, while the machine runs.
    private func attend(_ agent: GuestAgent) throws {
        if let setsClock { try HostThread.start { agent.arrive(setsClock: setsClock) } }
        guard let detachment else { return }
        if let descriptor = detachment.readyDescriptor {
            try Detachment.tellWhenReady(agent, descriptor: descriptor, timeout: detachment.readyTimeout)
        }
        if detachment.waitReady {
            let name = name
            try HostThread.start {
                if agent.waitUntilReady(seconds: nil) { tell("machine \(name): the guest is ready") }
            }
        }
    }

    private func report(_ end: MachineEnd) -> ExitStatus {
        switch end {
        case .frozen(let report):
            tell("machine \(name) is frozen into \(report.path)")
            return .success
        case .panicked(let reason):
            tell(error: "the guest's kernel panicked\(reason.isEmpty ? "" : ": \(reason)")")
            return .panic
        case .tripleFault(let processor, let instructionPointer):
            let place = instructionPointer.map { "0x" + String($0, radix: 16) }
            tell(
                error: "the guest's processor \(processor) shut down: triple fault"
                    + (place.map { " at \($0)" } ?? "; this host's processor does not tell where"))
            return .tripleFault
        case .failed(let reason):
            tell(error: reason)
            return .failure
        case .poweredOff, .stopped:
            guard let awaitedText else { return .success }
            let how = end == .stopped ? "was stopped" : "powered off"
            tell(
                error: "the machine \(how) before '\(awaitedText)' appeared on its console, or right behind it: "
                    + "nothing is frozen")
            return .textNotSeen
        }
    }

    private func show(_ statistics: MachineStatistics) {
        let milliseconds = statistics.runNanoseconds / 1_000_000
        tell(
            "\(statistics.slices) slices, \(statistics.halts) halts, \(statistics.waits) waits, "
                + "\(statistics.reboots) reboots, \(milliseconds) ms in processors")
    }
}
