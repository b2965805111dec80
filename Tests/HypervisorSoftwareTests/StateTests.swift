// SPDX-License-Identifier: Apache-2.0
// The contract of state for the software processor: save, mutate, restore, equal; hostile state changes nothing.

import Bus
import GuestMemory
import Hypervisor
import HypervisorSoftware
import Snapshot
import Testing
import X86

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

struct StateTests {
    private let interrupts = NoInterrupts()
    private let cpu: SoftwareVirtualCPU

    init() throws {
        let machine = SoftwareVirtualMachine(
            memory: try GuestMemory(size: 2 << 20), bus: Bus(), clock: GuestClock(), model: .x86_64_v2, processors: 1)
        cpu = machine.makeSoftwareCPU(index: 0, interrupts: interrupts)
    }

    /// A processor in the middle of work: no field has the value that it has after a reset.
    private static var busy: CPUState {
        var state = CPUState.reset
        state.general = (0..<16).map { 0x1111_2222_3333_4444 &* UInt64($0 + 1) }
        state.rip = 0xffff_ffff_8100_1234
        state.rflags = 0x24_0ed7
        for n in 0..<6 {
            state.segments[n] = SegmentState(
                selector: UInt16(n * 8 + 8), base: UInt64(n) << 33, limit: 0xf_0fff + UInt32(n),
                attributes: n == 1 ? 0xa09b : 0xc093)
        }
        state.ldt = SegmentState(selector: 0x48, base: 0x1000, limit: 0x77, attributes: 0x82)
        state.task = SegmentState(selector: 0x40, base: 0x2000, limit: 0x67, attributes: 0x8b)
        state.gdt = DescriptorTableState(base: 0xffff_8000_0000_0000, limit: 0x7f)
        state.idt = DescriptorTableState(base: 0xffff_9000_0000_0000, limit: 0xfff)
        state.cr0 = 0x8005_0033
        state.cr2 = 0xdead_beef
        state.cr3 = 0x12_3000
        state.cr4 = 0x30_06b0
        state.debug = [1, 2, 3, 4, 0xffff_0ff1, 0x401]
        state.floatingPoint.control = 0x27f
        state.floatingPoint.status = 0x3800
        state.floatingPoint.abridgedTag = 0x81
        state.floatingPoint.lastOpcode = 0x123
        state.floatingPoint.lastInstruction = 0x4444
        state.floatingPoint.lastData = 0x5555
        state.floatingPoint.stack = (0..<8).map { n in (0..<10).map { UInt8(n * 16 + $0) } }
        state.floatingPoint.mxcsr = 0x1fa0
        state.floatingPoint.xmm = (0..<32).map { 0x0101_0101_0101_0101 &* UInt64($0 + 3) }
        state.msr.efer = 0xd01
        state.msr.star = 0x23_0010_0000_0000
        state.msr.lstar = 0xffff_ffff_8100_0000
        state.msr.cstar = 0xffff_ffff_8100_1000
        state.msr.syscallMask = 0x4_7700
        state.msr.kernelGSBase = 0xffff_8880_0000_0000
        state.msr.sysenterCS = 0x10
        state.msr.sysenterESP = 0x6000
        state.msr.sysenterEIP = 0x7000
        state.msr.pat = 0x0407_0105_0007_0106
        state.msr.tscAux = 3
        state.msr.miscEnable = 0x8_0001
        state.msr.mtrrDefaultType = 0xc06
        state.msr.kvmSystemTime = 0x9001
        state.msr.kvmWallClock = 0xa000
        state.activity = .halted
        state.interruptShadow = true
        state.nmiPending = true
        state.nmiBlocked = true
        state.pendingEvent = PendingEvent(vector: 14, kind: .exception, errorCode: 6)
        return state
    }

    @Test func `a state comes back through JSON as it was`() throws {
        let copy = try JSONDecoder().decode(CPUState.self, from: JSONEncoder().encode(Self.busy))
        #expect(copy == Self.busy)
        try cpu.restoreState(copy)
        #expect(cpu.saveState() == Self.busy)
        try cpu.restoreState(.reset)
        #expect(cpu.saveState() == .reset)
        try cpu.restoreState(copy)
        #expect(cpu.saveState() == Self.busy)
    }

    @Test func `no field of the busy state has its value after a reset`() {
        func fields(_ value: Any) -> [String: String] {
            Dictionary(
                uniqueKeysWithValues: Mirror(reflecting: value).children.map { ($0.label ?? "", "\($0.value)") })
        }
        for (busy, reset) in [
            (Self.busy as Any, CPUState.reset as Any), (Self.busy.msr, CPUState.reset.msr),
            (Self.busy.floatingPoint, CPUState.reset.floatingPoint),
        ] {
            let before = fields(reset)
            // The software CPU's models have no XSAVE.
            for (name, value) in fields(busy) where name != "extended" { #expect(before[name] != value, "\(name)") }
        }
    }

    /// The field that the refusal names, and what makes it impossible.
    private static let hostile: [(String, @Sendable (inout CPUState) -> Void)] = [
        ("general", { $0.general.removeLast() }),
        ("segments", { $0.segments.append($0.segments[0]) }),
        ("debug", { $0.debug = [] }),
        ("xmm", { $0.floatingPoint.xmm.removeLast() }),
        ("mxcsr", { $0.floatingPoint.mxcsr = 0x1_0000 }),
        ("rflags", { $0.rflags = 0 }),
        ("rflags", { $0.rflags |= 1 << 22 }),
        ("rflags", { $0.rflags |= 8 }),
        ("cr0", { $0.cr0 |= 1 << 40 }),
        ("cr0", { $0.cr0 &= ~1 }),
        ("cr3", { $0.cr3 |= 1 << 52 }),
        ("cr4", { $0.cr4 |= 1 << 18 }),
        ("efer", { $0.msr.efer |= 1 << 15 }),
        ("efer", { $0.msr.efer &= ~(1 << 10) }),
        ("efer", { $0.cr4 &= ~(1 << 5) }),
        ("segment attributes", { $0.segments[2].attributes = 0x2_0000 }),
        ("segment attributes", { $0.task.attributes = .max }),
        ("stack", { $0.floatingPoint.stack[3] = [] }),
        ("stack", { $0.floatingPoint.stack = [] }),
    ]

    @Test(arguments: hostile.indices)
    func `a hostile state is refused with the field's name and changes nothing`(number: Int) throws {
        try cpu.restoreState(Self.busy)
        var state = Self.busy
        state.rip = 0x1234
        state.general[0] = 0
        let (field, spoil) = Self.hostile[number]
        spoil(&state)
        let error = #expect(throws: SnapshotError.self) { try cpu.restoreState(state) }
        #expect(error?.description.contains(field) == true, "\(error?.description ?? "none")")
        #expect(cpu.saveState() == Self.busy)
    }
}
