// SPDX-License-Identifier: Apache-2.0
// Decoded code of a machine, and its translations: what its processors have in common.

import GuestMemory

/// What the translation of a block has of other blocks.
private struct JoinedCode {
    /// The granules of the block's own page.
    var granules: UInt64 = 0
    /// The page behind it, if there are some of that.
    var nextPage: UInt64?
}

/// Decoded code of a machine, and where it came from: what its processors have in common. They take turns on one thread.
@safe final class SharedCode {
    let physical: PhysicalMemory
    /// Keeps guest RAM mapped while there are pointers into it.
    private let memory: GuestMemory
    let arena: SlotArena
    let index: BlockIndex
    private var slots: BlockSlots { @inline(__always) get { index.slots } }
    /// Blocks decoded since power-on.
    var decoded = 0
    /// How often blocks or translations were forgotten to make room, or all for another reason.
    private(set) var evictions = 0
    /// How often blocks became invalid.
    private(set) var invalidations = 0
    /// Where blocks are translated.
    var translator: Translator?
    /// Compares translator and interpreter, with `--cpu-engine check`.
    private(set) var lockstep: Lockstep?
    /// Instructions that lie in two pages, by where they begin.
    var crossings = [CrossingInstruction?](repeating: nil, count: BlockCache.crossingCount)
    /// What translations have of other blocks, by the slots of the blocks that they are of.
    private var joined: [UInt32: JoinedCode] = [:]
    /// By pages, the blocks of other pages whose translations have code of them, and which granules of them.
    private var followers: [UInt64: [UInt32: UInt64]] = [:]
    /// The soft TLBs of all processors.
    private var translations: [TranslationBuffer] = []

    init(_ memory: GuestMemory, _ configuration: SoftwareConfiguration) {
        self.memory = memory
        physical = PhysicalMemory(memory)
        precondition(
            MemoryLayout<DecodedInstruction>.stride == BlockSlots.size
                && MemoryLayout<BlockHeader>.stride <= BlockSlots.size)
        arena = SlotArena(bytes: configuration.translationCache / 2, reserved: BlockCache.firstFree)
        index = BlockIndex(arena.slots)
        memory.observer = self
    }

    deinit {
        physical.deallocate()
        index.deallocate()
    }

    func add(_ buffer: TranslationBuffer) { translations.append(buffer) }

    /// Sends the first write of every processor to each page the slow way.
    func protectAll() {
        for buffer in translations { buffer.protectAll() }
    }

    /// To be called before the guest's RAM at `physical` changes, within its page.
    func willChange(_ physical: UInt64) {
        if memory.isFrozen { memory.preserve(GuestPhysicalAddress(physical)) }
        lockstep?.journal.note(physical)
    }

    func prepareCheck(reportPath: String?) {
        if lockstep == nil { lockstep = Lockstep(MemoryJournal(physical), reportPath: reportPath) }
    }

    /// From now on writes to these bytes of a page, from which code was decoded, are seen.
    func noteCode(_ address: UInt64, count: UInt64) {
        guard physical.isWritable(address) else { return }
        let mask = physical.codeMask(address)
        physical.setCodeMask(address, mask | PhysicalMemory.granules(offset: address & 4095, count: count))
        if mask == 0, physical.endWrites(address) { protect(frame: address & ~4095) }
    }

    /// Sends every processor's writes to the physical page `frame` the slow way from now on.
    func protect(frame: UInt64) {
        for buffer in translations { buffer.protect(frame: frame) }
    }

    /// Makes every block of a page lead nowhere: one that is running stops at its next instruction.
    func invalidatePage(_ page: UInt64) { invalidate(page, granules: .max) }

    /// Makes the blocks of a page that have bytes in `granules` lead nowhere.
    func invalidate(_ page: UInt64, granules: UInt64) {
        dropBlocks(page, granules: granules)
        physical.countChange(page)
        invalidations += 1
    }

    private func dropBlocks(_ page: UInt64, granules: UInt64) {
        translator?.noteChange(page)
        var slot = physical.blockHead(page)
        var head: UInt32 = 0
        var mask: UInt64 = 0
        while slot != 0 {
            let header = unsafe slots.header(slot)
            let next = unsafe header.pointee.pageNext
            let own = self.granules(slot)
            if own & granules != 0 {
                invalidateBlock(slot)
            } else {
                if unsafe header.pointee.hasJoined, let others = joined[slot]?.granules {
                    if others & granules != 0 { forgetTranslation(slot) } else { mask |= others }
                }
                mask |= own
                unsafe header.pointee.pageNext = head
                head = slot
            }
            slot = next
        }
        for (follower, own) in followers[page] ?? [:] {
            if own & granules != 0 { forgetTranslation(follower) } else { mask |= own }
        }
        physical.setBlockHead(page, head)
        physical.setCodeMask(page, mask)
    }

