// SPDX-License-Identifier: Apache-2.0
// Memory for decoded blocks.

internal import CHost

/// Slots of 32 bytes, each with the header of a block or one of its instructions.
@safe struct BlockSlots {
    static let size = 32
    fileprivate let memory: UnsafeMutableRawPointer

    /// Header slot `slot`, which must be below the arena's capacity.
    @inline(__always)
    func header(_ slot: UInt32) -> UnsafeMutablePointer<BlockHeader> {
        // SAFETY: slots are handed out below the capacity; header slots are only accessed as such.
        unsafe (memory + Int(slot) &* Self.size).assumingMemoryBound(to: BlockHeader.self)
    }

    /// Instruction slot `slot`, which must be below the arena's capacity.
    @inline(__always)
    func instruction(_ slot: UInt32) -> UnsafeMutablePointer<DecodedInstruction> {
        // SAFETY: slots are handed out below the capacity; instruction slots are only accessed as such.
        unsafe (memory + Int(slot) &* Self.size).assumingMemoryBound(to: DecodedInstruction.self)
    }

    /// The slot number of an instruction.
    @inline(__always)
    func slot(of instruction: UnsafeMutablePointer<DecodedInstruction>) -> UInt32 {
        unsafe UInt32(truncatingIfNeeded: (UnsafeMutableRawPointer(instruction) - memory) / Self.size)
    }
}

/// Hands slots out in order; they are touched only as they are used. Where all are in use, the next blocks take the place of
/// those in the piece that was filled first. A slot number of 0 means none.
final class SlotArena {
    let slots: BlockSlots
    /// Slots before this are never handed out.
    private let firstFree: Int
    private let pieceSlots: Int
    /// The first slot that is free.
    private(set) var next: Int
    /// The blocks: the slots of their headers.
    private var blocks = Pieces<UInt32>()
    private var provision = Provision(step: 4096)

    /// - Parameters:
    ///   - bytes: the size; rounded down to pieces.
    ///   - reserved: slots that are not handed out, few.
    init(bytes: Int, reserved: Int) {
        let count = Pieces<UInt32>.count
        pieceSlots = bytes / BlockSlots.size / count
        precondition(pieceSlots > reserved + BlockCache.longestBlock && bytes / BlockSlots.size <= Int(UInt32.max))
        unsafe slots = BlockSlots(memory: .allocate(byteCount: pieceSlots * count * BlockSlots.size, alignment: 64))
        firstFree = reserved
        next = reserved
    }

    deinit { unsafe slots.memory.deallocate() }

    /// Whether no block is there.
    var isEmpty: Bool { blocks.isEmpty }

    /// Whether there is room for the longest block. Otherwise `advance` makes it.
    var hasRoom: Bool { next + BlockCache.longestBlock <= (blocks.present + 1) * pieceSlots }

    /// Goes on in the next piece. Returns the blocks that are there still, whose slots will be others'.
    func advance() -> [UInt32] {
        let evicted = blocks.advance()
        next = blocks.present == 0 ? firstFree : blocks.present * pieceSlots
        provision.begin(at: next)
        return evicted
    }

    /// The block whose header is in the first free slot takes `slots` of them.
    func take(_ slots: Int) {
        blocks.append(UInt32(next))
        next += slots
        let end = (blocks.present + 1) * pieceSlots
        guard let slots = provision.next(before: next + BlockCache.longestBlock, limit: end) else { return }
        // SAFETY: slots of the present piece.
        unsafe chost_provide_memory(
            self.slots.memory + slots.lowerBound * BlockSlots.size, slots.count * BlockSlots.size)
    }

    /// Gives up all blocks.
    func empty() {
        blocks.empty()
        next = firstFree
        provision.begin(at: next)
    }
}
