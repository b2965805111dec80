// SPDX-License-Identifier: Apache-2.0
// What the guest's programs ask of the kernel: file systems, files, time, random bytes, processes, the end of the machine.

import CLibc

enum Kernel {
    /// Mounts what every program expects; init goes on without what the kernel does not have.
    static func mountFileSystems() {
        mount("proc", at: "/proc")
        mount("sysfs", at: "/sys")
        mount("devtmpfs", at: "/dev")
        mount("devpts", at: "/dev/pts")
        mount("tmpfs", at: "/run")
        mount("cgroup2", at: "/sys/fs/cgroup")
    }

    private static func mount(_ type: StaticString, at path: StaticString) {
        // SAFETY: the strings are literals.
        _ = unsafe mkdir(path.cString, 0o755)
        _ = unsafe CLibc.mount(type.cString, path.cString, type.cString, 0, nil)
    }

    /// The start of the file at `path`, at most 4096 bytes; nothing when it cannot be read.
    static func contents(of path: StaticString) -> [UInt8] {
        // SAFETY: the path is a literal.
        read(unsafe open_existing(path.cString, O_RDONLY | O_CLOEXEC))
    }

    static func contents(ofFile path: [UInt8]) -> [UInt8] {
        read(open(path, O_RDONLY | O_CLOEXEC))
    }

