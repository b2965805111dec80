// SPDX-License-Identifier: Apache-2.0
// The translator of a machine: its code buffer, and the code of blocks in it.

#if arch(x86_64) && os(Linux)
    internal import Host
    internal import Synchronization

    /// Translated code of a machine's blocks. Like the blocks, it belongs to the thread that runs the processors.
    @safe final class Translator {
        /// How often nothing may have come before the other thread is late: some tenths of a millisecond, for each call is for a block
        /// that is interpreted.
        private static let mostCallsInVain = 6000
        /// How many blocks are translated here when it was late, first and at most.
        private static let absences = 64...8192
        /// So many answers in time halve that.
        private static let promptAnswers = 256

        let queue: TranslationQueue
        let buffer: CodeBuffer
        private let routines: SharedRoutines
        /// Whether blocks are translated on another thread.
        private(set) var isBeside: Bool
        private var thread: StartedThread?
        /// What was asked for, and has not come.
        private struct Awaited {
            let source: TranslationSource
            /// The next page has other code by now.
            var isStale = false
        }
        private var awaited: [Awaited] = []
        /// How much was asked for and has not been answered, whether it is given up or not.
        private var unanswered = 0
        private var callsInVain = 0
        /// How many blocks are still translated here, for the host has had better things to do than to run the other thread.
        private var absence = 0
        private var nextAbsence = absences.lowerBound
        private var prompt = 0
        /// Another thread had no room for a block.
        private var lacksRoom = false
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
        /// - Parameters:
        ///   - size: bytes for code.
        ///   - isBeside: whether to translate on another thread, with the first block that is.
        init?(_ core: SharedRoutines.CoreOffsets, size: Int, leavesSystem: Bool, isBeside: Bool) {
            guard let writer = CodeWriter(core, size: size, leavesSystem: leavesSystem) else { return nil }
            buffer = writer.buffer
            routines = writer.routines
            queue = TranslationQueue(writer)
            self.isBeside = isBeside
        }

        deinit {
            queue.close()
            thread.take()?.join()
            buffer.deallocate()
        }

        /// Whether there is room for another block. Otherwise `evictOldest` makes it.
        var hasRoom: Bool { isBeside && !lacksRoom || queue.writer.withLock { $0.hasRoom } }

        /// Goes on in the piece that is empty, or was filled first. Returns the blocks that the code there was the translation of, and
        /// is no more. What may lead there but by links must be forgotten, too, and nothing be asked for.
        func evictOldest() -> [UInt32] {
            precondition(awaited.isEmpty)
            lacksRoom = false
            let evicted = entries.advance()
            // Another thread may fill the piece anew from then on.
            defer { queue.writer.withLock { $0.begin(piece: entries.present) } }
            guard !evicted.isEmpty else { return [] }
            for entry in evicted { unlink(entry) }
            let range = CodeWriter.range(ofPiece: entries.present, buffer)
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

        /// Translates a block, with those that are joined to it, here and now. Nil while another thread does so with some other one.
        func translate(_ source: TranslationSource) -> TranslatedBlock? {
            let translation = queue.writer.withLockIfAvailable { $0.translate(source) }
            if let translation {
                absence = max(0, absence - 1)
                lacksRoom = translation.entry == 0
            }
            return translation
        }

        /// Has a block translated on another thread. Returns whether it will be: too much may be asked for already, or the host not run
        /// that thread.
        func ask(for source: TranslationSource) -> Bool {
            guard isBeside, absence == 0, unanswered < TranslationQueue.capacity else { return false }
            if thread == nil {
                thread = queue.start()
                guard thread != nil else {
                    isBeside = false
                    return false
                }
            }
            guard queue.ask(for: source) else { return false }
            unanswered += 1
            awaited.append(Awaited(source: source))
            return true
        }

        /// Whether the rest of a block has been asked for that the jump at `site` shall lead to.
        func isAwaited(_ site: Int) -> Bool { awaited.contains { $0.source.site == site } }

        /// Control has come to a block that was asked for.
        func want(_ slot: UInt32) { queue.want(slot) }

        /// Whether the other thread does not come to run: what was asked for had better be translated here, and nothing is asked for
        /// for some time.
        func isLate() -> Bool {
            guard callsInVain > Self.mostCallsInVain else { return false }
            if absence == 0 {
                absence = nextAbsence
                nextAbsence = min(nextAbsence * 2, Self.absences.upperBound)
                prompt = 0
            }
            return true
        }

        /// Something that was asked for and has come, and whether it is of no use any more.
        func takeTranslation() -> (translation: TranslatedBlock, isStale: Bool)? {
            while unanswered > 0 {
                guard let translation = queue.takeAnswer() else {
                    callsInVain += 1
                    return nil
                }
                callsInVain = 0
                unanswered -= 1
                prompt += 1
                if prompt == Self.promptAnswers {
                    prompt = 0
                    nextAbsence = max(nextAbsence / 2, Self.absences.lowerBound)
                }
                // Others have been given up.
                guard let index = awaited.firstIndex(where: { $0.source === translation.source }) else { continue }
                counts.translatedBeside += 1
                if translation.entry == 0 { lacksRoom = true }
                return (translation, awaited.remove(at: index).isStale)
            }
            return nil
        }

        /// Nothing that was asked for is wanted any more. Returns the slots of the headers of those blocks.
        func giveUp() -> [UInt32] {
            defer { awaited.removeAll(keepingCapacity: true) }
            return awaited.map(\.source).filter { $0.site == nil }.map(\.block.slot)
        }

        /// The code in a page became invalid.
        func noteChange(_ page: UInt64) {
            for index in awaited.indices where awaited[index].source.nextPage == page { awaited[index].isStale = true }
        }

        /// The code of a translation is run from now on.
        func add(_ translation: TranslatedBlock) {
            entries.append(translation.entry)
            counts.translations += 1
            if translation.hasStreams { counts.walkingLoops += 1 }
            counts.inlinedCalls += translation.inlinedCalls
            counts.expectedJumps += translation.expectedJumps
            counts.joins += UInt64(translation.joined.count)
            if let site = translation.source.site {
                link(site, to: translation.entry)
                counts.tails += 1
            }
        }

        /// A translation was made of code that has changed since.
        func noteUseless() { counts.useless += 1 }

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

        /// Forgets all code. Nothing may be asked for.
        func empty() {
            precondition(awaited.isEmpty)
            entries.empty()
            queue.writer.withLock { $0.begin(piece: 0) }
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
        func giveUp() -> [UInt32] { [] }
        func noteChange(_ page: UInt64) {}
    }
#endif

/// What was done, for `--stats`.
struct TranslatorCounts {
    var translations: UInt64 = 0
    /// Of those, and of others that were of no use any more, the ones that another thread made.
    var translatedBeside: UInt64 = 0
    var useless: UInt64 = 0
    var links: UInt64 = 0
    var tails: UInt64 = 0
    var joins: UInt64 = 0
    var walkingLoops: UInt64 = 0
    var inlinedCalls: UInt64 = 0
    var expectedJumps: UInt64 = 0
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
