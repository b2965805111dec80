// SPDX-License-Identifier: Apache-2.0
// Interrupts, clocks, processors and snapshots of machines without an operating system, on every backend.

import Hypervisor
import TestSupport
import Testing

@testable import Machine

/// From one backend to another.
struct FreezeRoute: CustomTestStringConvertible {
    let from: Backend
    let to: Backend

    static let all = Backend.allCases.flatMap { from in Backend.allCases.map { FreezeRoute(from: from, to: $0) } }

    var testDescription: String { "\(from) to \(to)" }
}

struct GuestMachineTests {
    /// Runs an errand, which must end with the machine off, and returns what the guest said.
    private func console(
        _ errand: Errand, _ backend: Backend, processors: Int = 1, typing input: String = ""
    ) throws -> String {
        let report = try GuestMachine.perform(errand, on: backend, processors: processors, typing: input)
        #expect(report.end == .poweredOff)
        return report.console
    }

    @Test(arguments: Backend.allCases)
    func `the local APIC's periodic timer wakes a halted processor`(backend: Backend) throws {
        #expect(try console(.timer, backend) == "timer\n")
    }

    @Test(arguments: Backend.allCases)
    func `the local APIC's timer fires at an instant of the time stamp counter`(backend: Backend) throws {
        #expect(try console(.deadline, backend) == "deadline\n")
    }

    @Test(arguments: Backend.allCases)
    func `the PIT interrupts through the PICs`(backend: Backend) throws {
        #expect(try console(.picTimer, backend) == "pic timer\n")
    }

    @Test(arguments: Backend.allCases, [Errand.edgeTriggered, .levelTriggered])
    func `a device's line interrupts through the IOAPIC, once for each byte`(backend: Backend, errand: Errand) throws {
        #expect(try console(errand, backend, typing: "ab") == "ready\nreceived ab\n")
    }

    @Test(arguments: Backend.allCases)
    func `a non-maskable interrupt waits for the end of the one before`(backend: Backend) throws {
        #expect(try console(.nonMaskable, backend) == "nmi\n")
    }

    @Test(arguments: Backend.allCases)
    func `the guest starts, wakes and restarts its second processor`(backend: Backend) throws {
        let identifier = "0000000000000001"
        #expect(
            try console(.secondProcessor, backend, processors: 2)
                == "started \(identifier) \(identifier)\nwoken\nstarted again\n")
    }

    @Test(arguments: Backend.allCases)
    func `kvm-clock goes on, and knows the wall clock`(backend: Backend) throws {
        let lines = try console(.clock, backend).split(separator: "\n")
        #expect(lines.count == 2)
        #expect(lines.first == "goes on")
        let seconds = Int64(lines.last ?? "", radix: 16) ?? 0
        #expect(abs(seconds - Int64(GuestClock.hostRealtime() / 1_000_000_000)) < 3600)
    }

    @Test(arguments: Backend.allCases)
    func `a triple fault ends the machine`(backend: Backend) throws {
        guard case .tripleFault(processor: 0, _) = try GuestMachine.perform(.tripleFault, on: backend).end else {
            Issue.record("the machine did not end with a triple fault")
            return
        }
    }

    @Test(arguments: FreezeRoute.all)
    func `a frozen machine goes on with every register, and its timer`(route: FreezeRoute) throws {
        let folder = try TemporaryFolder()
        let path = folder.file("guest.smolmachine")
        let first = try GuestMachine.perform(
            .freeze, on: route.from, trigger: FreezeTrigger(text: "FREEZE", path: path))
        guard case .frozen = first.end else {
            Issue.record("the machine ended with \(first.end), having said \(first.console)")
            return
        }
        let second = try GuestMachine.resume(path, on: route.to, typing: "x")
        #expect(second.end == .poweredOff)
        #expect(second.console == "\nsame\ntimer\n")
    }
}
