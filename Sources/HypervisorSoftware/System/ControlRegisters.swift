// SPDX-License-Identifier: Apache-2.0
// Control and debug registers and what their bits switch. Intel SDM volume 3, 2.5 and 17.2.

import Hypervisor
import X86

extension Core {
    mutating func controlRegister(_ operation: Operation, _ i: DecodedInstruction) throws(Fault) {
        switch operation {
        case .smsw:
            if cr4 & ControlRegister4.userInstructionPrevention != 0, privilege != 0 { throw .generalProtection(0) }
            if i.isMemory || i.operandSize == 2 {
                try writeRM(i, UInt16(truncatingIfNeeded: cr0))
            } else {
                self[gpr: i.rm] = i.operandSize == 8 ? cr0 : cr0 & 0xffff_ffff
            }
            return
        // Registers that do not exist are invalid opcodes, whatever the privilege.
        case .movFromControl, .movToControl: if 0b1_0001_1101 >> i.reg & 1 == 0 { throw .invalidOpcode }
        case .movFromDebug, .movToDebug: _ = try debugIndex(i.reg)
        default: break
        }
        if privilege != 0 { throw .generalProtection(0) }
        switch operation {
        case .clts: cr0 &= ~ControlRegister0.taskSwitched
        case .lmsw:
            let value = UInt64(try readRM(i, UInt16.self))
            // LMSW can set PE and never clear it.
            try setControl0(cr0 & ~0xe | value & 0xf)
        case .movFromControl: self[gpr: i.rm] = try controlValue(i.reg)
        case .movToControl: try setControl(i.reg, i.operandSize == 8 ? self[gpr: i.rm] : self[gpr: i.rm] & 0xffff_ffff)
        case .movFromDebug: self[gpr: i.rm] = debug[try debugIndex(i.reg)]
        default:
            let index = try debugIndex(i.reg)
            let value = self[gpr: i.rm]
            if index >= 4, value >> 32 != 0 { throw .generalProtection(0) }
            debug[index] = index == 4 ? value & 0xe00f | 0xffff_0ff0 : index == 5 ? value & 0xffff_2fff | 0x400 : value
            // Watched pages leave the TLB, others may come back.
            if debug[5] & DebugControl.enabled != 0 || index == 5 { translations.flush(keepingGlobal: false) }
        }
    }

    /// DR4 and DR5 are DR6 and DR7.
    private mutating func debugIndex(_ number: UInt8) throws(Fault) -> Int {
        if number > 7 { throw .invalidOpcode }
        return number < 4 ? Int(number) : Int(number & 1) + 4
    }

    private mutating func controlValue(_ number: UInt8) throws(Fault) -> UInt64 {
        switch number {
        case 0: cr0
        case 2: cr2
        case 3: cr3
        case 4: cr4
        case 8: UInt64(interrupts.taskPriorityClass)
        default: throw .invalidOpcode
        }
    }

    private mutating func setControl(_ number: UInt8, _ value: UInt64) throws(Fault) {
        switch number {
        case 0: try setControl0(value)
        case 2: cr2 = value
        case 3:
            // Bits above the physical address must be zero; PCID and its bit 63 are not offered.
            if isLongMode, value >> 40 != 0 { throw .generalProtection(0) }
            cr3 = value
            let keepsGlobal = cr4 & ControlRegister4.globalPages != 0
            translations.flush(keepingGlobal: keepsGlobal)
            blocks.forgetRecent(keepingGlobal: keepsGlobal)
        case 4: try setControl4(value)
        case 8:
            if value > 15 { throw .generalProtection(0) }
            interrupts.taskPriorityClass = UInt8(value)
        default: throw .invalidOpcode
        }
    }

    private mutating func setControl0(_ value: UInt64) throws(Fault) {
        if value >> 32 != 0 { throw .generalProtection(0) }
        let paging = value & ControlRegister0.paging != 0
        if paging, value & ControlRegister0.protection == 0 { throw .generalProtection(0) }
        if value & ControlRegister0.notWriteThrough != 0, value & ControlRegister0.cacheDisable == 0 {
            throw .generalProtection(0)
        }
        let wasPaging = cr0 & ControlRegister0.paging != 0
        if paging, !wasPaging, msr.efer & ExtendedFeatures.longModeEnable != 0 {
            if cr4 & ControlRegister4.physicalAddressExtension == 0 { throw .generalProtection(0) }
            if segments[Int(SegmentIndex.cs)].attributes.contains(.long) { throw .generalProtection(0) }
            msr.efer |= ExtendedFeatures.longModeActive
        }
        if !paging, wasPaging {
            if mode == .bits64 { throw .generalProtection(0) }
            msr.efer &= ~ExtendedFeatures.longModeActive
        }
        let changed = cr0 ^ value
        cr0 = value & ControlRegister0.writable | ControlRegister0.extensionType
        let flushing = ControlRegister0.paging | ControlRegister0.protection | ControlRegister0.writeProtect
        if changed & flushing != 0 { flushTranslations() }
        updateMode()
    }

    private mutating func setControl4(_ value: UInt64) throws(Fault) {
        if value & ~ControlRegister4.writable != 0 { throw .generalProtection(0) }
        if isLongMode, value & ControlRegister4.physicalAddressExtension == 0 { throw .generalProtection(0) }
        let flushing =
            ControlRegister4.pageSizeExtension | ControlRegister4.physicalAddressExtension
            | ControlRegister4.globalPages | ControlRegister4.smep | ControlRegister4.smap
        let changed = cr4 ^ value
        cr4 = value
        if changed & flushing != 0 { flushTranslations() }
    }

    /// Empties the TLB, global pages too.
    mutating func flushTranslations() {
        translations.flush(keepingGlobal: false)
        blocks.forgetRecent()
    }
}
