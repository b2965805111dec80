// SPDX-License-Identifier: Apache-2.0
// Random guests: whatever a guest does, the software CPU comes back and its state stays one that can be restored.

import Bus
import Devices
import GuestMemory
import Hypervisor
import Snapshot
import TestSupport
import Testing
import X86

@testable import HypervisorSoftware

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// SMOLVMM_FUZZ_SEED and SMOLVMM_FUZZ_SECONDS choose other guests and a longer time: tools/fuzz-guests.
struct RandomGuestTests {
    private static func setting(_ name: String) -> UInt64? {
        // SAFETY: the name is a string; nothing here changes the environment.
        guard let value = unsafe getenv(name) else { return nil }
        return UInt64(unsafe String(cString: value))
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `a random guest cannot stop the processor from coming back with a state that restores`(engine: SoftwareEngine)
        throws
    {
        let seconds = Self.setting("SMOLVMM_FUZZ_SECONDS")
        let first = Self.setting("SMOLVMM_FUZZ_SEED") ?? 1
        let end = GuestClock.hostMonotonic() + (seconds ?? 0) * 1_000_000_000
        var seed = first
        while seconds == nil ? seed < first + 400 : GuestClock.hostMonotonic() < end {
            if seconds != nil { try note(seed) }
            let guest = try RandomGuest(seed: seed, engine)
            try guest.run()
            seed += 1
        }
        if seconds != nil { print("\(seed - first) guests from seed \(first)") }
    }

    /// A guest that ends this process is found by what is in the file then.
    private func note(_ seed: UInt64) throws {
        let file = unsafe fopen("fuzz-seed.txt", "w")
        guard let file = unsafe file else { return }
        unsafe fputs("\(seed)\n", file)
        unsafe fclose(file)
    }
}

/// One guest made of random bytes, random instructions and a random state of the processor.
private final class RandomGuest {
    private enum Place {
        static let tables: UInt64 = 0x1000
        static let code: UInt64 = 0x1_0000
        static let codeSize = 0x4000
        static let memory: UInt64 = 2 << 20
    }

    private final class Interrupts: LocalInterruptController {
        var random: SplitMix64
        var rate = 0

        init(_ random: SplitMix64) { self.random = random }

        var hasPendingInterrupt: Bool { random.chance(rate) }
        func acknowledgeInterrupt() -> UInt8? { random.chance(90) ? UInt8(truncatingIfNeeded: random.next()) : nil }
        var taskPriorityClass: UInt8 = 0
        var apicBase: UInt64 = 0xfee0_0900
        var tscDeadline: UInt64 = 0
    }

    /// Made once: registers and memory of an instance take longer than running it.
    private static let instructions: [[UInt8]] = {
        var generator = InstanceGenerator(seed: 1)
        let rows = NativeForm.integer + NativeForm.vector + NativeForm.x87
        return rows.flatMap { row in (0..<4).map { _ in generator.instance(row).code } }
    }()

    private var random: SplitMix64
    private let memory: GuestMemory
    private let platform: Platform
    private let clock = GuestClock()
    private let interrupts: Interrupts
    private var core: Core

    init(seed: UInt64, _ engine: SoftwareEngine) throws {
        random = SplitMix64(seed: seed)
        memory = try GuestMemory(size: Place.memory)
        let bus = Bus()
        platform = try Platform(processors: 1, bus: bus, clock: clock, memory: memory)
        interrupts = Interrupts(random)
        interrupts.rate = random.pick([0, 1, 20])
        core = Core(
            index: 0, configuration: .eager(engine), code: SharedCode(memory, .eager(engine)), bus: bus,
            clock: clock, interrupts: interrupts)
    }

    func run() throws {
        try fillMemory()
        for _ in 0..<8 { try runOnce() }
    }

    private func runOnce() throws {
        while true {
            do throws(SnapshotError) {
                try core.restoreState(randomState())
                break
            } catch { continue }
        }
        for _ in 0..<12 {
            _ = core.run(slice: 400)
            if let deadline = platform.nextDeadline, deadline <= clock.now { platform.expire(now: clock.now) }
            if core.failure != nil || core.activity == .shutdown { break }
            if core.activity == .halted { core.activity = .running }
        }
        core.failure = nil
        let state = core.saveState()
        let copy = try JSONDecoder().decode(CPUState.self, from: JSONEncoder().encode(state))
        #expect(copy == state)
        try core.restoreState(copy)
        #expect(core.saveState() == state)
        try platform.restoreStates(Dictionary(uniqueKeysWithValues: platform.saveStates().map { ($0.name, $0.state) }))
    }

