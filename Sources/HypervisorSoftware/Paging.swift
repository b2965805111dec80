// SPDX-License-Identifier: Apache-2.0
// Linear to physical: the page walk with accessed and dirty bits. Intel SDM volume 3, chapter 4.

import GuestMemory
import X86

/// What an access does to memory.
enum Access {
    case read
    case write
    case fetch
}

/// Page-table entry bits.
enum PageEntry {
    static let present: UInt64 = 1 << 0
    static let writable: UInt64 = 1 << 1
    static let user: UInt64 = 1 << 2
    static let accessed: UInt64 = 1 << 5
    static let dirty: UInt64 = 1 << 6
    static let large: UInt64 = 1 << 7
    static let global: UInt64 = 1 << 8
    static let noExecute: UInt64 = 1 << 63
    /// Physical addresses have 40 bits on every CPU model here.
    static let address: UInt64 = 0xff_ffff_f000
    static let reservedAddress: UInt64 = 0x000f_ff00_0000_0000
}

/// A page's translation and the rights that the walk found.
struct Translation {
    /// Physical address of the byte asked for.
    var physical: UInt64
    /// AND of the writable bits.
    var isWritable: Bool
    /// AND of the user bits.
    var isUser: Bool
    var isExecutable: Bool
    var isDirty: Bool
    var isGlobal: Bool
}

extension Core {
    /// Translates `linear` for `access`, sets accessed and dirty bits and CR2 on a fault.
    mutating func translate(_ linear: UInt64, _ access: Access, _ set: AccessSet) throws(Fault) -> Translation {
        guard cr0 & ControlRegister0.paging != 0 else {
            return Translation(
                physical: linear & 0xffff_ffff, isWritable: true, isUser: true, isExecutable: true, isDirty: true,
                isGlobal: false)
        }
        counts.walks &+= 1
        var code: PageFaultCode = []
        if access == .write { code.insert(.write) }
        if set == .user { code.insert(.user) }
        if access == .fetch,
            msr.efer & ExtendedFeatures.noExecute != 0 || cr4 & ControlRegister4.smep != 0
        {
            code.insert(.instruction)
        }
        if isLongMode {
            if !isCanonical(linear) { throw .nonCanonical }
            return try walk(linear, access, set, code, table: cr3 & PageEntry.address, level: 4, entryBytes: 8)
        }
        let linear32 = linear & 0xffff_ffff
        if cr4 & ControlRegister4.physicalAddressExtension != 0 {
            let pointerTable = cr3 & 0xffff_ffe0
            let entry = readPhysical(pointerTable &+ (linear32 >> 30) &* 8)
            guard entry & PageEntry.present != 0 else { throw pageFault(linear32, code) }
            return try walk(linear32, access, set, code, table: entry & PageEntry.address, level: 2, entryBytes: 8)
        }
        return try walk(linear32, access, set, code, table: cr3 & 0xffff_f000, level: 2, entryBytes: 4)
    }

    private mutating func pageFault(_ linear: UInt64, _ code: PageFaultCode) -> Fault {
        cr2 = linear
        return .pageFault(code)
    }

