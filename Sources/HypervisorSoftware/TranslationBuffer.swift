// SPDX-License-Identifier: Apache-2.0
// The soft TLB: linear pages to host addresses, one direct-mapped set of entries for each way of access.

internal import CHost

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// The way memory is accessed, which decides what a page's protection means.
enum AccessSet: Int, CaseIterable {
    /// CPL 0 to 2, user pages refused when SMAP is on.
    case supervisor = 0
    /// CPL 3.
    case user = 1
    /// CPL 0 to 2 with RFLAGS.AC set: SMAP is suspended.
    case supervisorToUser = 2

    /// Entries of the soft TLB, a power of two, and the number of the first among those of all sets.
    @inline(__always) var entryCount: Int { self == .user ? 1 << 14 : self == .supervisor ? 1 << 13 : 1 << 10 }
    @inline(__always) var firstEntry: Int { self == .user ? 0 : self == .supervisor ? 1 << 14 : 1 << 14 + 1 << 13 }
}

/// Direct-mapped entries for the three access sets.
///
/// A tag is a page-aligned linear address when that kind of access may use the entry. Translated code takes the
/// exclusive-or of address and tag, which is below 4096 when they match, so a tag that matches nothing belongs to a page
/// that is never looked up in its entry.
@safe struct TranslationBuffer {
    struct Entry {
        var readTag: UInt64
        var writeTag: UInt64
        var fetchTag: UInt64
        /// The host address of the page.
        var host: UInt64

        /// Byte offsets of the fields, for translated code.
        static let readTagOffset = 0
        static let writeTagOffset = 8
        static let fetchTagOffset = 16
        static let hostOffset = 24
    }

    private static let entrySize = MemoryLayout<Entry>.stride
    /// Where the entries of `set` are in the context.
    static func offset(_ set: AccessSet) -> Int { ContextLayout.translations + set.firstEntry * entrySize }
    /// The byte offset of an entry among them is an address shifted right by this and masked with `indexMask`.
    static let indexShift = UInt8(12 - entrySize.trailingZeroBitCount)
    static func indexMask(_ set: AccessSet) -> Int32 { Int32((set.entryCount - 1) * entrySize) }

    /// Whole pages for the context.
    private static let mappedSize = (ContextLayout.size + 4095) & ~4095

    static let entryCount = AccessSet.allCases.reduce(0) { $0 + $1.entryCount }

    /// What matches no address that is looked up in the entry at `position`: a page next to its own, and not aligned.
    @inline(__always)
    private static func invalidTag(_ position: Int) -> UInt64 { UInt64(position ^ 1) << 12 | 1 }

    private static func empty(_ position: Int) -> Entry {
        let tag = invalidTag(position)
        return Entry(readTag: tag, writeTag: tag, fetchTag: tag, host: 0)
    }

    /// What translated code runs with: fields of `ContextLayout`, the entries among them.
    let context: UnsafeMutableRawPointer
    private let entries: UnsafeMutablePointer<Entry>
    /// Which entries a flush that spares global pages keeps: parallel to `entries`.
    private let globals: UnsafeMutablePointer<Bool>
    /// Physical page of each entry, in pages.
    private let frames: UnsafeMutablePointer<UInt32>
    /// Entries that were filled since they were last flushed: of pages that are not global, and of global ones.
    private let local: FilledEntries
    private let global: FilledEntries
    /// In place of the page that an access through the stack pointer found last.
    private let noStackPage = UInt64.random(in: 1 << 36..<1 << 50) << 12

    init() {
        let count = Self.entryCount
        // Zero, and touched only as it is used. What every second instruction looks into lies in one large page.
        guard let memory = unsafe chost_map_anonymous(Self.mappedSize, 2 << 20) else {
            preconditionFailure("the host has no memory for a soft TLB of \(ContextLayout.size) bytes")
        }
        unsafe context = memory
        // SAFETY: the layout has room there for what is known of the entries of all sets.
        unsafe entries = (memory + ContextLayout.translations).bindMemory(to: Entry.self, capacity: count)
        unsafe globals = (memory + ContextLayout.globals).bindMemory(to: Bool.self, capacity: count)
        unsafe frames = (memory + ContextLayout.frames).bindMemory(to: UInt32.self, capacity: count)
        local = FilledEntries()
        global = FilledEntries()
        // SAFETY: all three have `count` elements.
        for position in 0..<count { unsafe (entries + position).initialize(to: Self.empty(position)) }
        unsafe globals.initialize(repeating: false, count: count)
        unsafe frames.initialize(repeating: 0, count: count)
        forgetKeptPages()
        forgetStackPages()
    }

