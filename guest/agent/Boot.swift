// SPDX-License-Identifier: Apache-2.0
// The agent as the guest's init: file systems, drivers, and the user's start script.

import CLibc

enum Boot {
    private static let standardScript = [UInt8]("/etc/smolvmm/start")
    private static let option = [UInt8]("smolvmm.start=")

    /// Before there is vsock.
    static func prepare() {
        Kernel.mountFileSystems()
        Kernel.loadModules { name, error in
            var line = Line("smolvmm-agent: cannot load ")
            line.add(name)
            line.add(": error ")
            line.add(Int(error))
            line.write()
        }
    }

    /// Starts the script that `smolvmm.start=` on the kernel's command line names, or /etc/smolvmm/start; without one, a
    /// shell on the console. Returns the script's process, after whose end the guest is ready.
    static func start() -> pid_t? {
        let words = Kernel.contents(of: "/proc/cmdline").split(whereSeparator: {
            $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\n")
        })
        let told = words.last { $0.starts(with: option) }.map { Array($0.dropFirst(option.count)) }
        let script = told ?? standardScript
        if told != nil || exists(script) {
            return spawn([script])
        }
        _ = spawn([[UInt8]("/bin/sh")])
        return nil
    }

    private static func exists(_ path: [UInt8]) -> Bool {
        unsafe CommandStart.withText(path) { unsafe access($0, X_OK) == 0 }
    }

    /// A program on the console, in a session of its own that the console controls.
    private static func spawn(_ arguments: [[UInt8]]) -> pid_t? {
        let process = Freezer.spawn {
            restore_signals()
            _ = setsid()
            // What the kernel opened for init cannot control a session; the device behind it can.
            _ = take_terminal(STDIN_FILENO)
            let environment = CommandStart.standardEnvironment + [[UInt8]("HOME=/"), [UInt8]("TERM=vt100")]
            CommandStart.become(arguments, environment)
            var line = Line("smolvmm-agent: cannot start ")
            line.add(arguments[0])
            line.add(": error ")
            line.add(Int(last_error()))
            line.write()
            _exit(127)
        }
        return process > 0 ? process : nil
    }
}
