// SPDX-License-Identifier: Apache-2.0
// Guest-physical memory as the software CPU reaches it: host pointers by page, and which pages hold decoded code.

import GuestMemory

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// What is known of the writes to a page. All zero at first.
private struct PageWrites: BitwiseCopyable {
    /// Writes that touched none of its blocks, since these were last forgotten for that.
    var besideCode: UInt16
    /// How often they were, up to a limit.
    var forgotten: UInt8
    /// How often its code changed, up to `mostChanges`.
    var changes: UInt8
    /// A soft TLB may let writes through.
    var areAllowed: Bool
}

/// Host pointers for guest-physical pages, with a mask of the decoded code in each page of RAM.
@safe struct PhysicalMemory {
    private let low: UnsafeMutableRawPointer
    private let lowSize: UInt64
    private let high: UnsafeMutableRawPointer
    private let highSize: UInt64
    private let rom: UnsafeMutableRawPointer
    /// One bit for each 64 bytes of a page that a block was decoded from.
    private let codeMasks: UnsafeMutablePointer<UInt64>
    /// The first block decoded from each page.
    private let blockHeads: UnsafeMutablePointer<UInt32>
    private let writes: UnsafeMutablePointer<PageWrites>
    private let pageCount: Int
    /// So many writes beside a page's code, and the code is better forgotten; and how often that doubles.
    private static let besideCode: UInt16 = 64
    private static let mostForgotten: UInt8 = 9
    /// Code that changes as often is likely to change again.
    private static let mostChanges: UInt8 = 8
    /// When each group of pages was translated to last, counted in translations; 0: never. The last element counts them.
    private let uses: UnsafeMutablePointer<UInt64>
    private let groupCount: Int
    private static let pagesInGroup = 16

    init(_ memory: GuestMemory) {
        let regions = memory.regions
        unsafe low = regions[0].host
        lowSize = regions[0].size
        let hasHigh = regions.count > 2
        unsafe high = hasHigh ? regions[1].host : regions[0].host
        highSize = hasHigh ? regions[1].size : 0
        unsafe rom = regions[regions.count - 1].host
        pageCount = Int((lowSize + highSize + GuestMemory.romSize) / GuestMemory.pageSize)
        groupCount = pageCount / Self.pagesInGroup + 1
        unsafe codeMasks = Self.zeros(pageCount)
        unsafe blockHeads = Self.zeros(pageCount)
        unsafe writes = Self.zeros(pageCount)
        unsafe uses = Self.zeros(groupCount + 1)
    }

    /// From the system, so that it takes neither time nor memory for pages that nobody uses.
    private static func zeros<Element: BitwiseCopyable>(_ count: Int) -> UnsafeMutablePointer<Element> {
        guard let memory = unsafe calloc(count, MemoryLayout<Element>.stride) else {
            preconditionFailure("the host has no memory for a table of \(count) pages")
        }
        // SAFETY: zero bytes are a value of each type used here, and there is room for `count`.
        return unsafe memory.bindMemory(to: Element.self, capacity: count)
    }

    func deallocate() {
        unsafe free(codeMasks)
        unsafe free(blockHeads)
        unsafe free(writes)
        unsafe free(uses)
    }

    /// A page has been translated to. Only for addresses where `pointer` is not nil.
    @inline(__always)
    func noteUse(_ physical: UInt64) {
        // SAFETY: `uses` has an element for each group of pages, and one more.
        unsafe uses[groupCount] &+= 1
        unsafe uses[pageIndex(physical) / Self.pagesInGroup] = uses[groupCount]
    }

    /// RAM that was used last, the latest first: the start of each 64 KiB.
    func recentlyUsed(limit: Int) -> [UInt64] {
        var found: [(use: UInt64, address: UInt64)] = []
        for group in 0..<groupCount {
            // SAFETY: as in `noteUse`.
            let use = unsafe uses[group]
            let offset = UInt64(group * Self.pagesInGroup) << 12
            guard use > 0, offset < lowSize + highSize else { continue }
            found.append((use, offset < lowSize ? offset : offset - lowSize + GuestMemory.holeEnd.rawValue))
        }
        return found.sorted { $0.use > $1.use }.prefix(limit).map(\.address)
    }

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
        unsafe codeMasks[pageIndex(physical)]
    }

    func setCodeMask(_ physical: UInt64, _ mask: UInt64) {
        // SAFETY: as in `codeMask`.
        unsafe codeMasks[pageIndex(physical)] = mask
    }

    func blockHead(_ physical: UInt64) -> UInt32 {
        // SAFETY: as in `codeMask`.
        unsafe blockHeads[pageIndex(physical)]
    }

    func setBlockHead(_ physical: UInt64, _ slot: UInt32) {
        // SAFETY: as in `codeMask`.
        unsafe blockHeads[pageIndex(physical)] = slot
    }

    /// From now on a soft TLB lets writes to the page of `physical` through.
    func allowWrites(_ physical: UInt64) {
        // SAFETY: as in `codeMask`.
        unsafe writes[pageIndex(physical)].areAllowed = true
    }

    /// Whether a soft TLB may let writes to the page of `physical` through, which the caller ends.
    func endWrites(_ physical: UInt64) -> Bool {
        let index = pageIndex(physical)
        // SAFETY: as in `codeMask`.
        defer { unsafe writes[index].areAllowed = false }
        return unsafe writes[index].areAllowed
    }

    /// Counts a change of the code in the page of `physical`.
    func countChange(_ physical: UInt64) {
        // SAFETY: as in `codeMask`.
        let page = unsafe writes + pageIndex(physical)
        unsafe page.pointee.changes = min(page.pointee.changes + 1, Self.mostChanges)
    }

    /// Whether the code in the page of `physical` has changed so often that it will again.
    func changesOften(_ physical: UInt64) -> Bool {
        // SAFETY: as in `codeMask`.
        unsafe writes[pageIndex(physical)].changes == Self.mostChanges
    }

    /// Counts a write to a page with code that touches none of it. Returns whether the code is better forgotten: what
    /// was a program's may be another's data now. After each time it takes twice as many writes.
    func countWriteBesideCode(_ physical: UInt64) -> Bool {
        // SAFETY: as in `codeMask`.
        let page = unsafe writes + pageIndex(physical)
        unsafe page.pointee.besideCode += 1
        let limit = unsafe Self.besideCode << UInt16(page.pointee.forgotten)
        guard unsafe page.pointee.besideCode >= limit else { return false }
        unsafe page.pointee.besideCode = 0
        unsafe page.pointee.forgotten = min(page.pointee.forgotten + 1, Self.mostForgotten)
        return true
    }

    /// Forgets all code: no page holds any.
    func forgetCode() {
        // SAFETY: both have `pageCount` elements.
        unsafe codeMasks.update(repeating: 0, count: pageCount)
        unsafe blockHeads.update(repeating: 0, count: pageCount)
    }

    /// The mask bits that `count` bytes at page offset `offset` touch, up to the end of the page.
    static func granules(offset: UInt64, count: UInt64) -> UInt64 {
        let first = offset >> 6
        let last = min(offset &+ max(count, 1) &- 1, 4095) >> 6
        let width = last &- first &+ 1
        return (width >= 64 ? .max : (1 << width) - 1) << first
    }
}
