// SPDX-License-Identifier: Apache-2.0
// Memory for decoded blocks.

/// Slots of 32 bytes, handed out in order and touched only as they are used. They lie in pieces: where all are in use,
/// the next blocks take the place of those in the piece that was filled first. A slot number of 0 means none.
@safe struct SlotArena {
    static let slotSize = 32
    private static let pieceCount = 8

    let memory: UnsafeMutableRawPointer
    /// Slots before this are never handed out.
    private let firstFree: Int
    private let pieceSlots: Int
    private var piece = 0
    /// The first slot that is free.
    private(set) var next: Int
    /// The blocks in each piece: the slots of their headers.
    private var blocks = [[UInt32]](repeating: [], count: pieceCount)

    /// - Parameters:
    ///   - bytes: the size; rounded down to pieces.
    ///   - reserved: slots that are not handed out, few.
    init(bytes: Int, reserved: Int) {
        pieceSlots = bytes / Self.slotSize / Self.pieceCount
        precondition(pieceSlots > reserved + BlockCache.longestBlock && bytes / Self.slotSize <= Int(UInt32.max))
        unsafe memory = .allocate(byteCount: pieceSlots * Self.pieceCount * Self.slotSize, alignment: 64)
        firstFree = reserved
        next = reserved
    }

    func deallocate() { unsafe memory.deallocate() }

    /// Whether any block is there.
    var isEmpty: Bool { blocks.allSatisfy(\.isEmpty) }

    /// Whether there is room for the longest block. Otherwise `advance` makes it.
    var hasRoom: Bool { next + BlockCache.longestBlock <= (piece + 1) * pieceSlots }

    /// Goes on in the next piece. Returns the blocks that are there still, whose slots will be others'.
    mutating func advance() -> [UInt32] {
        piece = (piece + 1) % Self.pieceCount
        next = piece == 0 ? firstFree : piece * pieceSlots
        defer { blocks[piece].removeAll() }
        return blocks[piece]
    }

    /// The block whose header is in the first free slot takes `slots` of them.
    mutating func take(_ slots: Int) {
        blocks[piece].append(UInt32(next))
        next += slots
    }

    /// Gives up all blocks.
    mutating func empty() {
        piece = 0
        next = firstFree
        blocks = [[UInt32]](repeating: [], count: Self.pieceCount)
    }
}
