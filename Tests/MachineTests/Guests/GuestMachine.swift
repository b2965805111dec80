// SPDX-License-Identifier: Apache-2.0
// A machine whose kernel is guest/bare/platform.S: it does one errand, tells of it on the console and powers off.

import Bundle
import CBareGuests
import Host
import Hypervisor
import Synchronization
import TestSupport

@testable import Machine

/// What runs the processors.
enum Backend: String, CaseIterable {
    case software
    case kvm

    /// Those of this host; KVM only where it runs guests on the processor.
    static let allCases: [Backend] = Accelerator.measured() == .kvm ? [.software, .kvm] : [.software]

    var options: BackendOptions { BackendOptions(accelerator: self == .kvm ? .kvm : .software) }
}

/// The first letter of the command line of platform.S.
enum Errand: String {
    case clock
    case deadline
    case edgeTriggered = "e"
    case freeze
    case levelTriggered = "l"
    case picTimer = "m"
    case nonMaskable
    case secondProcessor = "s"
    case timer
    case tripleFault = "x"
}

/// How a guest's errand ended.
struct ErrandReport {
    let end: MachineEnd
    let console: String
}

/// Runs machines with the bare guest.
enum GuestMachine {
    /// Seconds after which a guest that has not ended is stopped.
    private static let patience: UInt64 = 60
    /// The plainest, for hosts whose KVM offers no more.
    static let model = "x86-64"

    static func perform(
        _ errand: Errand, on backend: Backend, processors: Int = 1, trigger: FreezeTrigger? = nil,
        typing input: String = ""
    ) throws -> ErrandReport {
        let guest = unsafe smolvmm_guest_platform_bytes()
        // SAFETY: the guest is as long as it says.
        let kernel = unsafe Array(UnsafeRawBufferPointer(start: guest.start, count: guest.size))
        let configuration = MachineConfiguration(
            name: "guest", memoryBytes: 32 << 20, cpus: processors, cpuModel: model, commandLine: errand.rawValue)
        let machine = try Machine.boot(
            configuration, kernel: FileBytes(kernel), initramfs: FileBytes([]), scratchFolder: "/var/tmp",
            trigger: trigger, backend: backend.options)
        return try run(machine, typing: input)
    }

    /// Goes on from a bundle; the guest gets `input` at once.
    static func resume(_ path: String, on backend: Backend, typing input: String) throws -> ErrandReport {
        let machine = try Machine.restore(
            try BundleReader(path: path), scratchFolder: "/var/tmp", backend: backend.options)
        machine.control.sendInput(Array(input.utf8))
        return try run(machine, typing: "")
    }

    /// Runs the machine to its end; types `input` once the guest says that it is ready.
    private static func run(_ machine: Machine, typing input: String) throws -> ErrandReport {
        let talk = ConsoleTalk(input: input)
        let (console, control) = (machine.console, machine.control)
        let deadline = GuestClock.hostMonotonic() + patience * 1_000_000_000
        try HostThread.start {
            while control.activity != .ended {
                console.outputReady.wait(nanoseconds: 10_000_000)
                talk.hear(console.take(), answer: control.sendInput)
                if GuestClock.hostMonotonic() > deadline { control.stop() }
            }
        }
        let end = machine.run()
        talk.hear(console.take()) { _ in }
        return ErrandReport(end: end, console: talk.text)
    }
}

/// What the guest has said, and what it is told once.
private final class ConsoleTalk: Sendable {
    private let state: Mutex<(text: String, input: String)>

    init(input: String) { state = Mutex(("", input)) }

    var text: String { state.withLock { $0.text } }

    func hear(_ bytes: [UInt8], answer: ([UInt8]) -> Void) {
        let input = state.withLock { state in
            state.text += String(decoding: bytes, as: UTF8.self)
            guard state.text.hasSuffix("ready\n") else { return "" }
            defer { state.input = "" }
            return state.input
        }
        if !input.isEmpty { answer(Array(input.utf8)) }
    }
}
