// SPDX-License-Identifier: Apache-2.0
// States with something in every register, one for each mode of the processor.

import X86

/// A mode of the processor.
enum ProcessorMode: String, CaseIterable {
    case real
    case protected
    case long

    /// Everything at its start value, running the code at `GuestProcessor.code`.
    var entry: CPUState {
        var state = CPUState.reset
        switch self {
        case .real:
            state.segments[1] = SegmentState(selector: 0x800, base: 0x8000, limit: 0xffff, attributes: 0x9b)
            state.rip = 0
        case .protected:
            state.segments = Array(
                repeating: SegmentState(selector: 0x18, base: 0, limit: .max, attributes: 0xc093), count: 6)
            state.segments[1] = SegmentState(selector: 0x08, base: 0, limit: .max, attributes: 0xc09b)
            state.cr0 = 0x33
            state.rip = GuestProcessor.code
        case .long:
            state.segments = Array(
                repeating: SegmentState(selector: 0x18, base: 0, limit: .max, attributes: 0xc093), count: 6)
            state.segments[1] = SegmentState(selector: 0x10, base: 0, limit: .max, attributes: 0xa09b)
            state.cr0 = 0x8005_0033
            state.cr3 = GuestProcessor.tables
            state.cr4 = 0x6a0  // PAE, PGE, OSFXSR, OSXMMEXCPT
            state.msr.efer = 0xd01  // SCE, LME, LMA, NXE
            state.rip = GuestProcessor.code
        }
        return state
    }

    /// The same with another value in every register that code can change.
    var full: CPUState {
        var state = entry
        let isLong = self == .long
        for number in 0..<(isLong ? 16 : 8) {
            let value = 0x0123_4567_89ab_cdef &+ 0x1111_1111_1111_1111 &* UInt64(number)
            state.general[number] = isLong ? value : value & 0xffff_ffff
        }
        state.rflags = 0xcd7  // CF, PF, AF, ZF, SF, DF, OF
        for number in [4, 5] { state.segments[number].base = isLong ? 0xffff_8880_0000_0000 : 0x1_0000 }
        state.ldt = SegmentState(selector: 0x28, base: 0x5000, limit: 0xff, attributes: 0x82)
        state.task = SegmentState(selector: 0x40, base: 0x6000, limit: 0x67, attributes: 0x8b)
        state.gdt = DescriptorTableState(base: 0x7000, limit: 0x7f)
        state.idt = DescriptorTableState(base: 0x7800, limit: 0x3ff)
        state.cr2 = isLong ? 0xffff_8000_1234_5678 : 0x1234_5678
        state.debug = [0x1001, 0x1002, 0x1003, 0x1004, 0xffff_0ff1, 0x400]
        fillFloatingPoint(&state.floatingPoint)
        fillRegisters(&state.msr)
        return state
    }

    /// The place of the last instruction stays 0: processors of AMD keep it only when the instruction has failed.
    private func fillFloatingPoint(_ state: inout FloatingPointState) {
        state.control = 0x0a7f
        state.status = 0x3900  // the top is register 7
        state.abridgedTag = 0x83
        for number in state.stack.indices {
            // Normal numbers, with the explicit integer bit.
            state.stack[number] = [UInt8(number + 1), 2, 3, 4, 5, 6, 7, 0x80 | UInt8(number), UInt8(number), 0x40]
        }
        state.mxcsr = 0x9fa1
        for number in state.xmm.indices { state.xmm[number] = 0xfedc_ba98_7654_3210 &* UInt64(number + 1) }
    }

    private func fillRegisters(_ msr: inout ModelSpecificRegisters) {
        msr.star = 0x0023_0010_0000_0000
        msr.lstar = 0xffff_8000_1234_5678
        msr.cstar = 0xffff_8000_8765_4321
        msr.syscallMask = 0x4_7700
        msr.kernelGSBase = 0x7fff_1234_5678
        msr.sysenterCS = 0x10
        // Processors of AMD keep 32 bits.
        msr.sysenterESP = 0x15_0000
        msr.sysenterEIP = 0x1234_5678
        msr.pat = 0x0007_0106_0007_0106
        msr.tscAux = 0x55
        msr.mtrrDefaultType = 0x806
    }
}
