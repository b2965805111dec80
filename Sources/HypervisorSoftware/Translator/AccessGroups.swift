// SPDX-License-Identifier: Apache-2.0
// Memory accesses of a block, and of those joined to it, whose addresses differ by constants: the first one looks the page up
// for all of them.

/// How an instruction names memory: a base, an index that is shifted left by `scale`, and a displacement. The registers are
/// numbered as in `DecodedInstruction`.
struct GuestAddress {
    var base: UInt8
    var index: UInt8 = RegisterIndex.zero
    var scale: UInt8 = 0
    var displacement: Int32
}

extension GuestAddress {
    /// Whether it is that of the stack pointer and a displacement.
    var isStack: Bool { base == RegisterIndex.rsp && index == RegisterIndex.zero }

    init(_ i: DecodedInstruction) {
        self.init(base: i.base, index: i.index, scale: i.scale, displacement: i.displacement)
    }
}

/// An access to memory that nothing but registers and a displacement gives the address of.
struct PlainAccess {
    var address: GuestAddress
    var size: Int32
    var use: BlockTranslator.MemoryUse
    /// Whether a misaligned address is a fault.
    var isAligned = false
    /// Whether a group may begin with it: no other part of the instruction can lead to the interpreter.
    var canLead = true
}

/// How an access finds its memory.
enum AccessWay {
    /// By itself.
    case alone
    /// By itself, but it looks somewhere else first.
    case kept(KeptPage)
    case group(AccessGroups.Member)
    case stream(AccessStreams.Member)

    /// Whether the access cannot fail: its page was found before.
    var isReachable: Bool {
        switch self {
        case .alone, .kept: false
        case .group(let member): !member.isFirst
        case .stream: true
        }
    }
}

/// The groups of a block and of those that are joined to it: accesses close to each other, relative to what registers had
/// at one time. An access belongs to a group only where control comes from the group's first.
struct AccessGroups {
    /// One access of a group.
    struct Member {
        var group: Int
        /// Whether it is the first, which makes the page reachable.
        var isFirst: Bool
        /// From the address of the first access to the lowest one of the group.
        var lowest: Int32
        /// Bytes that the group spans.
        var span: Int32
        var use: BlockTranslator.MemoryUse
        /// From the lowest address of the group to this one.
        var offset: Int32
    }

    /// A longer group would cross a page too often.
    static let longest: Int64 = 256

    /// Where an access is made: the number of the run of instructions, and the position there.
    struct Position: Equatable {
        var run: Int
        var position: Int
    }

    private struct Group {
        /// What the addresses have in common.
        var terms: LinearValue
        /// The offset of the first access.
        var base: Int64
        var low: Int64
        var high: Int64
        var writes: Bool
        var first: Position
        /// The number of the one found before it on the way to its first access; -1 for none.
        var before: Int
        var members = 1
        /// Its number in the context; -1 when it has no place there.
        var place = -1
    }

    /// An access of some group.
    struct Reference {
        fileprivate var group: Int32
        fileprivate var low: Int32

        /// Whether `size` bytes there are certainly none of the 8 at `other`.
        func isApart(from other: Reference, size: Int32) -> Bool {
            group == other.group && (low + size <= other.low || other.low + 8 <= low)
        }

        /// Whether the group gets a place in the context, whatever groups are found later.
        var isPlaced: Bool { group < ContextLayout.groupCount }

        /// Whether both are at the same place.
        func isSame(as other: Reference) -> Bool { group == other.group && low == other.low }
    }

    /// The groups whose first access lies on the way to some place.
    struct Reachable {
        /// The number of the one found last; -1 for none. Each has that of the one before it.
        fileprivate var last = -1
    }

    private var groups: [Group] = []

    /// Puts an access into the group of an earlier one, or, if it can lead, into one of its own.
    /// - Parameters:
    ///   - values: what the registers have there.
    ///   - reachable: the groups of accesses before it, which the new one becomes one of.
    mutating func join(
        _ access: PlainAccess, _ values: inout RegisterValues, at position: Position, canLead: Bool,
        _ reachable: inout Reachable
    ) -> Reference? {
        guard !access.isAligned, let value = values.knownValue(access.address), !value.hasHalves else { return nil }
        let low = value.offset
        let high = low + Int64(access.size)
        let writes = access.use == .write
        var next = reachable.last
        while next >= 0 {
            let (number, group) = (next, groups[next])
            next = group.before
            guard group.terms.hasTerms(of: value) else { continue }
            guard max(high, group.high) - min(low, group.low) <= Self.longest else { break }
            // Who has only read may never come here, and the page be one that is only read.
            if writes, !group.writes, group.first.run != position.run { continue }
            groups[number].low = min(low, group.low)
            groups[number].high = max(high, group.high)
            groups[number].writes = group.writes || writes
            groups[number].members += 1
            return Reference(group: Int32(number), low: Int32(truncatingIfNeeded: low))
        }
        guard canLead, access.canLead else { return nil }
        groups.append(
            Group(
                terms: value, base: low, low: low, high: high, writes: writes, first: position, before: reachable.last))
        reachable.last = groups.count - 1
        return Reference(group: Int32(groups.count - 1), low: Int32(truncatingIfNeeded: low))
    }

    /// Gives groups with more than one member their places in the context.
    /// - Parameters:
    ///   - most: how many places there are.
    ///   - origins: for each run the number of the one before it, below its own; nil for the first.
    mutating func place(most: Int, _ origins: [Int?]) {
        var used: [Int] = []
        used.reserveCapacity(origins.count)
        var number = 0
        for (run, origin) in origins.enumerated() {
            var place = origin.map { used[$0] } ?? 0
            while number < groups.count, groups[number].first.run == run {
                if groups[number].members > 1, place < most {
                    groups[number].place = place
                    place += 1
                }
                number += 1
            }
            used.append(place)
        }
    }

    /// The access at `position`, if it belongs to a group that has a place.
    func member(_ reference: Reference, at position: Position) -> Member? {
        let group = groups[Int(reference.group)]
        guard group.place >= 0 else { return nil }
        return Member(
            group: group.place, isFirst: group.first == position,
            lowest: Int32(truncatingIfNeeded: group.low - group.base),
            span: Int32(truncatingIfNeeded: group.high - group.low), use: group.writes ? .write : .read,
            offset: Int32(truncatingIfNeeded: Int64(reference.low) - group.low))
    }
}

/// Where one copy of a block's code puts the ways to the memory of groups into the context. Many stay in the register until the last
/// of the group, as when a function saves registers: then nothing loads them, and nothing needs to be stored.
struct GroupStores {
    private var stores: [(position: Int, place: Int)] = []
    /// A bit for each place.
    private var loaded: UInt32 = 0

    /// The code at `position` stores what is at `place` of the context.
    mutating func note(at position: Int, of place: Int) { stores.append((position, place)) }

    /// Some code loads it.
    mutating func noteLoad(from place: Int) { loaded |= Self.bit(place) }

    /// The copy is written: what nothing loads is not stored.
    mutating func dropUnused(_ code: inout Assembler) {
        for store in stores where loaded & Self.bit(store.place) == 0 { code.patch(store.position, Self.nothing) }
        stores.removeAll(keepingCapacity: true)
        loaded = 0
    }

    private static func bit(_ place: Int) -> UInt32 { 1 << UInt32((place - ContextLayout.groups) / 8) }

    /// NOP of four bytes, as many as the store has.
    private static let nothing: Int32 = 0x0040_1f0f
}
