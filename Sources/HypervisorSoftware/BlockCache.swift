// SPDX-License-Identifier: Apache-2.0
// Decoded blocks: runs of instructions of one page, found by physical address and by where they last ran.

internal import CHost

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// A block's first slot in the arena: the same size as an instruction.
struct BlockHeader {
    /// Physical address of the first byte.
    var physical: UInt64
    /// Instructions in the block; in one that is no longer valid, more than any time slice has.
    var count: Int32
    /// Next block with the same hash, or 0.
    var hashNext: UInt32 = 0
    /// Next block decoded from the same page, or 0.
    var pageNext: UInt32 = 0
    var pageOffset: UInt16
    var mode: CodeMode
    var isValid = true
    /// Where its translation is in the code buffer, or 0.
    var code: UInt32 = 0
    /// How memory is accessed when it runs.
    var set: AccessSet
    /// How often it ran before it was translated, and more if its page seldom changes.
    var heat: UInt8 = 0
    /// Whether its translation has other blocks in it.
    var hasJoined = false
    /// Whether another thread translates it.
    var isAwaited = false

    @inline(__always)
    func isBlock(at physical: UInt64, _ mode: CodeMode, _ set: AccessSet) -> Bool {
        self.physical == physical && self.mode == mode && self.set == set && isValid
    }
}

/// The blocks of a machine by their physical addresses.
@safe struct BlockIndex {
    private static let size = 1 << 18
    /// A large page.
    private static let bytes = 2 << 20

    let slots: BlockSlots
    /// The first block with each hash, or 0.
    let heads: UnsafeMutablePointer<UInt32>

    init(_ slots: BlockSlots) {
        self.slots = slots
        // Zero. Each look into it is elsewhere: one large page takes the host less time to find.
        guard let memory = unsafe chost_map_anonymous(Self.bytes, Self.bytes) else {
            preconditionFailure("the host has no memory for an index of \(Self.size) blocks")
        }
        // SAFETY: there is room for as many elements.
        unsafe heads = memory.bindMemory(to: UInt32.self, capacity: Self.size)
    }

    func deallocate() { unsafe munmap(heads, Self.bytes) }

    func clear() {
        // SAFETY: it has as many elements.
        unsafe heads.update(repeating: 0, count: Self.size)
    }

    static func hash(_ physical: UInt64, _ mode: CodeMode) -> Int {
        let mixed = (physical ^ UInt64(mode.rawValue) << 60) &* 0x9e37_79b9_7f4a_7c15
        return Int(truncatingIfNeeded: mixed >> 44) & (size - 1)
    }

    /// The valid block at `physical` for `mode` and `set`.
    func find(_ physical: UInt64, _ mode: CodeMode, _ set: AccessSet) -> UInt32? {
        var slot = unsafe heads[Self.hash(physical, mode)]
        while slot != 0 {
            let header = unsafe slots.header(slot)
            if unsafe header.pointee.isBlock(at: physical, mode, set) { return slot }
            slot = unsafe header.pointee.hashNext
        }
        return nil
    }
}

/// The arena of decoded instructions with its two indices, as one processor sees it. A slot number of 0 means none.
@safe struct BlockCache {
    /// Most slots that one block takes: header, instructions and the closing slot.
    static let longestBlock = 66
    private static let recentSize = 1 << 14
    /// The block of a single step.
    static let scratch: UInt32 = 1
    static let firstFree = 4
    /// So many of the instructions that lie in two pages are known at a time.
    static let crossingCount = 512

    /// Where a linear address last led.
    private struct Recent {
        var linear: UInt64
        var slot: UInt32
        /// `generation` and the mode and rights it was found with.
        var context: UInt32
    }

    /// What the context has room for.
    static let recentBytes = recentSize * MemoryLayout<Recent>.stride

    private let shared: SharedCode
    private let translations: TranslationBuffer
    let index: BlockIndex
    private var slots: BlockSlots { @inline(__always) get { index.slots } }
    private let recent: UnsafeMutablePointer<Recent>
    /// What was found by linear address is good for one generation: of user code, and of the supervisor's, whose pages
    /// are global, so that it outlives a change of CR3.
    private var generations = InlineArray<2, UInt64>(repeating: 1)
    /// Supervisor code ran from a page that is not global.
    private var hasLocalSupervisorCode = false
    /// Pages whose code was found in this generation, by hash.
    private let pages: UnsafeMutablePointer<UInt64>
    private static let areaWords = 64
    private static let areas = 3
    /// Of the arena, when this processor last looked.
    private var seenEvictions = 0
    /// The first block that the interpreter came to behind an indirect jump or translated code; 0 until it does.
    var jumpOrigin: UInt32 = 0

