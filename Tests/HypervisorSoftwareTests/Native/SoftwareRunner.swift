// SPDX-License-Identifier: Apache-2.0
// The software CPU as a runner of user code: long mode, paging, and an IDT whose handlers halt.

import Bus
import GuestMemory
import Hypervisor
import X86

@testable import HypervisorSoftware

/// Runs one instruction at a time at CPL 3, with the window and the code page where the host has them.
final class SoftwareRunner {
    /// Where the supervisor sees the first 2 MiB: an address that no instance has by chance.
    private static let supervisor: UInt64 = 0x2b5a_6480_0000

    /// Physical places of what the processor needs.
    private enum Place {
        static let rootTable: UInt64 = 0x1000
        static let directoryPointers: UInt64 = 0x2000
        static let directory: UInt64 = 0x3000
        static let pageTable: UInt64 = 0x4000
        static let interruptTable: UInt64 = 0x5000
        static let descriptorTable: UInt64 = 0x6000
        static let task: UInt64 = 0x7000
        static let handlers: UInt64 = 0x8000
        static let supervisorPointers: UInt64 = 0xb000
        static let supervisorDirectory: UInt64 = 0xc000
        static let stackTop: UInt64 = 0xa000
        static let window: UInt64 = 0x20000
        static let code: UInt64 = 0x30000
    }

    private let memory: GuestMemory
    private let bus = Bus()
    private var core: Core
    /// What the registers are put back to before each run.
    private let userCode = Segment(selector: 0x33, limit: .max, attributes: SegmentAttributes(rawValue: 0xa0fb))
    private let nullData = Segment(selector: 0, limit: 0, attributes: .unusable)
    private let userData = Segment(selector: 0x2b, limit: .max, attributes: SegmentAttributes(rawValue: 0xc0f3))

    init(_ engine: SoftwareEngine) throws {
        memory = try GuestMemory(size: 2 << 20)
        core = Core(
            index: 0, configuration: .eager(engine), code: SharedCode(memory, .eager(engine)), bus: bus,
            clock: GuestClock(), interrupts: NoInterrupts())
        try writeTables()
        core.cr0 = 0x8001_0033
        core.cr3 = Place.rootTable
        core.cr4 = ControlRegister4.physicalAddressExtension | ControlRegister4.fxsave | ControlRegister4.simdExceptions
        core.msr.efer = ExtendedFeatures.longModeEnable | ExtendedFeatures.longModeActive
        core.gdt = DescriptorTableState(base: Self.supervisor + Place.descriptorTable, limit: 0x7f)
        core.idt = DescriptorTableState(base: Self.supervisor + Place.interruptTable, limit: 0x1ff)
        core.ldt = nullData
        core.task = Segment(selector: 0x40, limit: 0x67, attributes: SegmentAttributes(rawValue: 0x8b))
        core.taskBase = Self.supervisor + Place.task
    }

    private func put(_ value: UInt64, at address: UInt64) throws {
        try memory.store(value, at: GuestPhysicalAddress(address))
    }

