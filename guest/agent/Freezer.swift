// SPDX-License-Identifier: Apache-2.0
// Holds the guest's other processes across a snapshot, so that in a copy none runs before the clock is set and the random
// pool is stirred. Spec: Linux, Documentation/admin-guide/cgroup-v2.rst, cgroup.freeze.

import CLibc

/// Every control group is frozen that does not hold the agent: the siblings on the way from the root to it, and those below.
enum Freezer {
    private static let root = [UInt8]("/sys/fs/cgroup")
    private static let commands = [UInt8]("/commands")
    /// Milliseconds that groups may take to freeze.
    private static let patience = 2000

    /// The agent's own group, without the root's path; nil without control groups of version 2.
    private static let ownGroup: [UInt8]? = {
        let list = Kernel.contents(of: "/proc/self/cgroup")
        let start = [UInt8]("0::")
        let line = list.split(separator: UInt8(ascii: "\n")).first { $0.starts(with: start) }
        guard let line else { return nil }
        var path = Array(line.dropFirst(start.count))
        if path == [UInt8(ascii: "/")] { path = [] }
        return path
    }()
    private static let commandsGroup = ownGroup.map { root + $0 + commands }
    /// The folder of the group for commands; -1 when there is none.
    private static let commandsFolder: Int32 = {
        guard let commandsGroup else { return -1 }
        return unsafe CommandStart.withText(commandsGroup) { unsafe open_any($0, O_RDONLY | O_DIRECTORY) }
    }()
    /// The groups that are frozen, a line each, for all of the agent's processes: finding them takes longer.
    private static var frozen: UnsafeMutablePointer<UInt32>? { unsafe shared_text() }
    private static let longestText = Int(SHARED_SIZE) - 4

    /// Makes the group for commands below the agent's own. What an agent before this one has left frozen goes on.
    static func settle() {
        unsafe _ = frozen
        guard let group = commandsGroup else { return }
        unsafe CommandStart.withText(group) { unsafe _ = mkdir($0, 0o755) }
        if Kernel.contents(ofFile: group + [UInt8]("/cgroup.freeze")).first == UInt8(ascii: "1") { set("0", others()) }
        _ = commandsFolder
    }

    /// Runs `child`, a command to be, in a new process among those that can be held, with this process's memory; returns
    /// when it has become the command or has ended. It begins in its group: moving a process takes the kernel a grace
    /// period, some 20 ms.
    static func spawn(_ child: @escaping () -> Never) -> pid_t {
        guard commandsFolder >= 0 else { return spawn(-1, child) }
        let process = spawn(commandsFolder, child)
        if process >= 0 { return process }
        return spawn(-1) {
            if let group = commandsGroup { _ = write([UInt8(ascii: "0")], group + [UInt8]("/cgroup.procs")) }
            child()
        }
    }

    private static func spawn(_ group: Int32, _ child: @escaping () -> Never) -> pid_t {
        var child = child
        // SAFETY: the closure outlives the call, during which the new process ends or becomes another program.
        return unsafe withUnsafeMutablePointer(to: &child) { pointer in
            unsafe spawn_sharing(group, { unsafe $0?.assumingMemoryBound(to: (() -> Never).self).pointee() }, pointer)
        }
    }

    static func freeze() {
        let groups = note(others())
        set("1", groups)
        // Each tells by a file when all of its processes stand.
        for group in groups {
            var left = patience
            while left > 0, isHeld(group) == false {
                _ = usleep(1000)
                left -= 1
            }
        }
    }

    /// What `freeze` has frozen goes on.
    static func thaw() {
        guard let frozen = unsafe frozen else { return set("0", others()) }
        // SAFETY: shared memory that stays; `note` has put as many bytes behind the length.
        let length = unsafe Int(frozen.pointee)
        guard length > 0 else { return }
        let text = unsafe Array(UnsafeRawBufferPointer(start: frozen + 1, count: length))
        set("0", text.split(separator: UInt8(ascii: "\n")).map { Array($0) })
        unsafe frozen.pointee = 0
    }

    /// Keeps the groups for `thaw`, and returns them without those, after some hundred, that there is no room for.
    private static func note(_ groups: [[UInt8]]) -> [[UInt8]] {
        guard let frozen = unsafe frozen else { return groups }
        var kept: [[UInt8]] = []
        var text: [UInt8] = []
        for group in groups where text.count + group.count < longestText {
            kept.append(group)
            text += group + [UInt8(ascii: "\n")]
        }
        // SAFETY: shared memory that stays, with room for so many bytes behind the length.
        unsafe UnsafeMutableRawBufferPointer(start: frozen + 1, count: text.count).copyBytes(from: text)
        unsafe frozen.pointee = UInt32(text.count)
        return kept
    }

    private static func set(_ value: StaticString, _ groups: [[UInt8]]) {
        for group in groups { _ = write([UInt8](value), group + [UInt8]("/cgroup.freeze")) }
    }

    private static func isHeld(_ group: [UInt8]) -> Bool {
        let events = Kernel.contents(ofFile: group + [UInt8]("/cgroup.events"))
        return events.split(separator: UInt8(ascii: "\n")).contains { $0.elementsEqual([UInt8]("frozen 1")) }
    }

    /// Groups beside the agent's way from the root, and those below its own.
    private static func others() -> [[UInt8]] {
        guard let own = ownGroup else { return [] }
        var groups: [[UInt8]] = []
        var path = root
        for part in own.split(separator: UInt8(ascii: "/")) {
            groups += children(of: path).filter { $0 != Array(part) }.map { path + [UInt8(ascii: "/")] + $0 }
            path += [UInt8(ascii: "/")] + part
        }
        return groups + children(of: path).map { path + [UInt8(ascii: "/")] + $0 }
    }

    private static func children(of group: [UInt8]) -> [[UInt8]] {
        Kernel.names(in: group).filter { name in
            unsafe CommandStart.withText(group + [UInt8(ascii: "/")] + name + [UInt8]("/cgroup.freeze")) {
                unsafe access($0, F_OK) == 0
            }
        }
    }

    private static func write(_ text: [UInt8], _ path: [UInt8]) -> Bool {
        let file = unsafe CommandStart.withText(path) { unsafe open_any($0, O_WRONLY) }
        guard file >= 0 else { return false }
        defer { Kernel.close(file) }
        return Kernel.write(text, to: file)
    }
}
