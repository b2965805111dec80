// SPDX-License-Identifier: Apache-2.0
// The neutral state of one x86-64 processor: what every backend saves and restores. Intel SDM volume 3, chapter 3.

/// A segment register with its hidden part.
public struct SegmentState: Codable, Equatable, Sendable {
    public var selector: UInt16
    public var base: UInt64
    /// Bytes, expanded (not in pages).
    public var limit: UInt32
    /// Descriptor bits 40 to 55 as in VMX access rights: type 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13, D/B 14, G 15,
    /// unusable 16.
    public var attributes: UInt32

    public init(selector: UInt16, base: UInt64, limit: UInt32, attributes: UInt32) {
        self.selector = selector
        self.base = base
        self.limit = limit
        self.attributes = attributes
    }
}

/// GDTR or IDTR.
public struct DescriptorTableState: Codable, Equatable, Sendable {
    public var base: UInt64
    public var limit: UInt16

    public init(base: UInt64, limit: UInt16) {
        self.base = base
        self.limit = limit
    }
}

/// x87, MMX and SSE state as FXSAVE sees it.
public struct FloatingPointState: Codable, Equatable, Sendable {
    public var control: UInt16 = 0x037f
    public var status: UInt16 = 0
    /// One bit a physical register: 1 is valid (the abridged tag of FXSAVE).
    public var abridgedTag: UInt8 = 0
    public var lastOpcode: UInt16 = 0
    public var lastInstruction: UInt64 = 0
    public var lastData: UInt64 = 0
    /// Eight 80-bit registers ST(0) to ST(7), ten bytes each.
    public var stack: [[UInt8]] = Array(repeating: Array(repeating: 0, count: 10), count: 8)
    public var mxcsr: UInt32 = 0x1f80
    /// XMM0 to XMM15, low half then high half: 32 values.
    public var xmm: [UInt64] = Array(repeating: 0, count: 32)

    public init() {}
}

/// What XSAVE adds to the state that FXSAVE sees; only processors of models with XSAVE have it.
public struct ExtendedState: Codable, Equatable, Sendable {
    public var xcr0: UInt64 = 1
    /// Bits 128 to 255 of YMM0 to YMM15, low half then high half: 32 values.
    public var upperHalves: [UInt64] = Array(repeating: 0, count: 32)

    public init() {}
}

/// Model-specific registers that are not part of another field.
public struct ModelSpecificRegisters: Codable, Equatable, Sendable {
    public var efer: UInt64 = 0
    public var star: UInt64 = 0
    public var lstar: UInt64 = 0
    public var cstar: UInt64 = 0
    /// SFMASK.
    public var syscallMask: UInt64 = 0
    public var kernelGSBase: UInt64 = 0
    public var sysenterCS: UInt64 = 0
    public var sysenterESP: UInt64 = 0
    public var sysenterEIP: UInt64 = 0
    public var pat: UInt64 = 0x0007_0406_0007_0406
    public var tscAux: UInt64 = 0
    public var miscEnable: UInt64 = 1
    public var mtrrDefaultType: UInt64 = 0
    public var kvmSystemTime: UInt64 = 0
    public var kvmWallClock: UInt64 = 0

    public init() {}
}

/// Whether a processor runs.
public enum ActivityState: String, Codable, Equatable, Sendable {
    case running
    case halted
    /// A secondary processor before its start-up interrupt.
    case waitingForStartup
    case shutdown
}

/// An exception or interrupt whose delivery through the IDT had begun: it comes before the next instruction.
public struct PendingEvent: Codable, Equatable, Sendable {
    public enum Kind: String, Codable, Sendable {
        case exception
        /// INT n, INT3, INTO; RIP is behind the instruction.
        case software
        case external
    }

    public var vector: UInt8
    public var kind: Kind
    public var errorCode: UInt32?

    public init(vector: UInt8, kind: Kind, errorCode: UInt32? = nil) {
        self.vector = vector
        self.kind = kind
        self.errorCode = errorCode
    }
}

/// Everything the guest can observe of one processor, but for its local APIC.
public struct CPUState: Codable, Equatable, Sendable {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    public var general: [UInt64]
    public var rip: UInt64
    public var rflags: UInt64
    /// ES, CS, SS, DS, FS, GS.
    public var segments: [SegmentState]
    public var ldt: SegmentState
    public var task: SegmentState
    public var gdt: DescriptorTableState
    public var idt: DescriptorTableState
    public var cr0: UInt64
    public var cr2: UInt64
    public var cr3: UInt64
    public var cr4: UInt64
    /// DR0 to DR3, DR6, DR7.
    public var debug: [UInt64]
    public var floatingPoint: FloatingPointState
    /// Nil where the CPU model has no XSAVE, and right after power-on.
    public var extended: ExtendedState?
    public var msr: ModelSpecificRegisters
    public var activity: ActivityState
    /// After STI or MOV SS: interrupts wait for one more instruction.
    public var interruptShadow: Bool
    /// A non-maskable interrupt waits for delivery.
    public var nmiPending = false
    /// Between the delivery of a non-maskable interrupt and the next IRET.
    public var nmiBlocked = false
    public var pendingEvent: PendingEvent?

    /// The state after power-on or RESET#. SDM volume 3, table 10-1.
    public static var reset: CPUState {
        let data = SegmentState(selector: 0, base: 0, limit: 0xffff, attributes: 0x93)
        let code = SegmentState(selector: 0xf000, base: 0xffff_0000, limit: 0xffff, attributes: 0x9b)
        var general = [UInt64](repeating: 0, count: 16)
        general[2] = 0x0010_0f10
        return CPUState(
            general: general, rip: 0xfff0, rflags: 2,
            segments: [data, code, data, data, data, data],
            ldt: SegmentState(selector: 0, base: 0, limit: 0xffff, attributes: 0x82),
            task: SegmentState(selector: 0, base: 0, limit: 0xffff, attributes: 0x8b),
            gdt: DescriptorTableState(base: 0, limit: 0xffff), idt: DescriptorTableState(base: 0, limit: 0xffff),
            cr0: 0x6000_0010, cr2: 0, cr3: 0, cr4: 0,
            debug: [0, 0, 0, 0, 0xffff_0ff0, 0x400],
            floatingPoint: FloatingPointState(), msr: ModelSpecificRegisters(), activity: .running,
            interruptShadow: false)
    }
}
