// SPDX-License-Identifier: Apache-2.0
// RDMSR and WRMSR, with KVM's paravirtual clock. Intel SDM volume 4; Linux Documentation/virt/kvm/x86/msr.rst.

import GuestMemory
import Hypervisor
import X86

/// MSR numbers.
private enum MSR {
    static let timeStampCounter: UInt32 = 0x10
    static let apicBase: UInt32 = 0x1b
    static let mtrrCapability: UInt32 = 0xfe
    static let sysenterCS: UInt32 = 0x174
    static let sysenterESP: UInt32 = 0x175
    static let sysenterEIP: UInt32 = 0x176
    static let machineCheckCapability: UInt32 = 0x179
    static let machineCheckStatus: UInt32 = 0x17a
    static let miscEnable: UInt32 = 0x1a0
    static let pat: UInt32 = 0x277
    static let mtrrDefaultType: UInt32 = 0x2ff
    static let tscDeadline: UInt32 = 0x6e0
    static let efer: UInt32 = 0xc000_0080
    static let star: UInt32 = 0xc000_0081
    static let lstar: UInt32 = 0xc000_0082
    static let cstar: UInt32 = 0xc000_0083
    static let syscallMask: UInt32 = 0xc000_0084
    static let fsBase: UInt32 = 0xc000_0100
    static let gsBase: UInt32 = 0xc000_0101
    static let kernelGSBase: UInt32 = 0xc000_0102
    static let tscAux: UInt32 = 0xc000_0103
    static let kvmWallClock: UInt32 = 0x4b56_4d00
    static let kvmSystemTime: UInt32 = 0x4b56_4d01
    static let microcodeLevel: UInt32 = 0x8b
    static let amdInterruptPending: UInt32 = 0xc001_0055
    static let amdHardwareConfiguration: UInt32 = 0xc001_0015
    static let amdPatchLoader: UInt32 = 0xc001_0020
    static let amdSystemConfiguration: UInt32 = 0xc001_0010
}

/// How kvm-clock makes nanoseconds of ticks: shifted left by `shift` (right when it is negative), then times `multiplier`
/// as a fraction of 2^32.
private struct TimeScale {
    private(set) var multiplier: UInt32
    private(set) var shift: Int8 = 0

    /// - Parameter frequency: ticks a second, 1 to 2^63.
    init(frequency: UInt64) {
        let second: UInt64 = 1_000_000_000
        var ticks = frequency
        while ticks > second * 2 { (ticks, shift) = (ticks >> 1, shift - 1) }
        while ticks <= second { (ticks, shift) = (ticks << 1, shift + 1) }
        multiplier = UInt32(truncatingIfNeeded: (second << 32) / ticks)
    }
}

extension Core {
    mutating func readMSR(_ number: UInt32) throws(Fault) -> UInt64 {
        switch number {
        case MSR.timeStampCounter: clock.timeStampCounter
        case MSR.apicBase: interrupts.apicBase
        case MSR.tscDeadline: interrupts.tscDeadline
        case MSR.sysenterCS: msr.sysenterCS
        case MSR.sysenterESP: msr.sysenterESP
        case MSR.sysenterEIP: msr.sysenterEIP
        case MSR.miscEnable: msr.miscEnable
        case MSR.pat: msr.pat
        case MSR.mtrrDefaultType: msr.mtrrDefaultType
        case MSR.efer: msr.efer
        case MSR.star: msr.star
        case MSR.lstar: msr.lstar
        case MSR.cstar: msr.cstar
        case MSR.syscallMask: msr.syscallMask
        case MSR.fsBase: segmentBase[Int(SegmentIndex.fs)]
        case MSR.gsBase: segmentBase[Int(SegmentIndex.gs)]
        case MSR.kernelGSBase: msr.kernelGSBase
        case MSR.tscAux: msr.tscAux
        case MSR.kvmWallClock: msr.kvmWallClock
        case MSR.kvmSystemTime: msr.kvmSystemTime
        // Registers that operating systems read without asking CPUID: nothing configured, nothing to report.
        case MSR.mtrrCapability, MSR.machineCheckCapability, MSR.machineCheckStatus, MSR.microcodeLevel,
            MSR.amdInterruptPending, MSR.amdHardwareConfiguration, MSR.amdPatchLoader, MSR.amdSystemConfiguration:
            0
        default: throw .generalProtection(0)
        }
    }

