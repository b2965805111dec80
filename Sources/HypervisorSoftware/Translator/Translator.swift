// SPDX-License-Identifier: Apache-2.0
// The translator of a machine: its code buffer, and the code of blocks in it.

#if arch(x86_64) && os(Linux)
    internal import CHost

    /// Translated code of a machine's blocks. Like the blocks, it belongs to the thread that runs the processors.
    @safe final class Translator {
        /// Room that a block may need in each section.
        private static let largestBlock = 64 << 10
        private static let farTargetsInPiece = ContextLayout.farTargetCount / Pieces<Int>.count

        let buffer: CodeBuffer
        private let routines: SharedRoutines
        /// For a check: system instructions are the interpreter's.
        private let leavesSystem: Bool
        /// What is free of the present piece, for straight paths and for what lies beside them.
        private var straight = 0..<0
        private var beside = 0..<0
        private var provisions = (straight: Provision(step: provision), beside: Provision(step: provision))
        /// Bytes that it is asked for at a time.
        private static let provision = 128 << 10
        /// The far targets of each context that are free for it.
        private var farTargets = 0..<0
        /// The entries of the code. Where all pieces are full, the one that was filled first is filled anew.
        private var entries = Pieces<Int>()
        /// How often control came to code that had become invalid: what led there must look its target up again.
        private(set) var detours: UInt64 = 0
        private(set) var counts = TranslatorCounts()
        /// A jump or call that was linked: where its displacement is, and where it led to before.
        private struct Link {
            var site: Int
            var unlinked: Int
        }

        /// The links that lead to each block.
        private var incoming: [Int: [Link]] = [:]

        /// Nil where the host cannot run what would be translated: its processor must have what guests have.
        /// - Parameter size: bytes for code.
        init?(_ core: SharedRoutines.CoreOffsets, size: Int, leavesSystem: Bool) {
            precondition(size / Pieces<Int>.count >= 4 * Self.largestBlock)
            guard chost_has_x86_64_v2() != 0, let buffer = CodeBuffer(size: size) else { return nil }
            self.buffer = buffer
            self.leavesSystem = leavesSystem
            // SAFETY: the assembler stays below the buffer's size.
            var code = unsafe Assembler(buffer.writable, size: size, section: 0..<size)
            routines = SharedRoutines(&code, core, hasRotate: chost_has_bmi2() != 0)
            beginPiece()
        }

        deinit { buffer.deallocate() }

        /// Where the present piece lies.
        private var piece: Range<Int> {
            let size = buffer.size / Pieces<Int>.count
            return entries.present * size..<(entries.present + 1) * size
        }

        /// The next code is the first of the present piece: five eighths of it are for straight paths.
        private func beginPiece() {
            let number = entries.present
            let middle = piece.lowerBound + piece.count / 8 * 5
            straight = (number == 0 ? routines.end : piece.lowerBound)..<middle
            beside = middle..<piece.upperBound
            farTargets = number * Self.farTargetsInPiece..<(number + 1) * Self.farTargetsInPiece
            provisions.straight.begin(at: straight.lowerBound)
            provisions.beside.begin(at: beside.lowerBound)
        }

        /// Has the host provide pages for the next code.
        private func provide(_ section: Range<Int>, _ provision: inout Provision) {
            let needed = section.lowerBound + Self.provision / 4
            if let range = provision.next(before: needed, limit: section.upperBound) { buffer.provide(range) }
        }

        /// Whether there is room for another block. Otherwise `evictOldest` makes it.
        var hasRoom: Bool { min(straight.count, beside.count) >= Self.largestBlock }

        /// Goes on in the piece that is empty, or was filled first. Returns the blocks that the code there was the translation of, and
        /// is no more. What may lead there but by links must be forgotten, too.
        func evictOldest() -> [UInt32] {
            let evicted = entries.advance()
            beginPiece()
            guard !evicted.isEmpty else { return [] }
            let range = piece
            for entry in evicted { unlink(entry) }
            incoming = incoming.compactMapValues { links in
                guard links.contains(where: { range.contains($0.site) }) else { return links }
                let others = links.filter { !range.contains($0.site) }
                return others.isEmpty ? nil : others
            }
            return evicted.map(owner).filter { $0 != CodeEntry.noOwner }
        }

        /// The block that the code at `entry` is the translation of, if it is valid.
        private func owner(_ entry: Int) -> UInt32 {
            // SAFETY: in front of each entry.
            unsafe UnsafeRawPointer(buffer.writable + entry + CodeEntry.ownerOffset).load(as: UInt32.self)
        }

        /// Translates the block whose header is `slot`, with those that it leads to in its page, or in the next one, if they have run
        /// `heat` times. Returns where the code is, or 0 if it has not worked out.
        /// - Parameter nextPage: the physical address of the next page, if that is known.
        func translate(_ slot: UInt32, heat: UInt8, nextPage: UInt64?, _ blocks: BlockCache) -> Int {
            let header = unsafe blocks.header(slot)
            let count = unsafe Int(header.pointee.count)
            let set = unsafe header.pointee.set
            let neighbours = unsafe Neighbours(
                index: blocks.index, page: header.pointee.physical & ~4095, set: set, heat: heat,
                nextPage: nextPage.map(blocks.nextPage))
            let slots = blocks.index.slots
            var joined: [UInt32] = []
            let entry = write(set, neighbours) { block in
                // SAFETY: the slots of blocks and their closing slots.
                let entry = block.translate(slot + 1, count: count, owner: slot) {
                    unsafe slots.instruction($0).pointee
                }
                joined = block.joined
                return entry
            }
            if entry != 0 {
                blocks.join(slot, joined, nextPage: nextPage)
                counts.joins += UInt64(joined.count)
            }
            return entry
        }

        /// Has code written by `body`, which returns where to enter it.
        /// - Parameter neighbours: nil to have each access by itself, and no block joined.
        private func write(
            _ set: AccessSet, _ neighbours: Neighbours? = nil, _ body: (inout BlockTranslator) -> Int
        ) -> Int {
            provide(straight, &provisions.straight)
            provide(beside, &provisions.beside)
            // SAFETY: as above.
            let code = unsafe Assembler(buffer.writable, size: buffer.size, section: straight, other: beside)
            var block = BlockTranslator(
                code, routines, set, farTargets: farTargets, leavesSystem: leavesSystem, neighbours: neighbours)
            let entry = body(&block)
            guard !block.code.overflowed else { return 0 }
            straight = block.code.position..<straight.upperBound
            beside = block.code.otherPosition..<beside.upperBound
            farTargets = block.farTargets
            if block.hasStreams { counts.walkingLoops += 1 }
            counts.inlinedCalls += block.inlinedCalls
            entries.append(entry)
            counts.translations += 1
            return entry
        }

        /// Writes where code is already.
        private var patching: Assembler { unsafe Assembler(buffer.writable, size: buffer.size) }

        /// Makes a jump in one block lead to another.
        func link(_ site: Int, to code: Int) {
            incoming[code, default: []].append(Link(site: site, unlinked: patching.target(site)))
            patching.link(site, to: code)
            counts.links += 1
        }

        /// The jumps that were linked to `code` lead where they did before.
        private func unlink(_ code: Int) {
            for link in incoming.removeValue(forKey: code) ?? [] { patching.link(link.site, to: link.unlinked) }
        }

        /// Translates the rest of a block from `slot` on without groups, and makes a jump in the block lead there. The code
        /// is the block's: nothing else leads to it.
        func translateTail(_ slot: UInt32, _ site: Int, _ set: AccessSet, _ blocks: BlockCache) {
            let slots = blocks.index.slots
            // SAFETY: a block's slots, up to the closing one.
            let end = (0...BlockTranslator.longest).first {
                unsafe slots.instruction(slot + UInt32($0)).pointee.handler == .endOfBlock
            }
            guard hasRoom, let count = end, count > 0 else { return }
            let tail = write(set) { block in
                // SAFETY: the slots of a block and its closing slot.
                block.translate(slot, count: count, owner: CodeEntry.noOwner) {
                    unsafe slots.instruction($0).pointee
                }
            }
            guard tail != 0 else { return }
            link(site, to: tail)
            counts.tails += 1
        }

        /// The block whose code is at `code` is no longer what the guest has: whoever comes there leaves.
        func invalidate(_ code: Int) {
            let front = code - CodeEntry.size
            // SAFETY: in front of each entry; both lie in the buffer, and so does the jump.
            let detour = unsafe UnsafeRawPointer(buffer.writable + code + CodeEntry.detourOffset).load(as: Int32.self)
            var assembler = unsafe Assembler(
                buffer.writable, size: buffer.size, section: front..<code + BlockTranslator.shortestBlock)
            assembler.doubleWord(Int32(bitPattern: CodeEntry.noOwner))
            assembler.doubleWord(detour)
            assembler.jump(Int(detour))
            unlink(code)
        }

        /// Control came to invalid code.
        func noteDetour() { detours += 1 }

        /// Forgets all code.
        func empty() {
            entries.empty()
            beginPiece()
            incoming.removeAll(keepingCapacity: true)
        }

        /// Runs code until it is left.
        @inline(__always)
        func enter(_ context: UnsafeMutableRawPointer, _ code: Int) {
            typealias Enter = @convention(c) (UnsafeMutableRawPointer, UnsafeRawPointer) -> Void
            // SAFETY: the routine was written by `SharedRoutines` to be called like that; `code` is a block's entry.
            let enter = unsafe unsafeBitCast(buffer.executable + routines.enter, to: Enter.self)
            unsafe enter(context, buffer.executable + code)
        }

        /// Some bytes of code from `entry` on, for a report.
        func bytes(at entry: Int, count: Int) -> [UInt8] {
            // SAFETY: no further than the buffer.
            unsafe Array(UnsafeBufferPointer(start: buffer.writable + entry, count: min(count, buffer.size - entry)))
        }

        /// The host address of a block's entry.
        func address(_ code: Int) -> UInt64 { unsafe UInt64(UInt(bitPattern: buffer.executable + code)) }
    }
