// SPDX-License-Identifier: Apache-2.0
// Guest-physical memory as the software CPU reaches it: host pointers by page, and which pages hold decoded code.

import GuestMemory

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// What is known of a page of guest memory. All zero at first.
private struct PageNotes {
    /// One bit for each 64 bytes that a block was decoded from.
    var codeMask: UInt64
    /// The first block decoded from the page, or 0.
    var blockHead: UInt32
    /// Writes that touched none of its blocks, since these were last forgotten for that.
    var besideWrites: UInt16
    /// How often they were, up to a limit.
    var forgotten: UInt8
    /// A soft TLB may let writes through.
    var isWritten: Bool
}

/// Host pointers for guest-physical pages, with a mask of the decoded code in each page of RAM.
@safe struct PhysicalMemory {
    private let low: UnsafeMutableRawPointer
    private let lowSize: UInt64
    private let high: UnsafeMutableRawPointer
    private let highSize: UInt64
    private let rom: UnsafeMutableRawPointer
    private let notes: UnsafeMutablePointer<PageNotes>
    private let pageCount: Int
    /// So many writes beside a page's code, and the code is better forgotten: at first, and at most.
    private static let besideWrites: UInt16 = 64
    private static let mostForgotten: UInt8 = 9

    init(_ memory: GuestMemory) {
        let regions = memory.regions
        unsafe low = regions[0].host
        lowSize = regions[0].size
        let hasHigh = regions.count > 2
        unsafe high = hasHigh ? regions[1].host : regions[0].host
        highSize = hasHigh ? regions[1].size : 0
        unsafe rom = regions[regions.count - 1].host
        pageCount = Int((lowSize + highSize + GuestMemory.romSize) / GuestMemory.pageSize)
        // From the system, so that it is zero and touched only as it is used.
        guard let table = unsafe calloc(pageCount, MemoryLayout<PageNotes>.stride) else {
            preconditionFailure("the host has no memory for notes on \(pageCount) pages")
        }
        // SAFETY: it has room for `pageCount` elements, for which zero is a value.
        unsafe notes = table.bindMemory(to: PageNotes.self, capacity: pageCount)
    }

    func deallocate() { unsafe free(notes) }

    /// The host address of the byte at `physical`, valid to the end of its page; nil where there is no memory.
    @inline(__always)
    func pointer(_ physical: UInt64) -> UnsafeMutableRawPointer? {
        // SAFETY: each branch compares against the size of the region it points into; regions are whole pages.
        if physical < lowSize { return unsafe low + Int(truncatingIfNeeded: physical) }
        return unsafe pointerAboveLow(physical)
    }

    private func pointerAboveLow(_ physical: UInt64) -> UnsafeMutableRawPointer? {
        if physical >= GuestMemory.holeEnd.rawValue {
            let offset = physical - GuestMemory.holeEnd.rawValue
            // SAFETY: offset < highSize, the size of that region.
            return offset < highSize ? unsafe high + Int(offset) : nil
        }
        guard physical >= GuestMemory.romStart.rawValue else { return nil }
        // SAFETY: physical is in romStart ..< 4 GiB, which the ROM region covers.
        return unsafe rom + Int(physical - GuestMemory.romStart.rawValue)
    }

    /// Whether the guest can write at `physical`: RAM, not ROM and not a device.
    @inline(__always)
    func isWritable(_ physical: UInt64) -> Bool {
        physical < lowSize
            || (physical >= GuestMemory.holeEnd.rawValue && physical - GuestMemory.holeEnd.rawValue < highSize)
    }

    /// The index of the page in the tables here; only for addresses where `pointer` is not nil.
    private func pageIndex(_ physical: UInt64) -> Int {
        let index: UInt64
        if physical < lowSize {
            index = physical >> 12
        } else if physical >= GuestMemory.holeEnd.rawValue {
            index = (physical - GuestMemory.holeEnd.rawValue + lowSize) >> 12
        } else {
            index = (physical &- GuestMemory.romStart.rawValue &+ lowSize &+ highSize) >> 12
        }
        return min(Int(truncatingIfNeeded: index), pageCount - 1)
    }

    func codeMask(_ physical: UInt64) -> UInt64 {
        // SAFETY: pageIndex is below pageCount.
        unsafe notes[pageIndex(physical)].codeMask
    }

    func setCodeMask(_ physical: UInt64, _ mask: UInt64) {
        // SAFETY: as in `codeMask`.
        unsafe notes[pageIndex(physical)].codeMask = mask
    }

    func blockHead(_ physical: UInt64) -> UInt32 {
        // SAFETY: as in `codeMask`.
        unsafe notes[pageIndex(physical)].blockHead
    }

    func setBlockHead(_ physical: UInt64, _ slot: UInt32) {
        // SAFETY: as in `codeMask`.
        unsafe notes[pageIndex(physical)].blockHead = slot
    }

    /// From now on a soft TLB lets writes to the page of `physical` through.
    func noteWritten(_ physical: UInt64) {
        // SAFETY: as in `codeMask`.
        unsafe notes[pageIndex(physical)].isWritten = true
    }

    /// Whether a soft TLB may let writes to the page of `physical` through, which the caller ends.
    func takeWritten(_ physical: UInt64) -> Bool {
        let index = pageIndex(physical)
        // SAFETY: as in `codeMask`.
        defer { unsafe notes[index].isWritten = false }
        return unsafe notes[index].isWritten
    }

    /// Counts a write to a page with code that touches none of it. Returns whether the code is better forgotten: what
    /// was a program's may be another's data now. After each time it takes twice as many writes.
    func countWriteBesideCode(_ physical: UInt64) -> Bool {
        // SAFETY: as in `codeMask`.
        let page = unsafe notes + pageIndex(physical)
        unsafe page.pointee.besideWrites += 1
        let limit = unsafe Self.besideWrites << UInt16(page.pointee.forgotten)
        guard unsafe page.pointee.besideWrites >= limit else { return false }
        unsafe page.pointee.besideWrites = 0
        unsafe page.pointee.forgotten = min(page.pointee.forgotten + 1, Self.mostForgotten)
        return true
    }

    /// Forgets all code: no page holds any.
    func forgetCode() {
        for index in 0..<pageCount {
            // SAFETY: index < pageCount.
            guard unsafe notes[index].codeMask != 0 || notes[index].blockHead != 0 else { continue }
            unsafe notes[index].codeMask = 0
            unsafe notes[index].blockHead = 0
        }
    }

    /// The mask bits that `count` bytes at page offset `offset` touch, up to the end of the page.
    static func granules(offset: UInt64, count: UInt64) -> UInt64 {
        let first = offset >> 6
        let last = min(offset &+ max(count, 1) &- 1, 4095) >> 6
        let width = last &- first &+ 1
        return (width >= 64 ? .max : (1 << width) - 1) << first
    }
}
