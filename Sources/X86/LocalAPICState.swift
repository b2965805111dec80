// SPDX-License-Identifier: Apache-2.0
// The neutral state of one local APIC: what every backend saves and restores. Intel SDM volume 3, chapter 11.

/// Everything the guest can observe of one local APIC in xAPIC mode.
public struct LocalAPICState: Codable, Equatable, Sendable {
    /// The APIC id: the processor's index.
    public var id: UInt32
    /// IA32_APIC_BASE: the address, bit 11 enabled, bit 8 bootstrap processor.
    public var apicBase: UInt64
    /// TPR.
    public var taskPriority: UInt32 = 0
    /// LDR.
    public var logicalDestination: UInt32 = 0
    /// DFR.
    public var destinationFormat: UInt32 = 0xffff_ffff
    /// SVR.
    public var spuriousVector: UInt32 = 0xff
    /// ESR as the guest reads it.
    public var errorStatus: UInt32 = 0
    /// Errors since ESR was written.
    public var pendingErrors: UInt32 = 0
    /// ISR, IRR and TMR: eight words of 32 vectors each.
    public var inService: [UInt32] = Array(repeating: 0, count: 8)
    public var requested: [UInt32] = Array(repeating: 0, count: 8)
    public var levelTriggered: [UInt32] = Array(repeating: 0, count: 8)
    /// ICR, the high word in the upper half.
    public var interruptCommand: UInt64 = 0
    public var lvtTimer: UInt32 = 0x1_0000
    public var lvtThermal: UInt32 = 0x1_0000
    public var lvtPerformance: UInt32 = 0x1_0000
    public var lvtInterrupt0: UInt32 = 0x1_0000
    public var lvtInterrupt1: UInt32 = 0x1_0000
    public var lvtError: UInt32 = 0x1_0000
    /// TMICT.
    public var initialCount: UInt32 = 0
    /// TDCR.
    public var divideConfiguration: UInt32 = 0
    /// Guest nanoseconds at which the running count began; nil while the timer stands still.
    public var timerStart: UInt64?
    /// IA32_TSC_DEADLINE; 0 is disarmed.
    public var tscDeadline: UInt64 = 0
    /// An ExtINT message waits to be taken.
    public var externalPending = false

    /// Ticks of the bus clock a count of a timer whose TDCR is `configuration`.
    public static func timerDivisor(_ configuration: UInt32) -> UInt64 {
        let code = configuration & 3 | (configuration >> 1 & 4)
        // 2, 4, 8, 16, 32, 64, 128, 1.
        return code == 7 ? 1 : 2 << UInt64(code)
    }

    /// The state after power-on of the local APIC `id`.
    public static func reset(id: UInt32) -> LocalAPICState {
        LocalAPICState(id: id, apicBase: 0xfee0_0800 | (id == 0 ? 0x100 : 0))
    }

    private init(id: UInt32, apicBase: UInt64) {
        self.id = id
        self.apicBase = apicBase
    }
}