    /// Any number, with many at the edges.
    private func number() -> UInt64 {
        switch random.below(6) {
        case 0: UInt64(random.below(256))
        case 1: random.next()
        case 2: 0 &- UInt64(random.below(4096))
        case 3: 1 << UInt64(random.below(64))
        case 4: UInt64(random.below(Int(Place.memory)))
        default: random.pick([0xfec0_0000, 0xfee0_0000, 0xffff_f000, 1 << 47, 0xffff_8000_0000_0000, 0xcf9, 0x3f8])
        }
    }

    private func fillMemory() throws {
        var bytes = [UInt8](repeating: 0, count: Place.codeSize)
        var position = 0
        while position < bytes.count - 32 {
            let piece: [UInt8] =
                switch random.below(10) {
                case 0: (0..<8).map { _ in UInt8(truncatingIfNeeded: random.next()) }
                case 1: systemInstruction()
                default: random.pick(Self.instructions)
                }
            bytes.replaceSubrange(position..<position + piece.count, with: piece)
            position += piece.count
        }
        try memory.write(bytes, at: GuestPhysicalAddress(Place.code))
        // Four levels that map low memory one to one, among random entries.
        for table in 0..<UInt64(6) {
            for index in 0..<UInt64(512) where random.chance(20) {
                let entry = random.next() & 0x1f_ffff | number() & (random.chance(80) ? 0x1f_ffff : .max)
                try memory.store(entry, at: GuestPhysicalAddress(Place.tables + table * 4096 + index * 8))
            }
        }
        for level in 0..<UInt64(2) {
            try memory.store(
                Place.tables + (level + 1) * 4096 | 7, at: GuestPhysicalAddress(Place.tables + level * 4096))
        }
        try memory.store(UInt64(random.pick([0xe7, 0x87, 0x83])), at: GuestPhysicalAddress(Place.tables + 0x2000))
        // Something like descriptors and gates everywhere below.
        for address in stride(from: UInt64(0x8000), to: 0xf000, by: 8) {
            let base = random.next() & 0xff_ffff
            let attributes = UInt64(random.pick([0x9b, 0x93, 0xfb, 0xf3, 0x8e, 0xee, 0x8b, 0x89, 0x82, 0x8c, 0x85]))
            let upper = UInt64(random.pick([0x00, 0xcf, 0xaf, 0x8f])) << 48
            let value = random.chance(80) ? upper | attributes << 40 | base << 16 | 0xffff : random.next()
            try memory.store(value, at: GuestPhysicalAddress(address))
        }
    }

    /// An instruction that user programs do not have, or a random port access.
    private func systemInstruction() -> [UInt8] {
        let modRM = UInt8(truncatingIfNeeded: random.next())
        let byte = UInt8(truncatingIfNeeded: random.next())
        return random.pick([
            [0x0f, 0x00, modRM], [0x0f, 0x01, modRM], [0x0f, 0x02, modRM], [0x0f, 0x03, modRM], [0x0f, 0x05],
            [0x0f, 0x06],
            [0x0f, 0x07], [0x48, 0x0f, 0x07], [0x0f, 0x20, modRM | 0xc0], [0x0f, 0x22, modRM | 0xc0],
            [0x0f, 0x21, modRM | 0xc0], [0x0f, 0x23, modRM | 0xc0], [0x0f, 0x30], [0x0f, 0x32], [0x0f, 0x34],
            [0x0f, 0x35], [0x0f, 0xae, modRM], [0x0f, 0xb2, modRM], [0xcf], [0x48, 0xcf], [0xca, byte, 0], [0xcb],
            [0xff, modRM], [0x9d], [0x8e, modRM], [0xcd, byte], [0xe4, byte], [0xe6, byte], [0xec], [0xee], [0xed],
            [0xef],
            [0xf3, 0x6c], [0xf3, 0x6e], [0xfb], [0xfa], [0xf4], [0x9a, byte, byte, byte, byte, modRM, 0],
            [0xea, byte, byte, byte, byte, modRM, 0], [0x0f, 0xa2], [0x0f, 0x31], [0x0f, 0x33], [0x0f, 0xa1],
            [0x0f, 0xa9],
        ])
    }

