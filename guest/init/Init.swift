// SPDX-License-Identifier: Apache-2.0
// Process 1 of the test guest: says that it runs, does what `smolvmm.run=` on the kernel command line asks, and ticks.

import CLibc

/// What `smolvmm.run=` may ask for; without it the test guest runs, for a person: what is typed is shown.
private enum Errand {
    case interactive, test, provision, shell, reboot, powerOff, halt, panic

    init(commandLine: [UInt8]) {
        self = .interactive
        for word in commandLine.split(whereSeparator: { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\n") }) {
            let word = Array(word)
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

@main
struct Init {
    private static let tickMilliseconds: Int32 = 100

    static func main() {
        say("smolvmm-guest: init")
        Kernel.mountFileSystems()
        let errand = Errand(commandLine: Kernel.contents(of: "/proc/cmdline"))
        if errand != .interactive { Console.setEcho(false) }
        switch errand {
        case .interactive, .test, .provision: break
        case .shell: shell()
        case .reboot: end(.reboot)
        case .powerOff: end(.powerOff)
        case .halt: end(.halt)
        case .panic: panic()
        }
        var proof = Proof(nonce: Kernel.randomBytes())
        proof.report(wallClock: Kernel.wallClock)
        if errand == .provision { Provisioning.run(from: proof) }
        tick(&proof)
    }

    /// Computes and reports for ever, a tick about every tenth of a second, and obeys the console in between.
    private static func tick(_ proof: inout Proof) -> Never {
        var console = Console()
        var next = Kernel.monotonicClock + Int(tickMilliseconds)
        while true {
            let left = Int32(truncatingIfNeeded: max(next - Kernel.monotonicClock, 0))
            if let command = console.readLine(waiting: min(left, tickMilliseconds)) { obey(command) }
            guard Kernel.monotonicClock >= next else { continue }
            next = Kernel.monotonicClock + Int(tickMilliseconds)
            Kernel.collectOrphans()
            proof.advance()
            proof.report(wallClock: Kernel.wallClock)
        }
    }

    private static func obey(_ command: [UInt8]) {
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
            shell()
        } else if command.hasPrefix("echo ") {
            var line = Line("smolvmm-guest: ")
            line.add(command.dropFirst(5))
            line.write()
        } else {
            say("smolvmm-guest: commands are reboot, poweroff, halt, panic, sh, echo TEXT")
        }
    }

    private static func shell() {
        let echoed = Console.setEcho(true)
        defer { Console.setEcho(echoed) }
        if !Kernel.run("/bin/sh", console: "/dev/ttyS0") { say("smolvmm-guest: the shell ended with a failure") }
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
