// SPDX-License-Identifier: Apache-2.0
// Memory accesses of a block whose addresses differ by constants: the first one looks the page up for all of them.

/// An access to memory at a base register and a displacement.
struct PlainAccess {
    /// Its base, an index as in `DecodedInstruction`.
    var base: UInt8
    var displacement: Int32
    var size: Int32
    var use: BlockTranslator.MemoryUse
    /// Whether the group may begin with it: no other part of the instruction can lead to the interpreter.
    var canLead = true
}

/// The groups of a block: accesses close to each other, relative to what one register had at one time.
struct AccessGroups: ~Copyable {
    /// One access of a group.
    struct Member {
        var group: Int
        /// Whether it is the first, which makes the page reachable.
        var isFirst: Bool
        /// From the first register's value to the lowest address of the group, where it is the first.
        var lowest: Int32
        /// Bytes that the group spans.
        var span: Int32
        var use: BlockTranslator.MemoryUse
        /// From the lowest address of the group to this one.
        var offset: Int32
    }

    /// More than that are not worth their places in the context.
    static let most = ContextLayout.groupCount
    /// A longer group would cross a page too often.
    private static let longest: Int64 = 256

    /// A value that a register has, or had: where it comes from, and how far it is from there.
    private struct Value {
        var origin: UInt16
        var offset: Int64
    }

    private struct Group {
        var origin: UInt16
        /// The value of the base register at the first access, and its displacement there.
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
    /// By position: the access through ModRM, and the one to the stack.
    private var operands: [Reference]
    private var stacks: [Reference]
    /// Positions with an access that can belong to no group, a bit for each.
    private var others: UInt64 = 0

    // What registers have while the groups are found. The last one is the page base.
    private var values: [Value]
    private var origins: UInt16 = 18

    /// Finds the groups of the instructions with `plans`; none in plain code.
    init(_ plans: [TranslationPlan], isPlain: Bool, _ instruction: (Int) -> DecodedInstruction) {
        operands = Array(repeating: Reference(), count: plans.count)
        stacks = operands
        values = (0..<18).map { Value(origin: $0, offset: 0) }
        if isPlain { return }
        for (position, plan) in plans.enumerated() {
            let i = instruction(position)
            let operand = BlockTranslator.operandAccess(i, plan)
            let stack = BlockTranslator.stackAccess(i, plan)
            if let operand { operands[position] = join(operand, position, canLead: stack == nil) }
            if let stack { stacks[position] = join(stack, position, canLead: !i.isMemory) }
            if i.isMemory && operands[position].group < 0 || stack != nil && stacks[position].group < 0 {
                others |= 1 << UInt64(position)
            }
            note(i, plan)
        }
        var used = 0
        for number in groups.indices where groups[number].members > 1 && used < Self.most {
            groups[number].place = used
            used += 1
        }
    }

    private mutating func join(_ access: PlainAccess, _ position: Int, canLead: Bool) -> Reference {
        let value = values[Int(access.base)]
        guard let place = Int32(exactly: value.offset + Int64(access.displacement)) else { return Reference() }
        let low = Int64(place)
        let high = low + Int64(access.size)
        let writes = access.use == .write
        for number in groups.indices.reversed() where groups[number].origin == value.origin {
            let group = groups[number]
            guard max(high, group.high) - min(low, group.low) <= Self.longest else { break }
            groups[number].low = min(low, group.low)
            groups[number].high = max(high, group.high)
            groups[number].writes = group.writes || writes
            groups[number].members += 1
            return Reference(group: Int32(number), low: place)
        }
        guard canLead, access.canLead else { return Reference() }
        groups.append(
            Group(
                origin: value.origin, base: value.offset, low: low, high: high, writes: writes, first: position))
        return Reference(group: Int32(groups.count - 1), low: place)
    }

    /// What `i` does to the registers.
    private mutating func note(_ i: DecodedInstruction, _ plan: TranslationPlan) {
        let written = RegisterUse.written(i, plan)
        let result = result(i, plan)
        for register in 0..<16 where written >> UInt16(register) & 1 != 0 {
            origins &+= 1
            values[register] = Value(origin: origins, offset: 0)
        }
        if let result { values[Int(result.register)] = result.value }
    }

    /// The register that becomes another one's value and a constant.
    private func result(_ i: DecodedInstruction, _ plan: TranslationPlan) -> (register: UInt8, value: Value)? {
        guard plan == .integer, i.operandSize == 8 else { return nil }
        func moved(_ from: UInt8, _ distance: Int64, to register: UInt8) -> (register: UInt8, value: Value)? {
            var value = values[Int(from)]
            value.offset += distance
            return abs(value.offset) < 1 << 30 ? (register, value) : nil
        }
        let constant = Int64(bitPattern: i.immediate)
        switch Operation(rawValue: i.operation) {
        case .push, .pushf: return moved(RegisterIndex.rsp, -8, to: RegisterIndex.rsp)
        case .pop: return i.rm == RegisterIndex.rsp ? nil : moved(RegisterIndex.rsp, 8, to: RegisterIndex.rsp)
        case .leave: return moved(RegisterIndex.rbp, 8, to: RegisterIndex.rsp)
        case .lea:
            guard i.index == RegisterIndex.zero, i.base != RegisterIndex.zero, i.base <= RegisterIndex.pageBase else {
                return nil
            }
            return moved(i.base, Int64(i.displacement), to: i.reg)
        case .add where i.shape == Form.rmImmediate.rawValue && !i.isMemory && abs(constant) < 1 << 30:
            return moved(i.rm, constant, to: i.rm)
        case .sub where i.shape == Form.rmImmediate.rawValue && !i.isMemory && abs(constant) < 1 << 30:
            return moved(i.rm, -constant, to: i.rm)
        case .mov where !i.isMemory && i.shape == Form.rmReg.rawValue: return moved(i.reg, 0, to: i.rm)
        case .mov where !i.isMemory && i.shape == Form.regRM.rawValue: return moved(i.rm, 0, to: i.reg)
        default: return nil
        }
    }

    /// Whether the instruction at `position` accesses memory, and all of it is reachable by then.
    func isReachable(_ position: Int) -> Bool {
        guard others >> UInt64(position) & 1 == 0 else { return false }
        let hasOperand = operands[position].group >= 0
        let hasStack = stacks[position].group >= 0
        guard hasOperand || hasStack else { return false }
        return (!hasOperand || isLater(operands[position], position))
            && (!hasStack || isLater(stacks[position], position))
    }

    /// Whether an access belongs to a group, and is not its first.
    private func isLater(_ reference: Reference, _ position: Int) -> Bool {
        let group = Int(reference.group)
        return groups[group].place >= 0 && groups[group].first != position
    }

    /// The access through ModRM of the instruction at `position`, if it belongs to a group.
    func operand(_ position: Int) -> Member? { member(operands[position], position) }

    /// The access to the stack.
    func stack(_ position: Int) -> Member? { member(stacks[position], position) }

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
