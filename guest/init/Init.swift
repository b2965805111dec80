// SPDX-License-Identifier: Apache-2.0
// Process 1 of the test guest: says that it runs, does what `smolvmm.run=` on the kernel command line asks, and ticks.

import CLibc

/// What `smolvmm.run=` may ask for; without it the test guest runs, for a person: what is typed is shown.
private enum Errand {
    case interactive, test, provision, shell, reboot, powerOff, halt, panic

    init(commandLine: [UInt8]) {
        self = .interactive
        for word in words(of: commandLine) {
            if word.equals("smolvmm.run=test") { self = .test }
            if word.equals("smolvmm.run=provision") { self = .provision }
            if word.equals("smolvmm.run=shell") { self = .shell }
            if word.equals("smolvmm.run=reboot") { self = .reboot }
            if word.equals("smolvmm.run=poweroff") { self = .powerOff }
            if word.equals("smolvmm.run=halt") { self = .halt }
            if word.equals("smolvmm.run=panic") { self = .panic }
        }
    }
}

/// The terminal on which init ticks, reads commands and runs its shell: `smolvmm.console=`.
private enum Terminal {
    /// What the kernel made /dev/console, and the serial port for the shell.
    case ttyS0
    /// The first port of virtio-console.
    case hvc0

    init(commandLine: [UInt8]) {
        self = .ttyS0
        for word in words(of: commandLine) {
            if word.equals("smolvmm.console=ttyS0") { self = .ttyS0 }
            if word.equals("smolvmm.console=hvc0") { self = .hvc0 }
        }
    }

    var path: StaticString {
        switch self {
        case .ttyS0: "/dev/ttyS0"
        case .hvc0: "/dev/hvc0"
        }
    }
}

private func words(of line: [UInt8]) -> [[UInt8]] {
    line.split(whereSeparator: { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\n") }).map { Array($0) }
}

@main
struct Init {
    private static let tickMilliseconds: Int32 = 100
    private static let terminalMilliseconds = 2000

    static func main() {
        say("smolvmm-guest: init")
        Kernel.mountFileSystems()
        loadModules()
        Streams.serveEcho()
        Kernel.start("/bin/smolvmm-agent")
        let commandLine = Kernel.contents(of: "/proc/cmdline")
        let terminal = useTerminal(Terminal(commandLine: commandLine))
        let errand = Errand(commandLine: commandLine)
        if errand != .interactive { Console.setEcho(false) }
        switch errand {
        case .interactive, .test, .provision: break
        case .shell: shell(on: terminal, echo: false)
        case .reboot: end(.reboot)
        case .powerOff: end(.powerOff)
        case .halt: end(.halt)
        case .panic: panic()
        }
        var proof = Proof(nonce: Kernel.randomBytes())
        proof.report(wallClock: Kernel.wallClock)
        if errand == .provision { Provisioning.run(from: proof) }
        tick(&proof, on: terminal)
    }

    private static func loadModules() {
        Kernel.loadModules { name, error in
            var line = Line("smolvmm-guest: cannot load ")
            line.add(name)
            line.add(": error ")
            line.add(Int(error))
            line.write()
        }
    }

    /// Goes over to the terminal, which its driver may make somewhat after it was loaded; stays where it is without one.
    private static func useTerminal(_ terminal: Terminal) -> Terminal {
        guard terminal != .ttyS0 else { return .ttyS0 }
        let deadline = Kernel.monotonicClock + terminalMilliseconds
        while !Kernel.useConsole(terminal.path) {
            guard Kernel.monotonicClock < deadline else {
                var line = Line("smolvmm-guest: there is no ")
                line.add(terminal.path)
                line.write()
                return .ttyS0
            }
            _ = usleep(10_000)
        }
        return terminal
    }

    /// Computes and reports for ever, a tick about every tenth of a second, and obeys the console in between.
    private static func tick(_ proof: inout Proof, on terminal: Terminal) -> Never {
        var console = Console()
        var next = Kernel.monotonicClock + Int(tickMilliseconds)
        while true {
            let left = Int32(truncatingIfNeeded: max(next - Kernel.monotonicClock, 0))
            if let command = console.readLine(waiting: min(left, tickMilliseconds)) {
                obey(command, on: terminal)
            }
            guard Kernel.monotonicClock >= next else { continue }
            next = Kernel.monotonicClock + Int(tickMilliseconds)
            Kernel.collectOrphans()
            proof.advance()
            proof.report(wallClock: Kernel.wallClock)
        }
    }

    private static func obey(_ command: [UInt8], on terminal: Terminal) {
        if command.isEmpty {
            return
        } else if command.equals("reboot") {
            end(.reboot)
        } else if command.equals("poweroff") {
            end(.powerOff)
        } else if command.equals("halt") {
            end(.halt)
        } else if command.equals("panic") {
            panic()
        } else if command.equals("sh") {
            shell(on: terminal, echo: true)
        } else if command.hasPrefix("call ") {
            Streams.call(command.dropFirst(5))
        } else if command.hasPrefix("echo ") {
            var line = Line("smolvmm-guest: ")
            line.add(command.dropFirst(5))
            line.write()
        } else {
            say("smolvmm-guest: commands are reboot, poweroff, halt, panic, sh, echo TEXT")
        }
    }

    /// Without echo busybox does not edit lines either, nor ask the terminal where its cursor is: right for scripts.
    private static func shell(on terminal: Terminal, echo: Bool) {
        let echoed = Console.setEcho(echo)
        defer { Console.setEcho(echoed) }
        if !Kernel.run("/bin/sh", console: terminal.path) { say("smolvmm-guest: the shell ended with a failure") }
    }

    private static func end(_ end: Kernel.End) {
        switch end {
        case .reboot: say("smolvmm-guest: rebooting")
        case .powerOff: say("smolvmm-guest: powering off")
        case .halt: say("smolvmm-guest: halting")
        }
        Kernel.end(end)
        say("smolvmm-guest: the kernel refused")
    }

    /// The kernel panics when process 1 ends.
    private static func panic() {
        say("smolvmm-guest: panicking")
        _exit(1)
    }
}
