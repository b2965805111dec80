// SPDX-License-Identifier: Apache-2.0
// Guest-physical memory as the software CPU reaches it: host pointers by page, and which pages hold decoded code.

import GuestMemory

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

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
    private let pageCount: Int
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
        unsafe uses = Self.zeros(groupCount + 1)
    }

    /// From the system, so that it takes neither time nor memory for pages that nobody uses.
    private static func zeros<Element: FixedWidthInteger>(_ count: Int) -> UnsafeMutablePointer<Element> {
        guard let memory = unsafe calloc(count, MemoryLayout<Element>.stride) else {
            preconditionFailure("the host has no memory for a table of \(count) pages")
        }
        // SAFETY: zero bytes are integers, of which there is room for `count`.
        return unsafe memory.bindMemory(to: Element.self, capacity: count)
    }

    func deallocate() {
        unsafe free(codeMasks)
        unsafe free(blockHeads)
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