    /// The granules of its page that a block's bytes touch.
    private func granules(_ slot: UInt32) -> UInt64 {
        let header = unsafe slots.header(slot)
        let count = unsafe end(slot) &- UInt64(header.pointee.pageOffset)
        return unsafe PhysicalMemory.granules(offset: header.pointee.physical & 4095, count: count)
    }

    /// Where a block ends, an offset from the page base.
    private func end(_ slot: UInt32) -> UInt64 {
        let count = unsafe UInt32(max(slots.header(slot).pointee.count, 0))
        // SAFETY: a block's instructions follow its header, one slot each, with a closing one that says where it ends.
        return unsafe UInt64(slots.instruction(slot + 1 + count).pointee.pageOffset)
    }

    #if arch(x86_64) && os(Linux)
        /// A block, or the rest of one, runs translated from now on. Returns where the block's code is, or nil if it is of no use: there was
        /// no room, or something that it was made of has changed since.
        /// - Parameter isStale: whether the next page has.
        func install(_ translation: TranslatedBlock, isStale: Bool = false) -> Int? {
            let source = translation.source
            guard source.site == nil else {
                // If the block has changed nobody comes to the jump any more.
                if translation.entry != 0 { translator?.add(translation) }
                return nil
            }
            let header = unsafe slots.header(source.block.slot)
            unsafe header.pointee.isAwaited = false
            guard translation.entry != 0 else { return nil }
            guard !isStale, unsafe header.pointee.isValid, unsafe header.pointee.code == 0,
                translation.joined.allSatisfy({ unsafe slots.header($0).pointee.isValid })
            else {
                translator?.noteUseless()
                return nil
            }
            translator?.add(translation)
            join(source.block.slot, translation.joined, nextPage: source.nextPage)
            unsafe header.pointee.code = UInt32(translation.entry)
            return translation.entry
        }
    #endif

    /// No translation that is under way is wanted any more.
    private func giveUpTranslations() {
        for slot in translator?.giveUp() ?? [] { unsafe slots.header(slot).pointee.isAwaited = false }
    }

    /// The translation of the block in `slot` has the blocks in `others` in it, and ends with any of them.
    /// - Parameter nextPage: the page that some of them are copies from (`NextPage`).
    private func join(_ slot: UInt32, _ others: [UInt32], nextPage: UInt64?) {
        var code = JoinedCode()
        var following: UInt64 = end(slot) > 4096 ? 1 : 0
        for other in others {
            if unsafe slots.header(other).pointee.pageOffset >= 4096 {
                following |= granules(other)
            } else {
                code.granules |= granules(other)
                if end(other) > 4096 { following |= 1 }
            }
        }
        guard !others.isEmpty || following != 0 else { return }
        if following != 0, let nextPage {
            if unsafe slots.header(slot).pointee.physical & ~4095 == nextPage {
                code.granules |= following
            } else {
                code.nextPage = nextPage
                followers[nextPage, default: [:]][slot] = following
            }
        }
        joined[slot] = code
        unsafe slots.header(slot).pointee.hasJoined = true
    }

    /// The block stays as it is, for others have it in their translations, too.
    private func forgetTranslation(_ slot: UInt32) {
        let header = unsafe slots.header(slot)
        if unsafe header.pointee.code != 0 { unsafe translator?.invalidate(Int(header.pointee.code)) }
        noteForgotten(slot)
    }

    /// The block in `slot` has no translation any more.
    private func noteForgotten(_ slot: UInt32) {
        let header = unsafe slots.header(slot)
        unsafe header.pointee.code = 0
        if unsafe header.pointee.hasJoined, let page = joined.removeValue(forKey: slot)?.nextPage {
            followers[page]?[slot] = nil
            if followers[page]?.isEmpty == true { followers[page] = nil }
        }
        unsafe header.pointee.hasJoined = false
    }

    private func invalidateBlock(_ slot: UInt32) {
        let header = unsafe slots.header(slot)
        guard unsafe header.pointee.isValid else { return }
        let count = unsafe UInt32(max(header.pointee.count, 0))
        for position in 0...count {
            // SAFETY: as above.
            unsafe slots.instruction(slot + 1 + position).pointee.handler = .blockInvalid
        }
        unsafe header.pointee.isValid = false
        forgetTranslation(slot)
        // Links to it are not followed: no time slice is that long.
        unsafe header.pointee.count = .max
        unlinkHash(slot)
    }

