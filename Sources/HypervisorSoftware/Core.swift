// SPDX-License-Identifier: Apache-2.0
// One x86-64 processor in software: registers and the machinery that execution needs. Intel SDM volume 3, chapter 3.

import Bus
import GuestMemory
import Hypervisor
import X86

/// Width of code: what CS and EFER.LMA select.
enum CodeMode: UInt8 {
    case bits16 = 0
    case bits32 = 1
    case bits64 = 2
}

/// Hidden part of a segment register; the base is in `Core.segmentBase`.
struct Segment {
    var selector: UInt16 = 0
    /// Bytes, expanded.
    var limit: UInt32 = 0xffff
    var attributes = SegmentAttributes(rawValue: 0x93)
}

/// Descriptor bits 40 to 55.
struct SegmentAttributes: OptionSet {
    let rawValue: UInt32

    static let accessed = SegmentAttributes(rawValue: 1 << 0)
    /// Data: writable. Code: readable.
    static let writable = SegmentAttributes(rawValue: 1 << 1)
    /// Data: expands down. Code: conforming.
    static let conforming = SegmentAttributes(rawValue: 1 << 2)
    static let code = SegmentAttributes(rawValue: 1 << 3)
    /// S: code or data, not a system descriptor.
    static let codeOrData = SegmentAttributes(rawValue: 1 << 4)
    static let present = SegmentAttributes(rawValue: 1 << 7)
    static let long = SegmentAttributes(rawValue: 1 << 13)  // L
    static let big = SegmentAttributes(rawValue: 1 << 14)  // D/B
    static let granular = SegmentAttributes(rawValue: 1 << 15)  // G
    static let unusable = SegmentAttributes(rawValue: 1 << 16)

    /// Bits 0 to 3.
    var type: UInt32 { rawValue & 15 }
    /// DPL.
    var privilege: UInt8 { UInt8(truncatingIfNeeded: rawValue >> 5 & 3) }
}

/// The processor. Methods are spread over this folder by subject; none allocates while instructions run.
///
/// Methods that only read are mutating, too: of a structure that is borrowed the compiler makes copies, and this one has
/// more than a kibibyte.
struct Core: ~Copyable {
    /// The sixteen registers, then the pseudo registers of `RegisterIndex`.
    var general = InlineArray<32, UInt64>(repeating: 0)
    var segmentBase = InlineArray<8, UInt64>(repeating: 0)
    var flags = LazyFlags()
    /// RFLAGS but for the status flags.
    var systemFlags: UInt64 = 2
    var rip: UInt64 = 0
    /// Instructions left in this time slice.
    var budget = 0
    /// How data is accessed now: follows CPL and RFLAGS.AC.
    var accessSet = AccessSet.supervisor
    var privilege: UInt8 = 0  // CPL
    var mode = CodeMode.bits16
    let translations: TranslationBuffer
    let physical: PhysicalMemory
    var blocks: BlockCache
    let code: SharedCode

    var xmm = InlineArray<32, UInt64>(repeating: 0)
    var mxcsr: UInt32 = 0x1f80
    var x87 = X87()

    var segments = InlineArray<8, Segment>(repeating: Segment())
    var ldt = Segment()
    var ldtBase: UInt64 = 0
    var task = Segment()
    var taskBase: UInt64 = 0
    var gdt = DescriptorTableState(base: 0, limit: 0xffff)
    var idt = DescriptorTableState(base: 0, limit: 0xffff)
    var cr0: UInt64 = 0x6000_0010
    var cr2: UInt64 = 0
    var cr3: UInt64 = 0
    var cr4: UInt64 = 0
    /// DR0 to DR3, DR6, DR7.
    var debug = InlineArray<6, UInt64>(repeating: 0)
    /// Data breakpoints that the running instruction met, as bits of DR6.
    var watchHits: UInt64 = 0
    var msr = ModelSpecificRegisters()
    var activity = ActivityState.running
    /// Interrupts wait for the end of the next instruction.
    var interruptShadow = false
    /// A non-maskable interrupt waits.
    var pendingNMI = false
    /// Between the delivery of an NMI and the next IRET.
    var nmiBlocked = false
    /// Out of a snapshot of another backend: delivered before the next instruction.
    var pendingEvent: PendingEvent?
    /// Set when the guest asks for something that this processor does not have; execution stops.
    var failure: String?
    /// What an instruction threw that the interpreter ran for translated code.
    var pendingFault: Fault?
    var counts = EngineCounts()
    /// What cannot be done twice waits: see `executeChecked`.
    var isChecking = false
    /// RIP of the translated instruction in two pages that was entered last; 1 for none.
    var lastCrossing: UInt64 = 1
    /// Whether translated code knows what SYSCALL and SYSRET do.
    var knowsSystemCalls = false
    /// How often the numbers in the keys of far targets began again: of user code, and of the supervisor's.
    var farEpochs = InlineArray<2, UInt64>(repeating: 0)

