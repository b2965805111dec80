// SPDX-License-Identifier: Apache-2.0
// Conversion between the core and the neutral CPU state, with validation. State may come from a hostile file.

import Snapshot
import X86

extension Core {
    private static let layer = "vcpu"

    /// Everything the guest can observe of this processor.
    mutating func saveState() -> CPUState {
        var state = CPUState.reset
        for n in 0..<16 { state.general[n] = general[n] }
        state.rip = rip
        state.rflags = rflags
        state.segments = (0..<6).map { segmentState(segments[$0], base: segmentBase[$0]) }
        state.ldt = segmentState(ldt, base: ldtBase)
        state.task = segmentState(task, base: taskBase)
        state.gdt = gdt
        state.idt = idt
        state.cr0 = cr0
        state.cr2 = cr2
        state.cr3 = cr3
        state.cr4 = cr4
        state.debug = (0..<6).map { debug[$0] }
        x87.save(to: &state.floatingPoint)
        state.floatingPoint.mxcsr = mxcsr
        state.floatingPoint.xmm = (0..<32).map { xmm[$0] }
        state.msr = msr
        state.activity = activity
        state.interruptShadow = interruptShadow
        state.nmiPending = pendingNMI
        state.nmiBlocked = nmiBlocked
        state.pendingEvent = pendingEvent
        return state
    }

    private mutating func segmentState(_ segment: Segment, base: UInt64) -> SegmentState {
        SegmentState(
            selector: segment.selector, base: base, limit: segment.limit, attributes: segment.attributes.rawValue)
    }

    /// Validates all of `state`, then assigns it.
    mutating func restoreState(_ state: CPUState) throws(SnapshotError) {
        try state.validate(layer: Self.layer, model: configuration.model)
        let newX87 = try X87(state.floatingPoint)
        for n in 0..<16 { general[n] = state.general[n] }
        rip = state.rip
        rflags = state.rflags
        for n in 0..<6 {
            segments[n] = Segment(state.segments[n])
            segmentBase[n] = state.segments[n].base
        }
        ldt = Segment(state.ldt)
        ldtBase = state.ldt.base
        task = Segment(state.task)
        taskBase = state.task.base
        gdt = state.gdt
        idt = state.idt
        cr0 = state.cr0
        cr2 = state.cr2
        cr3 = state.cr3
        cr4 = state.cr4
        for n in 0..<6 { debug[n] = state.debug[n] }
        x87 = newX87
        mxcsr = state.floatingPoint.mxcsr
        for n in 0..<32 { xmm[n] = state.floatingPoint.xmm[n] }
        msr = state.msr
        knowsSystemCalls = false
        activity = state.activity
        interruptShadow = state.interruptShadow
        pendingNMI = state.nmiPending
        nmiBlocked = state.nmiBlocked
        pendingEvent = state.pendingEvent
        failure = nil
        privilege = Self.privilege(state)
        updateMode()
        flushTranslations()
        // Whoever sets the state may have changed memory, too.
        blocks.empty()
    }

    /// CPL is the privilege of SS; 3 in virtual-8086 mode, 0 in real mode.
    private static func privilege(_ state: CPUState) -> UInt8 {
        if state.cr0 & ControlRegister0.protection == 0 { return 0 }
        if state.rflags & Flags.virtual8086.rawValue != 0 { return 3 }
        return UInt8(state.segments[Int(SegmentIndex.cs)].selector & 3)
    }
}

extension Segment {
    init(_ state: SegmentState) {
        self.init(
            selector: state.selector, limit: state.limit, attributes: SegmentAttributes(rawValue: state.attributes))
    }
}