    func deallocate() {
        unsafe munmap(context, Self.mappedSize)
        local.deallocate()
        global.deallocate()
    }

    @inline(__always)
    private func position(_ linear: UInt64, _ set: AccessSet) -> Int {
        set.firstEntry &+ (Int(truncatingIfNeeded: linear &>> 12) & (set.entryCount &- 1))
    }

    /// The host address of `size` bytes at `linear` if they may be read and lie in one page.
    @inline(__always)
    func readable(_ linear: UInt64, size: UInt64, _ set: AccessSet) -> UnsafeMutableRawPointer? {
        // SAFETY: `position` is in range by its mask; a matching tag makes `host` that of a page of guest memory, with
        // `size` bytes left behind the address.
        let entry = unsafe entries + position(linear, set)
        guard unsafe entry.pointee.readTag == (linear &+ (size &- 1)) & ~0xfff else { return nil }
        return unsafe UnsafeMutableRawPointer(
            bitPattern: UInt(truncatingIfNeeded: entry.pointee.host &+ (linear & 0xfff)))
    }

    /// The host address of `size` bytes at `linear` if they may be written and lie in one page.
    @inline(__always)
    func writable(_ linear: UInt64, size: UInt64, _ set: AccessSet) -> UnsafeMutableRawPointer? {
        // SAFETY: as in `readable`.
        let entry = unsafe entries + position(linear, set)
        guard unsafe entry.pointee.writeTag == (linear &+ (size &- 1)) & ~0xfff else { return nil }
        return unsafe UnsafeMutableRawPointer(
            bitPattern: UInt(truncatingIfNeeded: entry.pointee.host &+ (linear & 0xfff)))
    }

    /// The physical page at `linear` if instructions may be fetched from it.
    @inline(__always)
    func fetchable(_ linear: UInt64, _ set: AccessSet) -> UInt64? {
        // SAFETY: `position` is in range by its mask.
        let position = position(linear, set)
        guard unsafe entries[position].fetchTag == linear & ~0xfff else { return nil }
        return unsafe UInt64(frames[position]) << 12
    }

    /// Enters a translation of the page of `linear`; accesses not allowed here keep what they had for the same page.
    func fill(
        _ linear: UInt64, _ set: AccessSet, frame: UInt64, host: UnsafeMutableRawPointer, read: Bool, write: Bool,
        fetch: Bool, global: Bool
    ) {
        let page = linear & ~0xfff
        let position = position(linear, set)
        // SAFETY: `position` is in range by its mask.
        let entry = unsafe entries + position
        let host = UInt64(UInt(bitPattern: host))
        let same =
            unsafe entry.pointee.host == host
            && (entry.pointee.readTag == page || entry.pointee.writeTag == page || entry.pointee.fetchTag == page)
        if !same { unsafe entry.pointee = Self.empty(position) }
        unsafe entry.pointee.host = host
        if read { unsafe entry.pointee.readTag = page }
        if write { unsafe entry.pointee.writeTag = page }
        if fetch { unsafe entry.pointee.fetchTag = page }
        unsafe globals[position] = global
        unsafe frames[position] = UInt32(truncatingIfNeeded: frame >> 12)
        (global ? self.global : local).append(position)
    }

    /// Whether the page of `linear`, which instructions were just fetched from, is global.
    func isGlobal(_ linear: UInt64, _ set: AccessSet) -> Bool {
        // SAFETY: `position` is in range by its mask.
        let position = position(linear, set)
        return unsafe entries[position].fetchTag == linear & ~0xfff && globals[position]
    }

    /// Says whether all pages that the soft TLB has for fetches were found since translations changed last, so that what the
    /// table of jump targets knew before may be good again.
    func allowRevalidation(_ allows: Bool) {
        // SAFETY: a field of the context.
        unsafe context.storeBytes(of: allows, toByteOffset: ContextLayout.mayRevalidate, as: Bool.self)
    }

    /// The table of jump targets leads nowhere.
    func forgetJumpTargets() {
        // SAFETY: the table's bytes in the context.
        unsafe (context + ContextLayout.jumpTable).initializeMemory(
            as: UInt8.self, repeating: 0, count: ContextLayout.jumpEntrySize << ContextLayout.jumpIndexBits)
    }

    /// No page was found before (`KeptPage`).
    private func forgetKeptPages() {
        for set in AccessSet.allCases {
            for number in 0..<ContextLayout.keptPageCount {
                // SAFETY: a field of the context.
                unsafe context.storeBytes(
                    of: UInt64(ContextLayout.noKeptPage), toByteOffset: ContextLayout.keptPage(number, set),
                    as: UInt64.self)
            }
        }
        // SAFETY: a field of the context.
        unsafe context.storeBytes(of: false, toByteOffset: ContextLayout.keepsPages, as: Bool.self)
    }