    private func randomState() -> CPUState {
        var state = CPUState.reset
        for n in 0..<16 { state.general[n] = number() }
        if random.chance(70) { state.general[4] = UInt64(random.below(Int(Place.memory))) }
        if random.chance(30) {
            state.general[2] = random.pick([0x20, 0x40, 0x60, 0x70, 0x3f8, 0x600, 0xcf9, 0x4d0, 0xa1])
        }
        if random.chance(30) {
            state.general[1] = random.pick([0xc000_0080, 0x1b, 0x6e0, 0x10, 0x4b56_4d01, 0xc000_0101])
        }
        state.rip = Place.code + UInt64(random.below(Place.codeSize))
        state.rflags = random.next() & 0x3f_7fd7 & ~(random.chance(80) ? 0x2_0100 : 0) | 2
        state.cr3 = Place.tables | random.next() & 0x18
        state.cr2 = number()
        state.cr4 = random.next() & 0x30_0ff7 | (random.chance(80) ? 0x620 : 0)
        state.gdt = DescriptorTableState(base: 0x8000, limit: UInt16(truncatingIfNeeded: number()))
        state.idt = DescriptorTableState(base: 0xa000, limit: UInt16(truncatingIfNeeded: number()))
        state.ldt = segment(0x82)
        state.task = segment(0x8b)
        for n in 0..<4 where random.chance(30) { state.debug[n] = Place.code + UInt64(random.below(Place.codeSize)) }
        if random.chance(30) { state.debug[5] = random.next() & 0xffff_ffff }
        state.floatingPoint.control = UInt16(truncatingIfNeeded: random.next()) & 0x1f7f | 0x40
        state.floatingPoint.status = UInt16(truncatingIfNeeded: random.next())
        state.floatingPoint.abridgedTag = UInt8(truncatingIfNeeded: random.next())
        state.floatingPoint.mxcsr = UInt32(truncatingIfNeeded: random.next()) & 0xffff
        for n in 0..<32 { state.floatingPoint.xmm[n] = number() }
        for n in 0..<8 { state.floatingPoint.stack[n] = (0..<10).map { _ in UInt8(truncatingIfNeeded: random.next()) } }
        state.msr.lstar = number()
        state.msr.cstar = number()
        state.msr.star = random.next() & 0x00ff_00ff_0000_0000
        state.msr.syscallMask = random.next() & 0xffff_ffff
        state.msr.sysenterCS = UInt64(random.below(256))
        state.msr.sysenterEIP = number()
        state.msr.sysenterESP = number()
        state.msr.kernelGSBase = number()
        state.msr.kvmSystemTime = number()
        state.interruptShadow = random.chance(10)
        state.nmiPending = random.chance(5)
        choosePrivilege(&state)
        return state
    }

    private func segment(_ attributes: UInt32) -> SegmentState {
        SegmentState(
            selector: UInt16(truncatingIfNeeded: number()), base: random.chance(60) ? 0 : number(),
            limit: UInt32(truncatingIfNeeded: random.chance(60) ? .max : number()), attributes: attributes)
    }

    private func choosePrivilege(_ state: inout CPUState) {
        let privilege = UInt32(random.pick([0, 0, 0, 3, 1]))
        let base: UInt32 = 0x93 | privilege << 5
        for n in 0..<6 {
            state.segments[n] = segment(base | UInt32(random.pick([0xc000, 0, 0x4000, 0x1_0000])))
            state.segments[n].selector = state.segments[n].selector & ~3 | UInt16(privilege)
        }
        let code = base | 8
        switch random.below(4) {
        case 0:
            state.cr0 = 0x6000_0010
            for n in 0..<6 { state.segments[n] = segment(0x93) }
            state.segments[1].base = Place.code
            state.segments[1].attributes = 0x9b
            state.rip &= 0xffff
        case 1:
            state.cr0 = 0x11 | random.next() & 0x5_002e
            state.segments[1].attributes = code | UInt32(random.pick([0xc000, 0x8000]))
            state.segments[1].base = 0
        default:
            state.cr0 = 0x8000_0011 | random.next() & 0x5_002e
            state.cr4 |= 0x20
            state.msr.efer = 0x500 | random.next() & 0x801
            state.segments[1].attributes = code | UInt32(random.pick([0xa000, 0xa000, 0xc000]))
            state.segments[1].base = 0
        }
    }
}
