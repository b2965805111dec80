// SPDX-License-Identifier: Apache-2.0
// A processor's state goes from one backend to another, through running code, and stays what it is.

import Hypervisor
import Snapshot
import Testing
import X86

/// A way from a processor to another one.
struct StateRoute: CustomTestStringConvertible {
    let mode: ProcessorMode
    let from: Backend
    let to: Backend

    static let all = ProcessorMode.allCases.flatMap { mode in
        Backend.allCases.flatMap { from in Backend.allCases.map { StateRoute(mode: mode, from: from, to: $0) } }
    }

    var testDescription: String { "\(mode) mode, \(from) to \(to)" }
}

struct ProcessorStateTests {
    /// OUT 0xf4, AL; JMP to itself: the same in every mode.
    private static let code: [UInt8] = [0xe6, 0xf4, 0xeb, 0xfe]
    private static let outLength: UInt64 = 2

    @Test(arguments: StateRoute.all)
    func `every register survives running, saving and restoring`(route: StateRoute) throws {
        let first = try GuestProcessor(route.from, code: Self.code)
        try first.processor.restoreState(route.mode.full)
        #expect(first.run() == nil)
        var expected = route.mode.full
        expected.rip += Self.outLength
        let saved = first.processor.saveState()
        #expect(saved == expected)

        let second = try GuestProcessor(route.to, code: Self.code)
        try second.processor.restoreState(saved)
        #expect(second.processor.saveState() == saved)
        // It runs from there: to the port again, when it is put before it.
        var again = saved
        again.rip -= Self.outLength
        try second.processor.restoreState(again)
        #expect(second.run() == nil)
        #expect(second.processor.saveState() == saved)
    }

    /// What is between two instructions.
    enum Pending: CaseIterable {
        case interruptShadow
        case nonMaskableInterrupt
        case blockedNonMaskableInterrupts
    }

    @Test(arguments: Backend.allCases, Pending.allCases)
    func `what is to be delivered, and what holds it back, is state`(backend: Backend, pending: Pending) throws {
        let guest = try GuestProcessor(backend, code: Self.code)
        var state = ProcessorMode.long.full
        switch pending {
        case .interruptShadow: state.interruptShadow = true
        case .nonMaskableInterrupt: state.nmiPending = true
        case .blockedNonMaskableInterrupts: state.nmiBlocked = true
        }
        try guest.processor.restoreState(state)
        #expect(guest.processor.saveState() == state)
    }

    @Test(
        .enabled(
            if: Backend.hasVectorExtension, "this host has no KVM with AVX: vector registers are not tried"))
    func `the registers of AVX survive running, saving and restoring`() throws {
        let guest = try GuestProcessor(.kvm, model: CPUModel(.v3), code: Self.code)
        var state = ProcessorMode.long.full
        state.cr4 |= ControlRegister4.xsave
        var extended = ExtendedState()
        extended.xcr0 = 7
        extended.upperHalves = (1...32).map { 0x0f1e_2d3c_4b5a_6978 &* UInt64($0) }
        state.extended = extended
        try guest.processor.restoreState(state)
        #expect(guest.run() == nil)
        var expected = state
        expected.rip += Self.outLength
        let saved = guest.processor.saveState()
        #expect(saved == expected)
        let second = try GuestProcessor(.kvm, model: CPUModel(.v3), code: Self.code)
        try second.processor.restoreState(saved)
        #expect(second.processor.saveState() == saved)
    }

    @Test
    func `a processor without AVX refuses its registers`() throws {
        let guest = try GuestProcessor(.software, code: Self.code)
        var state = ProcessorMode.long.full
        state.extended = ExtendedState()
        #expect(throws: SnapshotError.self) { try guest.processor.restoreState(state) }
    }
}