    init(_ shared: SharedCode, _ translations: TranslationBuffer) {
        self.shared = shared
        self.translations = translations
        index = shared.index
        // SAFETY: the layout has room there for as many elements as initialised here.
        unsafe recent = (translations.context + ContextLayout.recentBlocks).bindMemory(
            to: Recent.self, capacity: Self.recentSize)
        unsafe recent.initialize(repeating: Recent(linear: 0, slot: 0, context: 0), count: Self.recentSize)
        unsafe pages = .allocate(capacity: Self.areas * Self.areaWords)
        unsafe pages.initialize(repeating: 0, count: Self.areas * Self.areaWords)
    }

    func deallocate() { unsafe pages.deallocate() }

    /// How often blocks or translations were forgotten to make room.
    var evictions: Int { @inline(__always) get { shared.evictions } }

    /// To be called before a time slice: another processor may have made room in the arena or the code buffer.
    mutating func synchronize() {
        guard seenEvictions != shared.evictions else { return }
        translations.forgetJumpTargets()
        forgetRecent()
        clearRecent()
        jumpOrigin = 0
        seenEvictions = shared.evictions
    }

    /// Instruction slot `slot`, which must be below the arena's capacity.
    @inline(__always)
    func instruction(_ slot: UInt32) -> UnsafeMutablePointer<DecodedInstruction> { unsafe slots.instruction(slot) }

    /// Whether more shall be known of the block in `slot` before it is translated. A function that calls itself runs for some time before it
    /// first returns. An indirect jump is come to from blocks that have run less often than its own; but for one that always loads its target
    /// from the same place, as calls of libraries do.
    func needsPatience(_ slot: UInt32) -> Bool {
        let header = unsafe header(slot)
        // SAFETY: the last one of a block's instructions.
        let last = unsafe index.slots.instruction(slot + UInt32(header.pointee.count)).pointee
        switch last.handler {
        case .call: return unsafe last.immediate == UInt64(header.pointee.pageOffset)
        case .jmpIndirect: return !last.isMemory || last.index != RegisterIndex.zero
        default: return false
        }
    }

    /// Header slot `slot`, which must be below the arena's capacity.
    @inline(__always)
    func header(_ slot: UInt32) -> UnsafeMutablePointer<BlockHeader> { unsafe slots.header(slot) }

    /// The slot number of an instruction.
    @inline(__always)
    func slot(of instruction: UnsafeMutablePointer<DecodedInstruction>) -> UInt32 { unsafe slots.slot(of: instruction) }

    /// The valid block at `physical` for `mode` and `set`.
    func find(_ physical: UInt64, _ mode: CodeMode, _ set: AccessSet) -> UInt32? { index.find(physical, mode, set) }

    /// The instruction at `physical` that begins with `start` and goes on in the next page.
    func crossing(_ physical: UInt64, _ mode: CodeMode, _ start: CodeWindow) -> CrossingInstruction? {
        guard let known = shared.crossings[Self.crossingIndex(physical)], known.physical == physical,
            known.mode == mode,
            known.start == start
        else { return nil }
        return known
    }

    func remember(_ crossing: CrossingInstruction) {
        shared.crossings[Self.crossingIndex(crossing.physical)] = crossing
    }

    /// What is known of the instruction that is in the scratch slots, which lies in two pages.
    func scratchCrossing() -> CrossingInstruction? {
        let physical = unsafe header(Self.scratch).pointee.physical
        guard let known = shared.crossings[Self.crossingIndex(physical)], known.physical == physical else { return nil }
        return known
    }

    /// Where the translation of `crossing` for `set` is, if it has one.
    func code(of crossing: CrossingInstruction, _ set: AccessSet) -> Int? {
        guard let header = unsafe header(of: crossing, set), unsafe header.pointee.code != 0 else { return nil }
        return unsafe Int(header.pointee.code)
    }

    /// Whether another thread translates `crossing` for `set`.
    func isAwaited(_ crossing: CrossingInstruction, _ set: AccessSet) -> Bool {
        unsafe header(of: crossing, set)?.pointee.isAwaited ?? false
    }

