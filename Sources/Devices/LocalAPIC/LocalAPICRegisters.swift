// SPDX-License-Identifier: Apache-2.0
// Register map of the local APIC. Spec: Intel SDM volume 3, table 11-1.

extension LocalAPIC {
    /// Offsets in the register page; each register is 32 bits at a multiple of 16.
    enum Register: UInt64 {
        case identification = 0x020
        case version = 0x030
        case taskPriority = 0x080  // TPR
        case arbitrationPriority = 0x090  // APR
        case processorPriority = 0x0a0  // PPR
        case endOfInterrupt = 0x0b0  // EOI
        case remoteRead = 0x0c0  // RRD
        case logicalDestination = 0x0d0  // LDR
        case destinationFormat = 0x0e0  // DFR
        case spuriousVector = 0x0f0  // SVR
        case errorStatus = 0x280  // ESR
        case interruptCommandLow = 0x300  // ICR
        case interruptCommandHigh = 0x310
        case lvtTimer = 0x320
        case lvtThermal = 0x330
        case lvtPerformance = 0x340
        case lvtInterrupt0 = 0x350  // LINT0
        case lvtInterrupt1 = 0x360  // LINT1
        case lvtError = 0x370
        case initialCount = 0x380  // TMICT
        case currentCount = 0x390  // TMCCT
        case divideConfiguration = 0x3e0  // TDCR
    }

    /// Registers of eight words, 16 bytes apart.
    enum VectorRegister {
        static let inService: Range<UInt64> = 0x100..<0x180  // ISR
        static let levelTriggered: Range<UInt64> = 0x180..<0x200  // TMR
        static let requested: Range<UInt64> = 0x200..<0x280  // IRR
    }

    /// Bits of IA32_APIC_BASE.
    enum Base {
        static let address: UInt64 = 0xfee0_0000
        static let bootstrapProcessor: UInt64 = 1 << 8
        static let enabled: UInt64 = 1 << 11
    }

    /// Six local vector table entries, version 0x14: integrated, no suppression of EOI broadcasts.
    static let versionValue: UInt32 = 0x0005_0014
    static let softwareEnable: UInt32 = 1 << 8
    static let spuriousMask: UInt32 = 0x3ff
    static let destinationFormatFixed: UInt32 = 0x0fff_ffff
    static let flatModel: UInt32 = 0xffff_ffff

    /// One entry of the local vector table.
    struct LocalVector {
        var rawValue: UInt32
        static let masked: UInt32 = 1 << 16
        static let remoteRequest: UInt32 = 1 << 14
        static let timerWritable: UInt32 = 0x7_00ff
        static let eventWritable: UInt32 = 0x1_07ff
        static let pinWritable: UInt32 = 0x1_a7ff
        static let errorWritable: UInt32 = 0x1_00ff

        var vector: UInt8 { UInt8(truncatingIfNeeded: rawValue) }
        var isMasked: Bool { rawValue & Self.masked != 0 }
        var delivery: InterruptMessage.Delivery { .init(bits: UInt8(rawValue >> 8 & 7)) }
        var isLevelTriggered: Bool { rawValue & 1 << 15 != 0 }
        var remoteRequest: Bool { rawValue & Self.remoteRequest != 0 }
        var timerMode: TimerMode { TimerMode(rawValue: rawValue >> 17 & 3) ?? .reserved }
    }

    enum TimerMode: UInt32 {
        case oneShot = 0
        case periodic = 1
        case tscDeadline = 2
        case reserved = 3
    }

    struct Errors: OptionSet {
        var rawValue: UInt32
        static let sendIllegalVector = Errors(rawValue: 1 << 5)
        static let receiveIllegalVector = Errors(rawValue: 1 << 6)
        static let illegalRegister = Errors(rawValue: 1 << 7)
        static let all = Errors(rawValue: 0xff)
    }

    /// Fields of the interrupt command register.
    struct InterruptCommand {
        var rawValue: UInt64
        static let writable: UInt64 = 0xff00_0000_000c_cfff

        var shorthand: InterruptFabric.Shorthand { .init(rawValue: UInt8(rawValue >> 18 & 3)) ?? .none }
        var message: InterruptMessage {
            InterruptMessage(
                vector: UInt8(truncatingIfNeeded: rawValue), delivery: .init(bits: UInt8(rawValue >> 8 & 7)),
                destination: UInt8(rawValue >> 56), isLogical: rawValue & 1 << 11 != 0,
                isLevelTriggered: rawValue & 1 << 15 != 0, isAsserted: rawValue & 1 << 14 != 0)
        }
    }
}