#else
    /// There is no translator for this host.
    final class Translator {
        let counts = TranslatorCounts()
        let hasRoom = true

        func invalidate(_ code: Int) {}
        func empty() {}
        func evictOldest() -> [UInt32] { [] }
    }
#endif

/// What was done, for `--stats`.
struct TranslatorCounts {
    var translations: UInt64 = 0
    var links: UInt64 = 0
    var tails: UInt64 = 0
    var joins: UInt64 = 0
    var walkingLoops: UInt64 = 0
    var inlinedCalls: UInt64 = 0
}

/// What a processor did, for `--stats`.
struct EngineCounts {
    var interpretedBlocks: UInt64 = 0
    var entries: UInt64 = 0
    var dispatches: UInt64 = 0
    var interpretations: UInt64 = 0
    var stops: UInt64 = 0
    var helperCalls: UInt64 = 0
    var walks: UInt64 = 0

    mutating func add(_ other: EngineCounts) {
        interpretedBlocks += other.interpretedBlocks
        entries += other.entries
        dispatches += other.dispatches
        interpretations += other.interpretations
        stops += other.stops
        helperCalls += other.helperCalls
        walks += other.walks
    }
}

/// The table in the context that leads from linear addresses to code.
enum JumpTable {
    /// The bits of an address that say which entry it has are those from this one on: few addresses that are jumped to lie
    /// closer together.
    private static let lowestBit = 3
    /// The byte offset in the table of an entry is an address shifted left by this and masked with `indexMask`.
    static let indexShift = UInt8(ContextLayout.jumpEntrySize.trailingZeroBitCount - lowestBit)
    static let indexMask = Int32(((1 << ContextLayout.jumpIndexBits) - 1) * ContextLayout.jumpEntrySize)

    /// The second place of an address is its product with this, masked with `indexMask`: those of addresses close to each other
    /// are not.
    static let multiplier = Int32(bitPattern: 0x9e37_79b1)

    /// Where the context has the host address of the code's page for the entry at `place`, an offset in the table.
    static func hosts(_ place: Int) -> Int {
        ContextLayout.jumpHosts + place / ContextLayout.jumpEntrySize * ContextLayout.jumpHostSize
    }

    /// The byte offset in the table of the first place for `linear`.
    static func offset(_ linear: UInt64) -> Int {
        Int(Int32(truncatingIfNeeded: linear << UInt64(indexShift)) & indexMask)
    }

    /// That of the second one.
    static func secondOffset(_ linear: UInt64) -> Int {
        Int(Int32(truncatingIfNeeded: linear) &* multiplier & indexMask)
    }
}