    /// That of the block that was made for the translation of `crossing` for `set`.
    private func header(of crossing: CrossingInstruction, _ set: AccessSet) -> UnsafeMutablePointer<BlockHeader>? {
        guard crossing.slot != 0 else { return nil }
        // SAFETY: what an instruction in two pages has is the slot of a header.
        let header = unsafe header(crossing.slot)
        return unsafe header.pointee.isBlock(at: crossing.physical, crossing.mode, set) ? header : nil
    }

    /// A block for the translation of `crossing`, which ends in the physical page `next`: the one that it has, or a new one. No block
    /// may be running.
    mutating func add(_ crossing: CrossingInstruction, _ next: UInt64, _ set: AccessSet) -> UInt32 {
        if unsafe header(of: crossing, set) != nil {
            shared.noteCode(next, count: crossing.instruction.nextPageOffset - 4096)
            return crossing.slot
        }
        _ = reserve()
        return shared.addCrossing(crossing.instruction, at: crossing.physical, next: next, set)
    }

    static func crossingIndex(_ physical: UInt64) -> Int {
        Int(truncatingIfNeeded: physical >> 12) & (crossingCount - 1)
    }

    /// The block that ran last at `linear` in this context, if no translation has changed since.
    @inline(__always)
    func findRecent(_ linear: UInt64, _ mode: CodeMode, _ set: AccessSet) -> UInt32? {
        let entry = unsafe recent + Self.recentIndex(linear)
        guard unsafe entry.pointee.linear == linear, unsafe entry.pointee.context == context(mode, set) else {
            return nil
        }
        return unsafe entry.pointee.slot
    }

    /// The block that ran last at `linear`, if that address leads to `physical` again: most processes come back to what they
    /// had before.
    func findFormer(_ linear: UInt64, _ physical: UInt64, _ mode: CodeMode, _ set: AccessSet) -> UInt32? {
        let entry = unsafe recent + Self.recentIndex(linear)
        guard unsafe entry.pointee.linear == linear, unsafe entry.pointee.slot != 0 else { return nil }
        let slot = unsafe entry.pointee.slot
        return unsafe header(slot).pointee.isBlock(at: physical, mode, set) ? slot : nil
    }

    mutating func remember(_ linear: UInt64, _ mode: CodeMode, _ set: AccessSet, _ slot: UInt32, isGlobal: Bool) {
        noteFetch(linear, set, isGlobal: isGlobal)
        unsafe recent[Self.recentIndex(linear)] = Recent(linear: linear, slot: slot, context: context(mode, set))
    }

    /// Something is known of the code in the page of `linear` for as long as this generation lasts.
    mutating func noteFetch(_ linear: UInt64, _ set: AccessSet, isGlobal: Bool) {
        if set != .user, !isGlobal { hasLocalSupervisorCode = true }
        noteFetch(linear, set)
    }

    /// The page of `linear` is one whose translation was found to fetch code.
    func noteFetch(_ linear: UInt64, _ set: AccessSet) {
        let area = Self.area(linear, Self.half(set))
        let bits = Self.pageBits(linear)
        for index in 0..<2 {
            let bit = bits[index]
            // SAFETY: the bits are below 4096, as many as an area has.
            unsafe pages[area &* Self.areaWords &+ Int(bit >> 6)] |= 1 << (bit & 63)
        }
    }

    func forget(_ linear: UInt64) {
        unsafe recent[Self.recentIndex(linear)] = Recent(linear: 0, slot: 0, context: 0)
    }

    @inline(__always)
    private static func recentIndex(_ linear: UInt64) -> Int {
        Int(truncatingIfNeeded: linear ^ (linear >> 12)) & (recentSize - 1)
    }

    @inline(__always)
    private func context(_ mode: CodeMode, _ set: AccessSet) -> UInt32 {
        UInt32(truncatingIfNeeded: generation(set)) << 4 | UInt32(mode.rawValue) << 2
            | UInt32(truncatingIfNeeded: set.rawValue)
    }

    /// A number that was no generation before.
    @inline(__always)
    func generation(_ set: AccessSet) -> UInt64 { generations[Self.half(set)] }

    @inline(__always)
    private static func half(_ set: AccessSet) -> Int { set == .user ? 0 : 1 }

    /// The part of `pages` for the page of `linear`: that of user code, or of the supervisor's at high addresses, where nearly all
    /// of it is, or at low ones, whose translations change often.
    private static func area(_ linear: UInt64, _ half: Int) -> Int { half == 0 || linear >> 63 != 0 ? half : 2 }