    private func writeTables() throws {
        try put(Place.directoryPointers | 7, at: Place.rootTable)
        try put(Place.directory | 7, at: Place.directoryPointers)
        // The first 2 MiB for the supervisor alone.
        try put(Place.supervisorPointers | 7, at: Place.rootTable + (Self.supervisor >> 39 & 511) * 8)
        try put(Place.supervisorDirectory | 7, at: Place.supervisorPointers + (Self.supervisor >> 30 & 511) * 8)
        try put(0xe3, at: Place.supervisorDirectory + (Self.supervisor >> 21 & 511) * 8)
        try put(Place.pageTable | 7, at: Place.directory + (ProcessorState.windowStart >> 21) * 8)
        for page in 0..<UInt64(ProcessorState.windowSize / 4096) {
            try put(Place.window + page << 12 | 0x67, at: Place.pageTable + page * 8)
        }
        let codePage = (ProcessorState.codeStart - ProcessorState.windowStart) >> 12
        try put(Place.code | 0x67, at: Place.pageTable + codePage * 8)
        // The selectors that Linux has: kernel code of 32 and 64 bits, kernel data, the same for user code.
        let descriptors: [UInt64] = [
            0x00cf_9b00_0000_ffff, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_fb00_0000_ffff,
            0x00cf_f300_0000_ffff, 0x00af_fb00_0000_ffff,
        ]
        for (number, descriptor) in descriptors.enumerated() {
            try put(descriptor, at: Place.descriptorTable + UInt64(number + 1) * 8)
        }
        try put(Self.supervisor + Place.stackTop, at: Place.task + 4)
        // No I/O permission bitmap.
        try put(0xffff << 48, at: Place.task + 0x60)
        for vector in UInt64(0)..<32 {
            let handler = Self.supervisor + Place.handlers + vector * 16
            let gate = Place.interruptTable + vector * 16
            // User code may raise #BP and #OF.
            let gateType: UInt64 = vector == 3 || vector == 4 ? 0xee00 : 0x8e00
            try put(handler & 0xffff | 0x10 << 16 | gateType << 32 | (handler >> 16 & 0xffff) << 48, at: gate)
            try put(handler >> 32, at: gate + 8)
            try put(0xf4, at: Place.handlers + vector * 16)  // HLT
        }
    }

    /// Runs `code` from `state`. The code is followed by HLT, whose #GP tells that it came to its end.
    func run(_ code: [UInt8], _ state: inout ProcessorState) throws -> Outcome {
        core.blocks.invalidatePage(Place.code)
        try memory.write(code + [0xf4], at: GuestPhysicalAddress(Place.code))
        try memory.write(state.window, at: GuestPhysicalAddress(Place.window))
        enter(state)
        let exit = core.run(slice: 2000)
        guard exit == .halted else { return Outcome(vector: -2, errorCode: 0, address: core.rip) }

        // What the exception left on the stack, and the register that it replaced.
        let vector = Int((core.rip &- Self.supervisor &- Place.handlers) / 16)
        let hasErrorCode = [8, 10, 11, 12, 13, 14, 17].contains(vector)
        func frame(_ word: UInt64) throws -> UInt64 {
            try memory.load(UInt64.self, at: GuestPhysicalAddress(Place.stackTop - 8 * word))
        }
        leave(&state)
        state.rip = try frame(5)
        state.flags = try frame(3)
        state[4] = try frame(2)
        state.window = try memory.read(at: GuestPhysicalAddress(Place.window), count: ProcessorState.windowSize)
        if vector == 13, state.rip == ProcessorState.codeStart + UInt64(code.count) { return Outcome() }
        return Outcome(
            vector: vector, errorCode: hasErrorCode ? UInt32(truncatingIfNeeded: try frame(6)) : 0,
            address: vector == 14 ? core.cr2 : 0)
    }

    /// Loads the registers and goes to user mode.
    private func enter(_ state: ProcessorState) {
        for number in 0..<16 { core.general[number] = state[number] }
        core.rflags = state.flags
        core.rip = ProcessorState.codeStart
        core.privilege = 3
        for index in 0..<6 { core.segments[index] = nullData }
        core.segments[Int(SegmentIndex.cs)] = userCode
        core.segments[Int(SegmentIndex.ss)] = userData
        core.activity = .running
        core.updateMode()
        var image = InlineArray<20, UInt64>(repeating: 0)
        for word in 0..<20 { image[word] = state[fx: word] }
        core.x87.restore(fxsaveImage: image, hasWidePointers: true)
        core.mxcsr = UInt32(truncatingIfNeeded: state[fx: 3])
        for word in 0..<32 { core.xmm[word] = state[fx: 20 + word] }
    }

    private func leave(_ state: inout ProcessorState) {
        for number in 0..<16 { state[number] = core.general[number] }
        let image = core.x87.fxsaveImage(hasWidePointers: true)
        for word in 0..<20 { state[fx: word] = image[word] }
        state[fx: 3] = UInt64(core.mxcsr)
        for word in 0..<32 { state[fx: 20 + word] = core.xmm[word] }
    }
}
