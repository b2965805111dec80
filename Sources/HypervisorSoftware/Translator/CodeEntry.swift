// SPDX-License-Identifier: Apache-2.0
// What is known of translated code at its entry.

/// What lies in front of each entry of the code buffer: the slot of the header of the block that the code is the translation of,
/// and the position of the code that leaves when the entry is invalid. 32 bits each.
enum CodeEntry {
    static let size = 8
    static let ownerOffset = -8
    static let detourOffset = -4
    /// In place of a slot: the rest of a block, to which only a link leads, or nothing any more.
    static let noOwner: UInt32 = 0
}
