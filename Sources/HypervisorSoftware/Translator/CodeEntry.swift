// SPDX-License-Identifier: Apache-2.0
// What is known of translated code at its entry.

/// What translated code is the translation of.
enum CodeOwner {
    /// Of the rest of a block, to which only a link leads; or of nothing any more.
    case nobody
    /// The block whose header is in this slot.
    case block(UInt32)
    /// The instruction in two pages with this index.
    case crossing(Int)
}

/// What lies in front of each entry of the code buffer: a number for the owner, and the position of the code that leaves
/// when the entry is invalid. 32 bits each.
enum CodeEntry {
    static let size = 8
    static let ownerOffset = -8
    static let detourOffset = -4
    private static let crossingBit: UInt32 = 1 << 31

    static func number(_ owner: CodeOwner) -> UInt32 {
        switch owner {
        case .block(let slot): slot
        case .crossing(let index): UInt32(index) | crossingBit
        case .nobody: 0
        }
    }

    static func owner(_ number: UInt32) -> CodeOwner {
        if number & crossingBit != 0 { return .crossing(Int(number & ~crossingBit)) }
        return number == 0 ? .nobody : .block(number)
    }
}