    /// The start of what `descriptor` has, which is closed.
    private static func read(_ descriptor: Int32) -> [UInt8] {
        guard descriptor >= 0 else { return [] }
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: 4096)
        // SAFETY: reads at most the buffer's own size.
        let count = unsafe bytes.withUnsafeMutableBytes { unsafe CLibc.read(descriptor, $0.baseAddress, $0.count) }
        return Array(bytes[..<max(count, 0)])
    }

    /// A descriptor of the file at `path`, or -1.
    private static func open(_ path: [UInt8], _ flags: Int32) -> Int32 {
        let text = path + [0]
        // SAFETY: the text ends with a zero byte and lives for the call.
        return unsafe text.withUnsafeBytes { bytes in
            unsafe bytes.baseAddress.map { unsafe open_existing($0.assumingMemoryBound(to: CChar.self), flags) } ?? -1
        }
    }

    /// Names in the folder at `path`, without the hidden ones.
    static func names(in path: [UInt8]) -> [[UInt8]] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_DIRECTORY)
        guard descriptor >= 0 else { return [] }
        guard let list = unsafe fdopendir(descriptor) else {
            close(descriptor)
            return []
        }
        // SAFETY: the list is closed once, here; each name ends with a zero byte and is copied before the next call.
        defer { unsafe _ = closedir(list) }
        var names: [[UInt8]] = []
        while let entry = unsafe readdir(list) {
            let name = unsafe withUnsafeBytes(of: &entry.pointee.d_name) { unsafe Array($0.prefix { $0 != 0 }) }
            if name.first != UInt8(ascii: ".") { names.append(name) }
        }
        return names
    }

    /// Loads what /etc/modules lists, in its order; goes on without what cannot be loaded, and tells it with its error.
    static func loadModules(_ failed: ([UInt8], Int32) -> Void) {
        let list = contents(of: "/etc/modules")
        for name in list.split(whereSeparator: { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\n") }) {
            let error = loadModule(name)
            if error != 0 { failed(Array(name), error) }
        }
    }

    /// Loads the module in /lib/modules; returns the kernel's error number, or 0.
    private static func loadModule(_ name: some Sequence<UInt8>) -> Int32 {
        var path = [UInt8]()
        // SAFETY: the buffer is the literal's own, valid for the call.
        ("/lib/modules/" as StaticString).withUTF8Buffer { unsafe path.append(contentsOf: $0) }
        path.append(contentsOf: name)
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return last_error() }
        defer { close(descriptor) }
        return load_module(descriptor) == 0 ? 0 : last_error()
    }

    /// Makes the terminal at `path` standard input, output and error; a false result changed nothing.
    static func useConsole(_ path: StaticString) -> Bool {
        // SAFETY: the path is a literal.
        let descriptor = unsafe open_existing(path.cString, O_RDWR | O_NOCTTY | O_CLOEXEC)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        for standard in STDIN_FILENO...STDERR_FILENO {
            _ = dup2(descriptor, standard)
        }
        return true
    }

    /// Makes an empty file at `path` and opens it for writing.
    static func create(_ path: StaticString) -> Int32? {
        // SAFETY: the path is a literal.
        let descriptor = unsafe create_file(path.cString)
        return descriptor < 0 ? nil : descriptor
    }

    static func write(_ bytes: [UInt8], to descriptor: Int32) -> Bool {
        // SAFETY: writes the array's own bytes.
        unsafe CLibc.write(descriptor, bytes, bytes.count) == bytes.count
    }

    static func close(_ descriptor: Int32) {
        _ = CLibc.close(descriptor)
    }

    /// Eight bytes from the kernel's random number generator, once it is seeded.
    static func randomBytes() -> [8 of UInt8] {
        var bytes = [8 of UInt8](repeating: 0)
        var span = bytes.mutableSpan
        // SAFETY: fills at most the array's own size.
        _ = unsafe span.withUnsafeMutableBytes { unsafe getrandom($0.baseAddress, $0.count, 0) }
        return bytes
    }

    /// Milliseconds on the wall clock since 1970.
    static var wallClock: Int { milliseconds(CLOCK_REALTIME) }

    /// Milliseconds since the kernel started.
    static var monotonicClock: Int { milliseconds(CLOCK_MONOTONIC) }

    private static func milliseconds(_ clock: clockid_t) -> Int {
        var time = timespec()
        // SAFETY: fills one `timespec`.
        _ = unsafe clock_gettime(clock, &time)
        return Int(time.tv_sec) * 1000 + Int(time.tv_nsec) / 1_000_000
    }

    /// Memory in KiB: what the kernel has, and what of it is in use.
    static var memory: (total: Int, used: Int) {
        var information = CLibc.sysinfo()
        // SAFETY: fills one `sysinfo`.
        guard unsafe sysinfo(&information) == 0 else { return (0, 0) }
        let unit = Int(information.mem_unit)
        let total = Int(information.totalram) * unit / 1024
        return (total, total - Int(information.freeram) * unit / 1024)
    }

    /// Runs a program on the console, as the leader of a session of its own, and waits for its end.
    static func run(_ program: StaticString, _ argument: StaticString? = nil, console: StaticString? = nil) -> Bool {
        var attributes = unsafe posix_spawnattr_t()
        var actions = unsafe posix_spawn_file_actions_t()
        // SAFETY: both are initialised here and destroyed after their one use.
        _ = unsafe posix_spawnattr_init(&attributes)
        _ = unsafe posix_spawn_file_actions_init(&actions)
        defer {
            _ = unsafe posix_spawnattr_destroy(&attributes)
            _ = unsafe posix_spawn_file_actions_destroy(&actions)
        }
        if let console {
            // The first terminal that a session's leader opens becomes its controlling terminal: Ctrl-C works.
            // SAFETY: the path is a literal.
            _ = unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSID))
            for descriptor in STDIN_FILENO...STDERR_FILENO {
                _ = unsafe posix_spawn_file_actions_addopen(&actions, descriptor, console.cString, O_RDWR, 0)
            }
        }
        var process: pid_t = 0
        // SAFETY: the lists end with nil; their strings are literals, which the call only reads.
        let arguments = unsafe [program.cString, argument?.cString, nil].map {
            unsafe UnsafeMutablePointer(mutating: $0)
        }
        let environment = unsafe [
            ("PATH=/bin" as StaticString).cString, ("HOME=/" as StaticString).cString,
            ("TERM=vt100" as StaticString).cString, nil,
        ].map { unsafe UnsafeMutablePointer(mutating: $0) }
        guard unsafe posix_spawn(&process, program.cString, &actions, &attributes, arguments, environment) == 0 else {
            return false
        }
        var status: Int32 = 0
        // SAFETY: fills one status word.
        while unsafe waitpid(process, &status, 0) < 0, last_error() == EINTR {}
        return status == 0
    }

    /// Starts a program that goes on by itself; there may be none.
    static func start(_ program: StaticString) {
        guard fork() == 0 else { return }
        // SAFETY: the lists end with nil; their strings are literals, which the call only reads.
        var arguments = unsafe [UnsafeMutablePointer(mutating: program.cString), nil]
        let path = unsafe ("PATH=/bin" as StaticString).cString
        var variables = unsafe [UnsafeMutablePointer(mutating: path), nil]
        unsafe become_program(&arguments, &variables)
        _exit(127)
    }

    /// Collects the processes that were left to init.
    static func collectOrphans() {
        while waitpid(-1, nil, WNOHANG) > 0 {}
    }

    enum End {
        case reboot, powerOff, halt
    }

    /// Ends the machine; returns only when the kernel refuses.
    static func end(_ end: End) {
        sync()
        switch end {
        case .reboot: _ = CLibc.reboot(Int32(RB_AUTOBOOT))
        case .powerOff: _ = CLibc.reboot(Int32(RB_POWER_OFF))
        case .halt: _ = CLibc.reboot(Int32(bitPattern: UInt32(RB_HALT_SYSTEM)))
        }
    }
}

extension StaticString {
    /// The literal's bytes as C reads them.
    var cString: UnsafePointer<CChar> {
        // SAFETY: a literal ends with a zero byte and lives forever; CChar has the size of UInt8.
        unsafe UnsafeRawPointer(utf8Start).assumingMemoryBound(to: CChar.self)
    }
}

extension [UInt8] {
    func equals(_ text: StaticString) -> Bool {
        // SAFETY: the buffer is the literal's own, valid for the call.
        text.withUTF8Buffer { unsafe elementsEqual($0) }
    }

    func hasPrefix(_ text: StaticString) -> Bool {
        // SAFETY: the buffer is the literal's own, valid for the call.
        text.withUTF8Buffer { unsafe starts(with: $0) }
    }
}