    /// The same, where one may have been.
    @inline(__always)
    private func forgetKeptPagesIfAny() {
        // SAFETY: a field of the context.
        if unsafe context.load(fromByteOffset: ContextLayout.keepsPages, as: Bool.self) { forgetKeptPages() }
    }

    /// No page was found by an access through the stack pointer.
    private func forgetStackPages() {
        for set in AccessSet.allCases {
            let page = ContextLayout.stackPage(set)
            // SAFETY: fields of the context.
            unsafe context.storeBytes(of: noStackPage, toByteOffset: page, as: UInt64.self)
            unsafe context.storeBytes(
                of: UInt64(UInt(bitPattern: context + ContextLayout.noPage)),
                toByteOffset: page + ContextLayout.stackHost, as: UInt64.self)
        }
    }

    /// Empties every entry, or spares those of global pages.
    func flush(keepingGlobal: Bool) {
        forgetStackPages()
        forgetKeptPagesIfAny()
        if local.isComplete, keepingGlobal || global.isComplete {
            // SAFETY: the lists have positions of entries.
            local.forEach { position in
                if unsafe !globals[position] { unsafe entries[position] = Self.empty(position) }
            }
            if !keepingGlobal { global.forEach { position in unsafe entries[position] = Self.empty(position) } }
        } else {
            for position in 0..<Self.entryCount {
                // SAFETY: `position` is below the allocated count.
                if keepingGlobal, unsafe globals[position] { continue }
                unsafe entries[position] = Self.empty(position)
            }
        }
        local.empty()
        if !keepingGlobal { global.empty() }
    }

    /// Empties the entries for the page of `linear`.
    func flushPage(_ linear: UInt64) {
        forgetStackPages()
        forgetKeptPagesIfAny()
        for set in AccessSet.allCases {
            let position = position(linear, set)
            // SAFETY: `position` is in range by its mask.
            unsafe entries[position] = Self.empty(position)
        }
    }

    /// Sends the next write to each page the slow way.
    func protectAll() {
        forgetStackPages()
        for position in 0..<Self.entryCount {
            // SAFETY: `position` is below the allocated count.
            protect(position)
        }
    }

    /// Sends writes to the physical page `frame` the slow way from now on.
    func protect(frame: UInt64) {
        forgetStackPages()
        let number = UInt32(truncatingIfNeeded: frame >> 12)
        guard local.isComplete, global.isComplete else {
            var position = 0
            while true {
                // SAFETY: there are as many frames.
                position = unsafe chost_find_word(frames, position, Self.entryCount, number)
                if position == Self.entryCount { return }
                protect(position)
                position += 1
            }
        }
        for list in [local, global] {
            // SAFETY: the lists have positions of entries.
            list.forEach { if unsafe frames[$0] == number { protect($0) } }
        }
    }

    /// `position` must be below the allocated count.
    @inline(__always)
    private func protect(_ position: Int) { unsafe entries[position].writeTag = Self.invalidTag(position) }

    /// A device was accessed, which may have raised an interrupt: translated code that allows interrupts leaves.
    func noteInterrupt() {
        // SAFETY: a field of the context.
        unsafe context.storeBytes(of: true, toByteOffset: ContextLayout.interruptWaits, as: Bool.self)
    }
}

/// Numbers of entries that were filled, as long as there is room for them.
@safe private struct FilledEntries {
    /// How many there were, then the first of them.
    private let numbers: UnsafeMutablePointer<Int32>
    private static let capacity: Int32 = 4096

    init() {
        unsafe numbers = .allocate(capacity: Int(Self.capacity) + 1)
        // SAFETY: the first of them.
        unsafe numbers[0] = 0
    }

    func deallocate() { unsafe numbers.deallocate() }

    /// Whether it has all of them.
    var isComplete: Bool { unsafe numbers[0] <= Self.capacity }

    func append(_ entry: Int) {
        // SAFETY: there is room for the count and `capacity` numbers; the count stops above it.
        guard unsafe numbers[0] <= Self.capacity else { return }
        unsafe numbers[0] += 1
        if unsafe numbers[0] <= Self.capacity { unsafe numbers[Int(numbers[0])] = Int32(truncatingIfNeeded: entry) }
    }

    func empty() { unsafe numbers[0] = 0 }

    /// To be called while it is complete.
    @inline(__always)
    func forEach(_ body: (Int) -> Void) {
        for number in 0..<Int(unsafe numbers[0]) {
            // SAFETY: as many follow the count.
            body(unsafe Int(numbers[number + 1]))
        }
    }
}