    mutating func writeMSR(_ number: UInt32, _ value: UInt64) throws(Fault) {
        knowsSystemCalls = false
        switch number {
        case MSR.apicBase: interrupts.apicBase = value
        case MSR.tscDeadline: interrupts.tscDeadline = value
        case MSR.sysenterCS: msr.sysenterCS = value & 0xffff_ffff
        case MSR.sysenterESP: msr.sysenterESP = try canonical(value)
        case MSR.sysenterEIP: msr.sysenterEIP = try canonical(value)
        case MSR.miscEnable: msr.miscEnable = value
        case MSR.pat: msr.pat = try validPAT(value)
        case MSR.mtrrDefaultType: msr.mtrrDefaultType = value
        case MSR.efer: try setEFER(value)
        case MSR.star: msr.star = value
        case MSR.lstar: msr.lstar = try canonical(value)
        case MSR.cstar: msr.cstar = try canonical(value)
        case MSR.syscallMask: msr.syscallMask = value & 0xffff_ffff
        case MSR.fsBase: segmentBase[Int(SegmentIndex.fs)] = try canonical(value)
        case MSR.gsBase: segmentBase[Int(SegmentIndex.gs)] = try canonical(value)
        case MSR.kernelGSBase: msr.kernelGSBase = try canonical(value)
        case MSR.tscAux: msr.tscAux = value & 0xffff_ffff
        case MSR.kvmWallClock:
            msr.kvmWallClock = value
            writeKVMWallClock()
        case MSR.kvmSystemTime:
            msr.kvmSystemTime = value
            writeKVMSystemTime(stopped: false)
        case MSR.timeStampCounter, MSR.microcodeLevel, MSR.machineCheckStatus, MSR.amdHardwareConfiguration,
            MSR.amdPatchLoader, MSR.amdSystemConfiguration:
            break
        default: throw .generalProtection(0)
        }
    }

    private mutating func canonical(_ value: UInt64) throws(Fault) -> UInt64 {
        if !isCanonical(value) { throw .generalProtection(0) }
        return value
    }

    /// Each byte names a memory type: 0, 1, 4 to 7.
    private mutating func validPAT(_ value: UInt64) throws(Fault) -> UInt64 {
        for position in 0..<8 as Range<UInt64> {
            let type = value >> (position * 8) & 0xff
            if type > 7 || type == 2 || type == 3 { throw .generalProtection(0) }
        }
        return value
    }

    private mutating func setEFER(_ value: UInt64) throws(Fault) {
        if value & ~(ExtendedFeatures.writable | ExtendedFeatures.longModeActive) != 0 { throw .generalProtection(0) }
        let paging = cr0 & ControlRegister0.paging != 0
        if paging, (value ^ msr.efer) & ExtendedFeatures.longModeEnable != 0 { throw .generalProtection(0) }
        let changed = value ^ msr.efer
        msr.efer = value & ExtendedFeatures.writable | msr.efer & ExtendedFeatures.longModeActive
        if changed & ExtendedFeatures.noExecute != 0 { flushTranslations() }
    }

    /// struct pvclock_wall_clock: version, seconds, nanoseconds of the wall clock at guest time zero.
    private mutating func writeKVMWallClock() {
        let start = clock.wallClock &- clock.now
        let address = msr.kvmWallClock & ~3
        writeGuest(UInt32(2), at: address)
        writeGuest(UInt32(truncatingIfNeeded: start / 1_000_000_000), at: address &+ 4)
        writeGuest(UInt32(truncatingIfNeeded: start % 1_000_000_000), at: address &+ 8)
    }

    /// struct pvclock_vcpu_time_info. `stopped` tells the guest's watchdogs that time has passed while it did not run.
    mutating func writeKVMSystemTime(stopped: Bool) {
        guard msr.kvmSystemTime & 1 != 0 else { return }
        let address = msr.kvmSystemTime & ~1
        let now = clock.now
        let scale = TimeScale(frequency: clock.tscFrequency)
        writeGuest(UInt32(2), at: address)
        writeGuest(UInt32(0), at: address &+ 4)
        writeGuest(clock.timeStampCounter(at: now), at: address &+ 8)  // tsc_timestamp
        writeGuest(now, at: address &+ 16)  // system_time
        writeGuest(scale.multiplier, at: address &+ 24)  // tsc_to_system_mul
        writeGuest(UInt8(bitPattern: scale.shift), at: address &+ 28)  // tsc_shift
        writeGuest(UInt8(stopped ? 3 : 1), at: address &+ 29)  // flags: TSC stable, guest stopped
    }

    /// Writes to guest-physical RAM; nowhere else.
    private mutating func writeGuest<T: MemoryWord>(_ value: T, at address: UInt64) {
        guard (address & 4095) &+ UInt64(MemoryLayout<T>.size) <= 4096, physical.isWritable(address),
            let host = unsafe physical.pointer(address)
        else { return }
        code.willChange(address)
        // SAFETY: the value lies in the page that `host` points into.
        unsafe host.storeBytes(of: value, as: T.self)
    }
}
