// SPDX-License-Identifier: Apache-2.0
// A software processor at CPL 0 in 64-bit mode with page tables and an IDT of the tests' own.

import Bus
import GuestMemory
import Hypervisor
import X86

@testable import HypervisorSoftware

/// What a handler found.
struct Caught: Equatable {
    var vector: Int
    var errorCode: UInt64 = 0
    var rip: UInt64
}

/// 2 MiB of memory, mapped one to one for the supervisor; linear addresses from `playground` are the tests'.
final class SupervisorMachine {
    private enum Place {
        static let rootTable: UInt64 = 0x1000
        static let directoryPointers: UInt64 = 0x2000
        static let directory: UInt64 = 0x3000
        static let pageTable: UInt64 = 0x4000
        static let interruptTable: UInt64 = 0x5000
        static let descriptorTable: UInt64 = 0x6000
        static let task: UInt64 = 0x7000
        static let handlers: UInt64 = 0x8000
        static let exceptionStack: UInt64 = 0xa000
    }

    /// Where `load` puts code.
    static let code: UInt64 = 0x10000
    /// Linear addresses of 2 MiB whose pages `map` chooses.
    static let playground: UInt64 = 0x20_0000
    /// Physical memory for the playground.
    static let data: UInt64 = 0x40000
    static let stackTop: UInt64 = 0x30000
    /// Where an exception's frame has RFLAGS.
    static let savedFlags = Place.exceptionStack - 24

    /// Page-table entry bits, all but the address.
    static let present: UInt64 = 1
    static let writable: UInt64 = 2
    static let user: UInt64 = 4
    static let accessed: UInt64 = 0x20
    static let dirty: UInt64 = 0x40
    static let noExecute: UInt64 = 1 << 63

    let memory: GuestMemory
    var core: Core

    /// - Parameters:
    ///   - heat: how often a block runs before it is translated.
    ///   - isBeside: whether that is done by another thread.
    init(_ engine: SoftwareEngine, heat: UInt8 = 1, isBeside: Bool = false) throws {
        memory = try GuestMemory(size: 2 << 20)
        var configuration = SoftwareConfiguration.eager(engine, heat: heat)
        configuration.translatesBeside = isBeside
        core = Core(
            index: 0, configuration: configuration, code: SharedCode(memory, configuration), bus: Bus(),
            clock: GuestClock(), interrupts: NoInterrupts())
        try put(Place.directoryPointers | 7, at: Place.rootTable)
        try put(Place.directory | 7, at: Place.directoryPointers)
        try put(0xe3, at: Place.directory)  // the first 2 MiB, supervisor
        try put(Place.pageTable | 7, at: Place.directory + 8)
        let descriptors: [UInt64] = [
            0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_f300_0000_ffff, 0x00af_fb00_0000_ffff,
        ]
        for (number, descriptor) in descriptors.enumerated() {
            try put(descriptor, at: Place.descriptorTable + UInt64(number + 1) * 8)
        }
        for vector in UInt64(0)..<32 {
            let handler = Place.handlers + vector * 16
            // Interrupt stack 1, so that the frame is always at the same place.
            try put(handler | 8 << 16 | 1 << 32 | 0x8e00 << 32, at: Place.interruptTable + vector * 16)
            try put(0xf4, at: handler)
        }
        try put(Place.exceptionStack, at: Place.task + 0x24)
        core.cr0 = 0x8001_0033
        core.cr3 = Place.rootTable
        core.cr4 = ControlRegister4.physicalAddressExtension | ControlRegister4.fxsave | ControlRegister4.simdExceptions
        core.msr.efer = ExtendedFeatures.longModeEnable | ExtendedFeatures.longModeActive | ExtendedFeatures.noExecute
        core.gdt = DescriptorTableState(base: Place.descriptorTable, limit: 0x7f)
        core.idt = DescriptorTableState(base: Place.interruptTable, limit: 0x1ff)
        core.task = Segment(selector: 0x40, limit: 0x67, attributes: SegmentAttributes(rawValue: 0x8b))
        core.taskBase = Place.task
        core.debug[4] = 0xffff_0ff0
        core.debug[5] = 0x400
    }

    func put(_ value: UInt64, at address: UInt64) throws { try memory.store(value, at: GuestPhysicalAddress(address)) }

    func get(_ address: UInt64) throws -> UInt64 { try memory.load(UInt64.self, at: GuestPhysicalAddress(address)) }

    /// Maps page `page` of the playground to page `frame` of the data memory with entry bits `bits`.
    func map(_ page: Int, to frame: Int, _ bits: UInt64) throws {
        try put(Self.data + UInt64(frame) << 12 | bits, at: Self.entryAddress(page))
        core.flushTranslations()
    }

    /// What INVLPG does.
    func forget(_ linear: UInt64) {
        core.translations.flushPage(linear)
        core.blocks.forgetRecent(page: linear)
    }

    /// Lets user code access the first 2 MiB, all that is not the playground.
    func openToUser() throws {
        try put(0xe7, at: Place.directory)
        core.flushTranslations()
    }

    /// The page-table entry of page `page` of the playground.
    func entry(_ page: Int) throws -> UInt64 { try get(Self.entryAddress(page)) }

    static func entryAddress(_ page: Int) -> UInt64 { Place.pageTable + UInt64(page) * 8 }

    /// Puts `code` at physical `address`, as a boot loader does.
    func write(_ code: [UInt8], at address: UInt64 = SupervisorMachine.code) throws {
        try memory.write(code, at: GuestPhysicalAddress(address))
    }

    /// Starts at `rip` with CPL `privilege`.
    func start(at rip: UInt64 = SupervisorMachine.code, privilege: UInt8 = 0) {
        let bits = UInt32(privilege) << 5
        core.segments[Int(SegmentIndex.cs)] = Segment(
            selector: privilege == 3 ? 0x23 : 8, limit: .max, attributes: SegmentAttributes(rawValue: 0xa09b | bits))
        core.segments[Int(SegmentIndex.ss)] = Segment(
            selector: privilege == 3 ? 0x1b : 0x10, limit: .max, attributes: SegmentAttributes(rawValue: 0xc093 | bits))
        core.privilege = privilege
        core.rip = rip
        core.general[4] = Self.stackTop
        core.activity = .running
        core.updateMode()
    }

    /// Runs until a HLT: of a handler, then what it caught; or of the code, then nil.
    func runToHalt(slices: Int = 100) -> Caught? {
        for _ in 0..<slices where core.activity == .running { _ = core.run(slice: 1000) }
        guard core.activity == .halted, core.rip >= Place.handlers, core.rip < Place.handlers + 0x200 else {
            return nil
        }
        let vector = Int((core.rip - Place.handlers) / 16)
        let hasErrorCode = [8, 10, 11, 12, 13, 14, 17].contains(vector)
        return Caught(
            vector: vector, errorCode: hasErrorCode ? (try? get(Place.exceptionStack - 48)) ?? 0 : 0,
            rip: (try? get(Place.exceptionStack - 40)) ?? 0)
    }
}
