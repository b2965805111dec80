// SPDX-License-Identifier: Apache-2.0
// How a panic of the guest's kernel is told from a reboot.

import Testing

@testable import Machine

struct PanicWatcherTests {
    private func reason(in console: String) -> String? {
        var watcher = PanicWatcher()
        for byte in console.utf8 { watcher.take(byte) }
        watcher.endLine()
        return watcher.reason
    }

    @Test(arguments: [
        ("[    1.234567] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n", "VFS: Unable to mount root fs"),
        ("Kernel panic - not syncing: Attempted to kill init!\n", "Attempted to kill init!"),
        ("booting\n[    9.0] Kernel panic - not syncing: cut off", "cut off"),
        ("[    9.0] Kernel panic - not syncing: first\n[    9.1] Kernel panic - not syncing: second\n", "first"),
        ("[ 1.0] Kernel panic - not syncing: \u{1b}[31mred\n", "[31mred"),
    ])
    func `a panic is recognised with its reason`(_ console: String, _ expected: String) {
        #expect(reason(in: console) == expected)
    }

    @Test(arguments: [
        "[    1.0] reboot: Restarting system\n",
        "init: someone said Kernel panic - not syncing: as a joke\n",
        "Kernel panic - not",
        "",
    ])
    func `other lines are no panic`(_ console: String) {
        #expect(reason(in: console) == nil)
    }

    @Test func `a reset forgets the panic`() {
        var watcher = PanicWatcher()
        for byte in "Kernel panic - not syncing: x\nKernel panic".utf8 { watcher.take(byte) }
        watcher.reset()
        for byte in " - not syncing: y\n".utf8 { watcher.take(byte) }
        watcher.endLine()
        #expect(watcher.reason == nil)
    }

    @Test func `a line without end does not grow without bound`() {
        var watcher = PanicWatcher()
        for byte in "Kernel panic - not syncing: ".utf8 { watcher.take(byte) }
        for _ in 0..<100_000 { watcher.take(UInt8(ascii: "a")) }
        watcher.endLine()
        #expect((watcher.reason?.utf8.count ?? .max) < 512)
    }
}