    /// Instructions executed since power-on.
    var executed: UInt64 = 0
    let index: Int
    let configuration: SoftwareConfiguration
    let bus: Bus
    let clock: GuestClock
    let interrupts: any LocalInterruptController

    init(
        index: Int, configuration: SoftwareConfiguration, code: SharedCode, bus: Bus, clock: GuestClock,
        interrupts: any LocalInterruptController
    ) {
        self.index = index
        self.configuration = configuration
        self.bus = bus
        self.clock = clock
        self.interrupts = interrupts
        translations = TranslationBuffer()
        self.code = code
        physical = code.physical
        blocks = BlockCache(code, translations)
        code.add(translations)
        general[Int(RegisterIndex.fourGiB)] = 1 << 32
        #if arch(x86_64) && os(Linux)
            prepareTranslator()
        #endif
        if configuration.engine == .check { code.prepareCheck(reportPath: configuration.checkReport) }
    }

    deinit {
        translations.deallocate()
        blocks.deallocate()
    }

    /// General register `n`, 0 to 15, or a pseudo register.
    subscript(gpr n: UInt8) -> UInt64 {
        @inline(__always) mutating get { general[Int(n & 31)] }
        @inline(__always) set { general[Int(n & 31)] = newValue }
    }

    /// SSE register `n`, 0 to 15.
    subscript(xmm n: UInt8) -> Vector128 {
        @inline(__always) mutating get { Vector128(low: xmm[Int(n & 15) &* 2], high: xmm[Int(n & 15) &* 2 &+ 1]) }
        @inline(__always) set {
            xmm[Int(n & 15) &* 2] = newValue.low
            xmm[Int(n & 15) &* 2 &+ 1] = newValue.high
        }
    }

    /// All of RFLAGS. Setting it does not look at privileges.
    var rflags: UInt64 {
        mutating get { systemFlags | flags.bits }
        set {
            flags.bits = newValue
            systemFlags = newValue & ~Flags.status.rawValue & 0x3f_7fd7 | 2
        }
    }

    /// MMX register `n`, 0 to 7, with what writing one does to the x87 state.
    subscript(mm n: UInt8) -> UInt64 {
        get { x87[mmx: n] }
        set { x87[mmx: n] = newValue }
    }

    mutating func has(_ flag: Flags) -> Bool { systemFlags & flag.rawValue != 0 }

    /// The status flags, all at once.
    mutating func setFlags(cf: Bool, pf: Bool, af: Bool, zf: Bool, sf: Bool, of: Bool) {
        var value: Flags = []
        if cf { value.insert(.carry) }
        if pf { value.insert(.parity) }
        if af { value.insert(.auxiliary) }
        if zf { value.insert(.zero) }
        if sf { value.insert(.sign) }
        if of { value.insert(.overflow) }
        flags.bits = value.rawValue
    }

    var isProtected: Bool { mutating get { cr0 & ControlRegister0.protection != 0 } }
    /// EFER.LMA.
    var isLongMode: Bool { mutating get { msr.efer & ExtendedFeatures.longModeActive != 0 } }
    var isVirtual8086: Bool { mutating get { has(.virtual8086) } }

    /// Brings `mode`, `accessSet` and the bases that long mode ignores up to date after CS, CPL, AC or EFER changed.
    mutating func updateMode() {
        let code = segments[Int(SegmentIndex.cs)].attributes
        if isLongMode && code.contains(.long) {
            mode = .bits64
        } else {
            mode = code.contains(.big) ? .bits32 : .bits16
        }
        updateAccessSet()
    }

    @inline(__always)
    mutating func updateAccessSet() {
        accessSet = privilege == 3 ? .user : has(.alignmentCheck) ? .supervisorToUser : .supervisor
    }
}