    /// Takes a block out of the chain of its hash.
    private func unlinkHash(_ slot: UInt32) {
        let header = unsafe slots.header(slot)
        let bucket = unsafe BlockIndex.hash(header.pointee.physical, header.pointee.mode)
        // SAFETY: the hash is below the table's size; slots in a chain are headers.
        if unsafe index.heads[bucket] == slot {
            unsafe index.heads[bucket] = header.pointee.hashNext
            return
        }
        var before = unsafe index.heads[bucket]
        while before != 0, unsafe slots.header(before).pointee.hashNext != slot {
            before = unsafe slots.header(before).pointee.hashNext
        }
        if before != 0 { unsafe slots.header(before).pointee.hashNext = header.pointee.hashNext }
    }

    /// Forgets every block. None may be running.
    func empty() {
        guard !arena.isEmpty else { return }
        evictions += 1
        invalidations += 1
        giveUpTranslations()
        arena.empty()
        translator?.empty()
        joined.removeAll(keepingCapacity: true)
        followers.removeAll(keepingCapacity: true)
        forgetCrossingBlocks()
        // SAFETY: it has as many elements.
        index.clear()
        physical.forgetCode()
    }

    /// Makes room in the arena: the blocks that were decoded first are forgotten, and with them all of their pages, some of
    /// which may lead to them. None may be running.
    func evictBlocks() {
        let evicted = arena.advance()
        guard !evicted.isEmpty else { return }
        evictions += 1
        giveUpTranslations()
        forgetCrossingBlocks()
        for slot in evicted {
            let header = unsafe slots.header(slot)
            if unsafe header.pointee.isValid { unsafe dropBlocks(header.pointee.physical & ~4095, granules: .max) }
        }
    }

    /// Makes room in the code buffer: the oldest translations are forgotten. No block may be running.
    func evictTranslations() {
        giveUpTranslations()
        guard let evicted = translator?.evictOldest(), !evicted.isEmpty else { return }
        evictions += 1
        for slot in evicted { noteForgotten(slot) }
    }

    /// The slots of instructions in two pages may be others' from now on.
    private func forgetCrossingBlocks() {
        for index in crossings.indices { crossings[index]?.slot = 0 }
    }

    /// Makes a block for translations of `instruction`, which begins at `address` and ends in the physical page `next`. The arena
    /// has room for it.
    func addCrossing(
        _ instruction: DecodedInstruction, at address: UInt64, next: UInt64, _ set: AccessSet
    ) -> UInt32 {
        slots.fill(UInt32(arena.next), instruction)
        noteCode(next, count: instruction.nextPageOffset - 4096)
        let slot = add(count: 1, from: address, at: instruction.pageOffset, end: 4096, set)
        listInPage(slot)
        return slot
    }

    /// The block in `slot` becomes invalid with its page, or bytes of its own there.
    func listInPage(_ slot: UInt32) {
        let header = unsafe slots.header(slot)
        let address = unsafe header.pointee.physical
        unsafe header.pointee.pageNext = physical.blockHead(address)
        physical.setBlockHead(address, slot)
    }

    /// Makes the `count` instructions behind the first free slot a block for translations, which nothing else finds.
    /// - Parameters:
    ///   - address: where their first byte lies, whose offset from the page base is `offset`.
    ///   - end: the offset at which they, or their page, ends.
    func add(count: Int, from address: UInt64, at offset: UInt16, end: UInt64, _ set: AccessSet) -> UInt32 {
        let slot = UInt32(arena.next)
        let header = BlockHeader(
            physical: address, count: Int32(count), pageOffset: offset, mode: .bits64, set: set)
        // SAFETY: the first free slot.
        unsafe slots.header(slot).initialize(to: header)
        arena.take(count + 2)
        noteCode(address, count: end - UInt64(offset))
        return slot
    }
}

extension SharedCode: MemoryObserver {
    /// Devices write guest memory: code that was decoded from there is no longer what the guest has.
    func memoryChanges(_ address: GuestPhysicalAddress, count: UInt64) {
        var position = address.rawValue
        let (end, overflow) = position.addingReportingOverflow(count)
        guard !overflow, !arena.isEmpty else { return }
        while position < end, unsafe physical.pointer(position) != nil {
            let next = min(end, (position | 4095) + 1)
            let mask = physical.codeMask(position)
            let granules = PhysicalMemory.granules(offset: position & 4095, count: next - position)
            if mask & granules != 0 { invalidate(position & ~4095, granules: granules) }
            position = next
        }
    }
}
