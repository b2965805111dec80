// SPDX-License-Identifier: Apache-2.0
// Writes translations into the code buffer, a piece after another.

#if arch(x86_64) && os(Linux)
    internal import CHost

    /// Where the next translations go. It knows nothing of blocks but what it is given.
    struct CodeWriter: Sendable {
        /// Room that a block may need in each section.
        private static let largestBlock = 64 << 10
        private static let farTargetsInPiece = ContextLayout.farTargetCount / Pieces<Int>.count
        /// Bytes that the host is asked for at a time.
        private static let provision = 128 << 10

        let buffer: CodeBuffer
        let routines: SharedRoutines
        /// For a check: system instructions are the interpreter's.
        private let leavesSystem: Bool
        /// What is free of the present piece, for straight paths and for what lies beside them.
        private var straight = 0..<0
        private var beside = 0..<0
        private var provisions = (straight: Provision(step: provision), beside: Provision(step: provision))
        /// The far targets of each context that are free for it.
        private var farTargets = 0..<0

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
            begin(piece: 0)
        }

        /// Where the piece `number` lies.
        static func range(ofPiece number: Int, _ buffer: CodeBuffer) -> Range<Int> {
            let size = buffer.size / Pieces<Int>.count
            return number * size..<(number + 1) * size
        }

        /// The next code is the first of the piece `number`: five eighths of it are for straight paths.
        mutating func begin(piece number: Int) {
            let piece = Self.range(ofPiece: number, buffer)
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

        /// Whether there is room for another block.
        var hasRoom: Bool { min(straight.count, beside.count) >= Self.largestBlock }

        /// Translates a block with those that are joined to it, or the rest of one.
        mutating func translate(_ source: TranslationSource) -> TranslatedBlock {
            var translation = TranslatedBlock(source: source)
            guard hasRoom else { return translation }
            provide(straight, &provisions.straight)
            provide(beside, &provisions.beside)
            let isRest = source.site != nil
            // SAFETY: as above.
            let code = unsafe Assembler(buffer.writable, size: buffer.size, section: straight, other: beside)
            var block = BlockTranslator(
                code, routines, source.set, farTargets: farTargets, leavesSystem: leavesSystem,
                neighbours: isRest ? nil : source)
            let entry = block.translate(
                source.block.slot + 1, count: source.block.count, owner: isRest ? CodeEntry.noOwner : source.block.slot,
                source.instruction)
            guard !block.code.overflowed else { return translation }
            straight = block.code.position..<straight.upperBound
            beside = block.code.otherPosition..<beside.upperBound
            farTargets = block.farTargets
            translation.entry = entry
            translation.joined = block.joined
            translation.hasStreams = block.hasStreams
            translation.inlinedCalls = block.inlinedCalls
            translation.expectedJumps = block.expectedJumps
            return translation
        }
    }
#endif

/// Code that was written for a block.
struct TranslatedBlock: Sendable {
    let source: TranslationSource
    /// Where to enter it; 0 where there was no room for it.
    var entry = 0
    /// The slots of the headers of blocks that are in it, too.
    var joined: [UInt32] = []
    /// Whether it has a copy for accesses that run through pages.
    var hasStreams = false
    /// Calls whose functions are in it.
    var inlinedCalls: UInt64 = 0
    var expectedJumps: UInt64 = 0
}