    /// Walks from `table` at `level` (4 to 1) down to the page.
    private mutating func walk(
        _ linear: UInt64, _ access: Access, _ set: AccessSet, _ code: PageFaultCode, table root: UInt64, level top: Int,
        entryBytes: UInt64
    ) throws(Fault) -> Translation {
        let indexBits: UInt64 = entryBytes == 8 ? 9 : 10
        var table = root
        var level = top
        var writable = true
        var user = true
        var executable = true
        while true {
            let shift = 12 &+ UInt64(level &- 1) &* indexBits
            let address = table &+ ((linear >> shift) & ((1 << indexBits) &- 1)) &* entryBytes
            var entry = entryBytes == 8 ? readPhysical(address) : readPhysical(address) & 0xffff_ffff
            guard entry & PageEntry.present != 0 else { throw pageFault(linear, code) }
            let isLarge =
                entry & PageEntry.large != 0 && (level == 2 || level == 3)
                && (entryBytes == 8 || cr4 & ControlRegister4.pageSizeExtension != 0)
            if entryBytes == 8 {
                var reserved = PageEntry.reservedAddress
                if msr.efer & ExtendedFeatures.noExecute == 0 { reserved |= PageEntry.noExecute }
                if level == 4 { reserved |= PageEntry.large }
                if isLarge { reserved |= ((1 << shift) &- 1) & ~0x1fff }
                if level == 3, entry & PageEntry.large != 0, !hasGigabytePages { reserved |= PageEntry.large }
                if entry & reserved != 0 { throw pageFault(linear, code.union([.present, .reserved])) }
                if entry & PageEntry.noExecute != 0 { executable = false }
            }
            writable = writable && entry & PageEntry.writable != 0
            user = user && entry & PageEntry.user != 0
            if level > 1 && !isLarge {
                if entry & PageEntry.accessed == 0 {
                    entry |= PageEntry.accessed
                    setEntryBits(address, PageEntry.accessed)
                }
                table = entry & (entryBytes == 8 ? PageEntry.address : 0xffff_f000)
                level -= 1
                continue
            }
            guard allows(access, set, writable: writable, user: user, executable: executable) else {
                throw pageFault(linear, code.union(.present))
            }
            if unsafe physical.pointer(address) != nil { physical.noteUse(address) }
            let wanted = access == .write ? PageEntry.accessed | PageEntry.dirty : PageEntry.accessed
            if entry & wanted != wanted {
                setEntryBits(address, wanted)
                entry |= wanted
            }
            let offsetMask: UInt64 = (1 << shift) &- 1
            var base = entry & PageEntry.address & ~offsetMask
            if entryBytes == 4 {
                base &= 0xffff_ffff
                if isLarge { base |= (entry >> 13 & 0xff) << 32 }  // PSE-36
            }
            return Translation(
                physical: base | (linear & offsetMask), isWritable: writable, isUser: user, isExecutable: executable,
                isDirty: entry & PageEntry.dirty != 0,
                isGlobal: entry & PageEntry.global != 0 && cr4 & ControlRegister4.globalPages != 0)
        }
    }

    /// Whether page rights permit the access. SDM volume 3, 4.6.
    private mutating func allows(
        _ access: Access, _ set: AccessSet, writable: Bool, user: Bool, executable: Bool
    ) -> Bool {
        if access == .fetch {
            if !executable { return false }
            return set == .user ? user : !(user && cr4 & ControlRegister4.smep != 0)
        }
        if set == .user { return user && (access == .read || writable) }
        if user, set == .supervisor, cr4 & ControlRegister4.smap != 0 { return false }
        return access == .read || writable || cr0 & ControlRegister0.writeProtect == 0
    }

    /// Whether CPUID offers 1 GiB pages; no named model up to x86-64-v2 does.
    private var hasGigabytePages: Bool { false }

    mutating func isCanonical(_ linear: UInt64) -> Bool {
        UInt64(bitPattern: Int64(bitPattern: linear << 16) >> 16) == linear
    }

    /// Eight bytes of physical memory, aligned by the caller to 4; all ones where there is none.
    private mutating func readPhysical(_ address: UInt64) -> UInt64 {
        guard let host = unsafe physical.pointer(address) else { return .max }
        // SAFETY: `host` is valid to the end of its page; an 8-byte entry is aligned to 8, and the 4-byte format reads
        // at an offset of 4092 only the last 4 bytes.
        if address & 4095 > 4088 { return UInt64(unsafe host.loadUnaligned(as: UInt32.self)) }
        return unsafe host.loadUnaligned(as: UInt64.self)
    }

    /// ORs the low byte of a page-table entry.
    private mutating func setEntryBits(_ address: UInt64, _ bits: UInt64) {
        guard physical.isWritable(address), let host = unsafe physical.pointer(address) else { return }
        code.willChange(address)
        code.lockstep?.journal.noteEntry(address)
        // SAFETY: one byte at a valid address.
        let old = unsafe host.load(as: UInt8.self)
        unsafe host.storeBytes(of: old | UInt8(truncatingIfNeeded: bits), as: UInt8.self)
    }
}