    /// The two bits there that are set when its code was found.
    private static func pageBits(_ linear: UInt64) -> InlineArray<2, UInt64> {
        let mixed = linear >> 12 &* 0x9e37_79b9_7f4a_7c15
        return [mixed >> 52, mixed >> 40 & 4095]
    }

    /// Translations changed: what was found by linear address holds no longer, but for that in global pages.
    mutating func forgetRecent(keepingGlobal: Bool = false) {
        forget(half: 0)
        translations.allowRevalidation(true)
        if !keepingGlobal || hasLocalSupervisorCode { forget(half: 1) }
    }

    /// The translation of one page changed.
    mutating func forgetRecent(page linear: UInt64) {
        let bits = Self.pageBits(linear)
        func isSet(_ bit: UInt64, _ half: Int) -> Bool {
            // SAFETY: as in `noteFetch`.
            unsafe pages[Self.area(linear, half) * Self.areaWords + Int(bit >> 6)] >> (bit & 63) & 1 != 0
        }
        for half in 0..<2 where isSet(bits[0], half) && isSet(bits[1], half) {
            forget(half: half)
            // The soft TLB has other pages still, which `pages` has no longer.
            if half == 0 { translations.allowRevalidation(false) }
        }
    }

    private mutating func forget(half: Int) {
        if half == 1 { hasLocalSupervisorCode = false }
        // SAFETY: as in `noteFetch`.
        let areas = half == 0 ? 1 : Self.areas - 1
        unsafe (pages + half &* Self.areaWords).update(repeating: 0, count: areas &* Self.areaWords)
        generations[half] &+= 1
        // `context` has the low bits, and 0 where there is nothing.
        if generations[half] & 0x0fff_ffff == 0 {
            generations[half] &+= 1
            clearRecent()
        }
    }

    private func clearRecent() {
        // SAFETY: it has as many elements.
        unsafe recent.update(repeating: Recent(linear: 0, slot: 0, context: 0), count: Self.recentSize)
    }

    /// Room for a block of `longestBlock` slots, made by forgetting others if need be. No block may be running.
    mutating func reserve() -> UInt32 {
        if !shared.arena.hasRoom {
            shared.evictBlocks()
            synchronize()
        }
        return UInt32(shared.arena.next)
    }

    /// Room in the code buffer for a block's translation, made by forgetting others if need be. No block may be running.
    mutating func reserve(for translator: Translator) {
        guard !translator.hasRoom else { return }
        shared.evictTranslations()
        synchronize()
    }

    /// Forgets every block. None may be running.
    mutating func empty() {
        shared.empty()
        synchronize()
    }

    /// Makes the block that was built at `slot` findable.
    func commit(_ slot: UInt32, slots: Int) {
        let header = unsafe header(slot)
        let physical = unsafe header.pointee.physical
        let bucket = unsafe BlockIndex.hash(physical, header.pointee.mode)
        unsafe header.pointee.hashNext = index.heads[bucket]
        unsafe index.heads[bucket] = slot
        shared.listInPage(slot)
        shared.arena.take(slots)
        shared.decoded += 1
    }

    /// The rest of a block from `slot` on, which the jump at `site` shall lead to.
    func source(ofRestAt slot: UInt32, site: Int, _ set: AccessSet) -> TranslationSource? {
        // SAFETY: a block's slots, up to the closing one.
        let end = (0...BlockTranslator.longest).first {
            unsafe slots.instruction(slot + UInt32($0)).pointee.handler == .endOfBlock
        }
        guard let count = end, count > 0 else { return nil }
        return TranslationSource(restAt: slot, count: count, site: site, set, slots)
    }

    /// The block in `slot`, and what may be joined to it of blocks that have run `heat` times, for its translation.
    /// - Parameter nextPage: the physical address of the next page, if that is known.
    func source(of slot: UInt32, heat: UInt8, nextPage: UInt64?) -> TranslationSource {
        let header = unsafe header(slot)
        return unsafe TranslationSource(
            slot,
            Neighbours(
                index: index, page: header.pointee.physical & ~4095, set: header.pointee.set, heat: heat,
                nextPage: nextPage.map { NextPage(physical: $0, shared: shared) }))
    }

    /// Makes every block of a page lead nowhere: one that is running stops at its next instruction.
    func invalidatePage(_ page: UInt64) { shared.invalidatePage(page) }

    /// Makes the blocks of a page that have bytes in `granules` lead nowhere.
    func invalidate(_ page: UInt64, granules: UInt64) { shared.invalidate(page, granules: granules) }
}
