// SPDX-License-Identifier: Apache-2.0
// Bits of the control registers and of IA32_EFER. Intel SDM volume 3, sections 2.2.1 and 2.5.

/// CR0 bits.
public enum ControlRegister0 {
    @inlinable public static var protection: UInt64 { 1 << 0 }  // PE
    @inlinable public static var monitorCoprocessor: UInt64 { 1 << 1 }  // MP
    @inlinable public static var emulation: UInt64 { 1 << 2 }  // EM
    @inlinable public static var taskSwitched: UInt64 { 1 << 3 }  // TS
    @inlinable public static var extensionType: UInt64 { 1 << 4 }  // ET
    @inlinable public static var numericError: UInt64 { 1 << 5 }  // NE
    @inlinable public static var writeProtect: UInt64 { 1 << 16 }  // WP
    @inlinable public static var alignmentMask: UInt64 { 1 << 18 }  // AM
    @inlinable public static var notWriteThrough: UInt64 { 1 << 29 }  // NW
    @inlinable public static var cacheDisable: UInt64 { 1 << 30 }  // CD
    @inlinable public static var paging: UInt64 { 1 << 31 }  // PG
    @inlinable public static var writable: UInt64 { 0xe005_003f }
}

/// CR4 bits.
public enum ControlRegister4 {
    @inlinable public static var timeStampDisable: UInt64 { 1 << 2 }  // TSD
    @inlinable public static var pageSizeExtension: UInt64 { 1 << 4 }  // PSE
    @inlinable public static var physicalAddressExtension: UInt64 { 1 << 5 }  // PAE
    @inlinable public static var globalPages: UInt64 { 1 << 7 }  // PGE
    @inlinable public static var performanceCounter: UInt64 { 1 << 8 }  // PCE
    @inlinable public static var fxsave: UInt64 { 1 << 9 }  // OSFXSR
    @inlinable public static var simdExceptions: UInt64 { 1 << 10 }  // OSXMMEXCPT
    @inlinable public static var userInstructionPrevention: UInt64 { 1 << 11 }  // UMIP
    @inlinable public static var fsgsbase: UInt64 { 1 << 16 }  // FSGSBASE
    @inlinable public static var processContextIdentifiers: UInt64 { 1 << 17 }  // PCIDE
    @inlinable public static var xsave: UInt64 { 1 << 18 }  // OSXSAVE
    @inlinable public static var smep: UInt64 { 1 << 20 }  // SMEP
    @inlinable public static var smap: UInt64 { 1 << 21 }  // SMAP
    /// The bits that a guest may set whose model is `x86-64-v2`: VME to MCE, PGE, PCE, OSFXSR, OSXMMEXCPT, UMIP, SMEP, SMAP.
    @inlinable public static var writable: UInt64 { 0x7ff | userInstructionPrevention | smep | smap }
}

/// IA32_EFER bits.
public enum ExtendedFeatures {
    @inlinable public static var syscall: UInt64 { 1 << 0 }  // SCE
    @inlinable public static var longModeEnable: UInt64 { 1 << 8 }  // LME
    @inlinable public static var longModeActive: UInt64 { 1 << 10 }  // LMA
    @inlinable public static var noExecute: UInt64 { 1 << 11 }  // NXE
    @inlinable public static var writable: UInt64 { syscall | longModeEnable | noExecute }
}
