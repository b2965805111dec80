// SPDX-License-Identifier: Apache-2.0
// Memory accesses of a block whose addresses differ by constants: the first one looks the page up for all of them.

/// How an instruction names memory: a base, an index that is shifted left by `scale`, and a displacement. The registers are
/// numbered as in `DecodedInstruction`.
struct GuestAddress {
    var base: UInt8
    var index: UInt8 = RegisterIndex.zero
    var scale: UInt8 = 0
    var displacement: Int32
}

extension GuestAddress {
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
    case group(AccessGroups.Member)
    case stream(AccessStreams.Member)

    /// Whether the access cannot fail: its page was found before.
    var isReachable: Bool {
        switch self {
        case .alone: false
        case .group(let member): !member.isFirst
        case .stream: true
        }
    }
}

/// The groups of a block: accesses close to each other, relative to what registers had at one time.
struct AccessGroups: ~Copyable {
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

    private struct Group {
        /// What the addresses have in common.
        var terms: LinearValue
        /// The offset of the first access.
        var base: Int64
        var low: Int64
        var high: Int64
        var writes: Bool
        /// The position of the first access.
        var first: Int
        var members = 1
        /// Its number in the context; -1 when it has no place there.
        var place = -1
    }

    private struct Reference {
        var group: Int32 = -1
        var low: Int32 = 0
    }

    private var groups: [Group] = []
    /// By position: the access through ModRM, and the one to the stack. Empty where there are no groups.
    private var references: [(operand: Reference, stack: Reference)] = []

    /// Finds the groups of the instructions with `plans`; none in plain code.
    /// - Parameters:
    ///   - most: how many there may be.
    ///   - streams: accesses that belong to streams, and so to no group.
    init(
        _ plans: [TranslationPlan], isPlain: Bool, most: Int, except streams: RunStreams?,
        _ instruction: (Int) -> DecodedInstruction
    ) {
        if isPlain || !Self.mayHaveGroup(plans, instruction) { return }
        references = Array(repeating: (Reference(), Reference()), count: plans.count)
        var values = RegisterValues()
        for (position, plan) in plans.enumerated() {
            let i = instruction(position)
            let operand = BlockTranslator.operandAccess(i, plan)
            let stack = BlockTranslator.stackAccess(i, plan)
            if let operand, !operand.isAligned, streams?.operands[position] == nil {
                references[position].operand = join(operand, values, position, canLead: stack == nil)
            }
            if let stack, streams?.stacks[position] == nil {
                references[position].stack = join(stack, values, position, canLead: !i.isMemory)
            }
            values.note(i, plan)
        }
        var used = 0
        for number in groups.indices where groups[number].members > 1 && used < most {
            groups[number].place = used
            used += 1
        }
    }

    /// Whether more than one instruction may access memory.
    private static func mayHaveGroup(_ plans: [TranslationPlan], _ instruction: (Int) -> DecodedInstruction) -> Bool {
        var isFirst = true
        for (position, plan) in plans.enumerated() where plan != .nothing {
            let i = instruction(position)
            guard i.isMemory || BlockTranslator.stackAccess(i, plan) != nil else { continue }
            if !isFirst { return true }
            isFirst = false
        }
        return false
    }

    private mutating func join(
        _ access: PlainAccess, _ values: RegisterValues, _ position: Int, canLead: Bool
    ) -> Reference {
        guard let value = values.value(access.address) else { return Reference() }
        let low = value.offset
        let high = low + Int64(access.size)
        let writes = access.use == .write
        for number in groups.indices.reversed() where groups[number].terms.hasTerms(of: value) {
            let group = groups[number]
            guard max(high, group.high) - min(low, group.low) <= Self.longest else { break }
            groups[number].low = min(low, group.low)
            groups[number].high = max(high, group.high)
            groups[number].writes = group.writes || writes
            groups[number].members += 1
            return Reference(group: Int32(number), low: Int32(truncatingIfNeeded: low))
        }
        guard canLead, access.canLead else { return Reference() }
        groups.append(Group(terms: value, base: low, low: low, high: high, writes: writes, first: position))
        return Reference(group: Int32(groups.count - 1), low: Int32(truncatingIfNeeded: low))
    }

    /// The access through ModRM of the instruction at `position`, if it belongs to a group.
    func operand(_ position: Int) -> Member? {
        references.isEmpty ? nil : member(references[position].operand, position)
    }

    /// The access to the stack.
    func stack(_ position: Int) -> Member? {
        references.isEmpty ? nil : member(references[position].stack, position)
    }

    private func member(_ reference: Reference, _ position: Int) -> Member? {
        guard reference.group >= 0 else { return nil }
        let group = groups[Int(reference.group)]
        guard group.place >= 0 else { return nil }
        return Member(
            group: group.place, isFirst: group.first == position,
            lowest: Int32(truncatingIfNeeded: group.low - group.base),
            span: Int32(truncatingIfNeeded: group.high - group.low), use: group.writes ? .write : .read,
            offset: Int32(truncatingIfNeeded: Int64(reference.low) - group.low))
    }
}
