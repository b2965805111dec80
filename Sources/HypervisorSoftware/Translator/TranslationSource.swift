// SPDX-License-Identifier: Apache-2.0
// What a translation is made of: copies of decoded instructions, so that another thread may translate while they change.

/// A block, and those that it leads to and that may be joined to it.
final class TranslationSource: Sendable {
    /// Most instructions beside those of the block itself: some more than are joined, for who plans chooses among them.
    private static let mostInstructions = 120
    /// Most blocks.
    private static let mostBlocks = 32

    private struct Block {
        let neighbour: Neighbour
        /// Where it begins, an offset from the page base.
        let target: UInt64
    }

    let set: AccessSet
    /// The physical address of the block's page.
    let page: UInt64
    /// The page behind it, if that is known.
    let nextPage: UInt64?
    /// For the rest of a block, the place of the jump that shall lead there: each access by itself, and no block joined.
    let site: Int?
    private let blocks: [Block]
    /// Those of all blocks, each with its closing slot.
    private let instructions: [DecodedInstruction]

    /// The block whose header is `slot`, and of its neighbours those that run as often as they should.
    init(_ slot: UInt32, _ neighbours: Neighbours) {
        set = neighbours.set
        page = neighbours.page
        nextPage = neighbours.nextPage?.physical
        site = nil
        let slots = neighbours.index.slots
        let header = unsafe slots.header(slot)
        let start = unsafe UInt64(header.pointee.pageOffset)
        let count = unsafe min(Int(header.pointee.count), BlockTranslator.longest)
        var blocks = [Block(neighbour: Neighbour(slot: slot, count: count), target: start)]
        var size = count + 1
        var ways = Ways()
        ways.addEnd(of: blocks[0].neighbour, slots)
        while size < count + Self.mostInstructions, blocks.count < Self.mostBlocks {
            guard let target = ways.next(blocks, slots) else { break }
            guard !blocks.contains(where: { $0.target == target }), let block = neighbours.find(target) else {
                continue
            }
            blocks.append(Block(neighbour: block, target: target))
            size += block.count + 1
            ways.addEnd(of: block, slots)
        }
        self.blocks = blocks
        instructions = Self.copy(blocks, slots, size)
    }

    /// The rest of a block, `count` instructions from `slot` on, which the jump at `site` shall lead to.
    init(restAt slot: UInt32, count: Int, site: Int, _ set: AccessSet, _ slots: BlockSlots) {
        self.set = set
        page = 0
        nextPage = nil
        self.site = site
        // SAFETY: a block's instruction.
        let start = unsafe UInt64(slots.instruction(slot).pointee.pageOffset)
        blocks = [Block(neighbour: Neighbour(slot: slot - 1, count: count), target: start)]
        instructions = Self.copy(blocks, slots, count + 1)
    }

    private static func copy(_ blocks: [Block], _ slots: BlockSlots, _ size: Int) -> [DecodedInstruction] {
        var instructions: [DecodedInstruction] = []
        instructions.reserveCapacity(size)
        for block in blocks {
            // SAFETY: a block's instructions follow its header, and the closing slot them.
            unsafe instructions.append(
                contentsOf: UnsafeBufferPointer(
                    start: slots.instruction(block.neighbour.slot + 1), count: block.neighbour.count + 1))
        }
        return instructions
    }

    /// Where blocks lead, in the order of `UnitPlanner`: what is at a block's end first, then what is behind jumps.
    private struct Ways {
        private static let mostEnds = 8
        private var ends = InlineArray<8, UInt64>(repeating: 0)
        private var endCount = 0
        /// Up to which instruction of which block the jumps have been taken.
        private var block = 0
        private var position = 0

        mutating func next(_ blocks: [Block], _ slots: BlockSlots) -> UInt64? {
            if endCount > 0 {
                endCount -= 1
                return ends[endCount]
            }
            while block < blocks.count {
                let neighbour = blocks[block].neighbour
                while position < neighbour.count {
                    position += 1
                    // SAFETY: a block's instructions follow its header.
                    let i = unsafe slots.instruction(neighbour.slot + UInt32(position))
                    if unsafe i.pointee.handler.isConditionalJump { return unsafe i.pointee.immediate }
                }
                block += 1
                position = 0
            }
            return nil
        }

        mutating func addEnd(of block: Neighbour, _ slots: BlockSlots) {
            // SAFETY: as above, and the closing slot behind them.
            let last = unsafe slots.instruction(block.slots.upperBound - 1)
            if let target = unsafe slots.instruction(block.slots.upperBound).pointee.expectedTarget { add(target) }
            switch unsafe last.pointee.handler {
            case .jmp: unsafe add(last.pointee.immediate)
            case .call:
                if unsafe last.pointee.expectsReturn { unsafe add(last.pointee.nextPageOffset) }
                unsafe add(last.pointee.immediate)
            case .ret, .jmpIndirect, .callIndirect: break
            default: unsafe add(UInt64(slots.instruction(block.slots.upperBound).pointee.pageOffset))
            }
        }

        private mutating func add(_ end: UInt64) {
            guard endCount < Self.mostEnds else { return }
            ends[endCount] = end
            endCount += 1
        }
    }

    /// The block that is translated.
    var block: Neighbour { blocks[0].neighbour }

    /// The block at `target`, an offset from the page base.
    func find(_ target: UInt64) -> Neighbour? { blocks.first { $0.target == target }?.neighbour }

    /// The instruction in `slot`, of one of the blocks, or its closing slot.
    func instruction(_ slot: UInt32) -> DecodedInstruction {
        var first = 0
        for block in blocks {
            let position = Int(slot) - Int(block.neighbour.slot) - 1
            if position >= 0, position <= block.neighbour.count { return instructions[first + position] }
            first += block.neighbour.count + 1
        }
        preconditionFailure("slot \(slot) is not of a block that is translated")
    }
}

/// A block that others may be joined to.
struct Neighbour {
    /// Of its header.
    var slot: UInt32
    /// Its instructions.
    var count: Int
    /// Those of its instructions.
    var slots: Range<UInt32> { slot + 1..<slot + 1 + UInt32(count) }
    /// Whether it is a copy of code that lies in the next page, or ends there.
    var needsNextPage = false
}

/// The blocks of one page for one way of access that run often enough to be joined to those that lead to them, and those of the
/// page behind it.
struct Neighbours {
    let index: BlockIndex
    /// The physical address of the page.
    let page: UInt64
    let set: AccessSet
    /// How often they have run.
    let heat: UInt8
    /// The page behind it, if that is known.
    let nextPage: NextPage?

    /// The block at `target`, an offset from the page base.
    func find(_ target: UInt64) -> Neighbour? {
        guard target < 4096, let block = index.find(page | target, .bits64, set, heat: heat) else {
            return nextPage?.find(target, self)
        }
        return block
    }
}

extension BlockIndex {
    /// The block at `physical` for `mode` and `set`, if it has run `heat` times.
    func find(_ physical: UInt64, _ mode: CodeMode, _ set: AccessSet, heat: UInt8) -> Neighbour? {
        guard let slot = find(physical, mode, set) else { return nil }
        // SAFETY: what was found is a block's header.
        let header = unsafe slots.header(slot)
        guard unsafe header.pointee.heat >= heat else { return nil }
        return unsafe Neighbour(slot: slot, count: min(Int(header.pointee.count), BlockTranslator.longest))
    }
}
