// SPDX-License-Identifier: Apache-2.0
// What one copy of a block's code consists of, planned before any is written.

/// The instructions of a block and, behind jumps and at its end, those of blocks that are joined to it.
struct TranslationUnit {
    /// A way from an instruction to `target`, an offset from the page base.
    struct Edge: Equatable {
        /// The first slot of the run of instructions, and the slot of the one that leads there.
        var run: UInt32
        var slot: UInt32
        var target: UInt64
        /// The call that the run is inlined for.
        var call: InlinedCall?
        /// How many expected jumps lead to the run.
        var jumps: Int
    }

    /// What is known of one instruction.
    struct Step {
        let plan: TranslationPlan
        /// The flags that are seen after it.
        fileprivate(set) var live = Flags.status
        /// The access through ModRM, and the one to the stack.
        fileprivate var operand = Reference.alone
        fileprivate var stack = Reference.alone
        /// For a load of a jump through a table.
        fileprivate var kept: KeptPage?
        /// Whether what it loads is where it would go already: for a return, the address behind its inlined call.
        fileprivate(set) var loadsKnown = false
        /// For an indirect jump, the target that it is expected to lead to, an offset from the page base.
        fileprivate(set) var expectedTarget: UInt64?
    }

    /// How an access finds its memory.
    fileprivate enum Reference {
        case alone
        case group(AccessGroups.Reference)
        /// By its number.
        case stream(Int32)
    }

    /// The instructions of one block.
    struct Run {
        let firstSlot: UInt32
        /// How control comes here, and the number of the run that it comes from; nil for the block itself.
        let origin: Edge?
        fileprivate let before: Int?
        /// Whether it is a copy of code that lies in the next page, or ends there.
        let needsNextPage: Bool
        /// The call that it is inlined for; nil where it is not.
        let call: InlinedCall?
        /// How many expected jumps lead here. With each of them blocks may be joined that are already.
        let jumps: Int
        fileprivate(set) var steps: [Step]
    }

    fileprivate(set) var runs: [Run] = []
    /// Whether somebody may see the flags that it begins with.
    private(set) var needsFlags = true
    fileprivate var groups = AccessGroups()
    /// The accesses that belong to streams, in the third copy of a loop.
    fileprivate(set) var streams: AccessStreams?
    fileprivate var members: [AccessStreams.Member] = []

    /// Nothing.
    init() {}

    /// Plans a block of `total` instructions from `firstSlot`.
    /// - Parameters:
    ///   - start: its own place, an offset from the page base.
    ///   - neighbours: finds the blocks that others lead to. Nil for plain code: each access by itself, and no block in
    ///     another's code.
    ///   - leavesSystem: whether all that looks at system flags or changes them is left to the interpreter.
    init(
        _ firstSlot: UInt32, _ total: Int, start: UInt64, neighbours: TranslationSource?, leavesSystem: Bool,
        streams: AccessStreams? = nil, _ instruction: (UInt32) -> DecodedInstruction
    ) {
        self.streams = streams
        var planner = UnitPlanner(start: start, neighbours: neighbours, leavesSystem: leavesSystem)
        planner.plan(firstSlot, total, instruction, &self)
        groups.place(most: ContextLayout.groupCount - (streams == nil ? 0 : AccessStreams.most), runs.map(\.before))
        for run in runs.indices { findLiveFlags(run, instruction) }
    }

    /// The number of the run that `edge` leads to; nil where the next block has its own code.
    func run(behind edge: Edge) -> Int? { runs.firstIndex { $0.origin == edge } }

    /// The way of the access through ModRM of an instruction.
    func operand(_ run: Int, _ position: Int) -> AccessWay {
        let step = runs[run].steps[position]
        let way = way(step.operand, run, position)
        if case .alone = way, let kept = step.kept { return .kept(kept) }
        return way
    }

    /// That of its access to the stack.
    func stack(_ run: Int, _ position: Int) -> AccessWay { way(runs[run].steps[position].stack, run, position) }

    private func way(_ reference: Reference, _ run: Int, _ position: Int) -> AccessWay {
        switch reference {
        case .alone: return .alone
        case .stream(let number): return .stream(members[Int(number)])
        case .group(let reference):
            let place = AccessGroups.Position(run: run, position: position)
            return groups.member(reference, at: place).map { .group($0) } ?? .alone
        }
    }

    /// Whether an instruction, which is `i`, is a PUSH or POP that finds its memory without the stack pointer.
    func onlyMovesStack(_ run: Int, _ position: Int, _ i: DecodedInstruction) -> Bool {
        guard position < runs[run].steps.count, runs[run].steps[position].plan == .integer, !i.isMemory,
            case .group(let member) = stack(run, position), !member.isFirst
        else { return false }
        switch Operation(rawValue: i.operation) {
        case .push: return i.shape == Form.immediate.rawValue || i.rm != RegisterIndex.rsp
        case .pop: return i.rm != RegisterIndex.rsp
        default: return false
        }
    }

    private mutating func findLiveFlags(_ run: Int, _ instruction: (UInt32) -> DecodedInstruction) {
        var needed = Flags.status
        for position in runs[run].steps.indices.reversed() {
            let i = instruction(runs[run].firstSlot + UInt32(position))
            let plan = runs[run].steps[position].plan
            runs[run].steps[position].live = needed
            let use = plan.flagUse(i)
            needed =
                plan.canStop(i) && !isReachable(run, position, i) && !runs[run].steps[position].loadsKnown
                ? .status : needed.subtracting(use.replaces).union(use.reads)
        }
        if run == 0 { needsFlags = !needed.isEmpty }
    }

    /// Whether an instruction, which is `i`, accesses memory, does nothing else that can stop, and all of it is reachable by then.
    private func isReachable(_ run: Int, _ position: Int, _ i: DecodedInstruction) -> Bool {
        let plan = runs[run].steps[position].plan
        guard plan == .integer else { return false }
        let hasStack = BlockTranslator.stackAccess(i, plan) != nil
        guard i.isMemory || hasStack else { return false }
        return (!i.isMemory || operand(run, position).isReachable) && (!hasStack || stack(run, position).isReachable)
    }
}

private struct UnitPlanner {
    /// Most instructions of blocks that are joined to one.
    private static let mostJoined = 40
    /// The same behind expected jumps.
    private static let mostBehindJumps = 64
    /// Most instructions of a block and those joined to it, where the page ends in their midst.
    private static let mostInPages = 100

    /// A way out of a run to a block that may be joined, and what is known there.
    private struct Way {
        var run: Int
        var edge: TranslationUnit.Edge
        var block: Neighbour
        /// The call that the block would be inlined for.
        var call: InlinedCall?
        var jumps: Jumps
        var known: Known
    }

    /// The expected jumps that lead to a place.
    private struct Jumps {
        var count = 0
        /// The block that the last one led to, or the first of all.
        var origin: Neighbour
    }

    /// What is known at one place of the code.
    private struct Known {
        var values: RegisterValues
        var reachable = AccessGroups.Reachable()
        var stored = StoredValues.Moment()
    }

    let start: UInt64
    let neighbours: TranslationSource?
    let leavesSystem: Bool

    private var instructionsJoined = 0
    /// Jumps that may lead to other runs.
    private var branches: [Way] = []
    private var storedValues = StoredValues()

    init(start: UInt64, neighbours: TranslationSource?, leavesSystem: Bool) {
        self.start = start
        self.neighbours = neighbours
        self.leavesSystem = leavesSystem
    }

    /// Plans the block itself and all that are joined to it, in the order in which they will be written: each with those at its
    /// end first, then those behind jumps.
    mutating func plan(
        _ firstSlot: UInt32, _ total: Int, _ instruction: (UInt32) -> DecodedInstruction, _ unit: inout TranslationUnit
    ) {
        var way = plan(firstSlot, total, from: nil, instruction, &unit)
        var next = 0
        while true {
            while let last = way {
                guard takes(last, instruction, in: unit) else { break }
                way = plan(last.block.slot + 1, last.block.count, from: last, instruction, &unit)
            }
            guard next < branches.count else { return }
            way = branches[next]
            next += 1
        }
    }

    /// Whether the block behind `way` shall be joined.
    private mutating func takes(
        _ way: Way, _ instruction: (UInt32) -> DecodedInstruction, in unit: TranslationUnit
    ) -> Bool {
        let (block, edge) = (way.block, way.edge)
        let most =
            block.needsNextPage
            ? Self.mostInPages - unit.runs[0].steps.count
            : way.jumps.count > 0 ? Self.mostBehindJumps : Self.mostJoined
        guard
            !unit.runs.contains(where: {
                $0.firstSlot == block.slot + 1 && $0.call == way.call && $0.jumps == way.jumps.count
            }),
            instructionsJoined + block.count <= most,
            unit.streams?.shape.leadsBack(block.slot + 1, from: (edge.run, edge.slot)) ?? true,
            way.call == nil || canInline(block, instruction)
        else { return false }
        instructionsJoined += block.count
        return true
    }

    /// Whether a block has nothing that may leave for other translated code but what knows of inlined calls.
    private func canInline(_ block: Neighbour, _ instruction: (UInt32) -> DecodedInstruction) -> Bool {
        !block.needsNextPage
            && block.slots.allSatisfy { slot in
                switch TranslationPlan.of(instruction(slot)) {
                case .system, .systemHelper, .interruptReturn, .leave: false
                default: true
                }
            }
    }

    /// Whether a function that begins with `block` may return from there, or from a block that this one leads to.
    private func returnsSoon(
        _ block: Neighbour, _ neighbours: TranslationSource, _ instruction: (UInt32) -> DecodedInstruction
    ) -> Bool {
        func returns(_ block: Neighbour) -> Bool { instruction(block.slot + UInt32(block.count)).handler == .ret }
        return returns(block)
            || block.slots.contains { slot in
                let i = instruction(slot)
                guard i.handler.isConditionalJump || i.handler == .jmp else { return false }
                return neighbours.find(i.immediate).map(returns) ?? false
            }
    }

    /// Plans one run. Returns the way at its end, if it leads on.
    private mutating func plan(
        _ firstSlot: UInt32, _ total: Int, from way: Way?, _ instruction: (UInt32) -> DecodedInstruction,
        _ unit: inout TranslationUnit
    ) -> Way? {
        let number = unit.runs.count
        var steps = (0..<total).map { position in
            let i = instruction(firstSlot + UInt32(position))
            let plan = TranslationPlan.of(i)
            return TranslationUnit.Step(plan: leavesSystem && plan.isOfSystem(i) ? .leave : plan)
        }
        var end: Way?
        if let neighbours {
            end = plan(&steps, firstSlot, number, from: way, neighbours, instruction, &unit)
        }
        unit.runs.append(
            TranslationUnit.Run(
                firstSlot: firstSlot, origin: way?.edge, before: way?.run,
                needsNextPage: way?.block.needsNextPage ?? false, call: way?.call, jumps: way?.jumps.count ?? 0,
                steps: steps))
        return end
    }

    /// Finds the groups and streams of one run, and its ways out.
    private mutating func plan(
        _ steps: inout [TranslationUnit.Step], _ firstSlot: UInt32, _ number: Int, from way: Way?,
        _ neighbours: TranslationSource, _ instruction: (UInt32) -> DecodedInstruction, _ unit: inout TranslationUnit
    ) -> Way? {
        var known = way?.known ?? Known(values: RegisterValues(knowsHalves: unit.streams != nil))
        let call = way?.call
        let jumps = way?.jumps ?? Jumps(origin: neighbours.block)
        // A kernel's functions seldom share a page: it gains nothing, and boots take longer.
        let inlines = unit.streams == nil && neighbours.set == .user
        /// The way from an instruction to `target`, which is inlined for `inner`.
        func leave(_ slot: UInt32, for target: UInt64, _ inner: InlinedCall?, _ known: Known) -> Way? {
            guard target != start || inner != nil, let block = neighbours.find(target) else { return nil }
            return Way(
                run: number,
                edge: TranslationUnit.Edge(
                    run: firstSlot, slot: slot, target: target, call: call, jumps: jumps.count),
                block: block, call: inner, jumps: jumps, known: known)
        }
        for position in steps.indices {
            let slot = firstSlot + UInt32(position)
            let i = instruction(slot)
            let plan = steps[position].plan
            let place = AccessGroups.Position(run: number, position: position)
            let canStream = unit.streams?.shape.contains(firstSlot, slot) ?? false
            let operand = BlockTranslator.operandAccess(i, plan)
            let stack = BlockTranslator.stackAccess(i, plan)
            if let operand {
                steps[position].operand = unit.join(
                    operand, &known.values, at: place, canLead: stack == nil, canStream, &known.reachable)
            }
            if let stack {
                steps[position].stack = unit.join(
                    stack, &known.values, at: place, canLead: !i.isMemory, canStream, &known.reachable)
            }
            let loaded =
                inlines ? storedValues.note(steps[position], i, operand, stack, known.values, &known.stored) : nil
            if let loaded {
                steps[position].loadsKnown = known.values.has(loaded.value, in: loaded.register, returningFrom: call)
            }
            known.values.note(i, plan)
            if let loaded, let register = loaded.register { known.values.become(register, loaded.value) }
            switch plan {
            case .flow where i.handler.isConditionalJump:
                if let branch = leave(slot, for: i.immediate, call, known) { branches.append(branch) }
            case .flow where i.handler == .jmp || i.handler == .call && !i.expectsReturn:
                return leave(slot, for: i.immediate, call, known)
            case .flow where i.handler == .call && call == nil && inlines:
                // Both ends in the block's page, which nobody has to look for.
                let inner = InlinedCall(run: firstSlot, slot: slot, returnTarget: i.nextPageOffset)
                guard max(i.immediate, i.nextPageOffset) < 4096, let way = leave(slot, for: i.immediate, inner, known),
                    returnsSoon(way.block, neighbours, instruction)
                else { return nil }
                return way
            case .flow where i.handler == .ret:
                guard let call else { return nil }
                return leave(slot, for: call.returnTarget, nil, known)
            case .system, .systemHelper:
                // They may change how memory is accessed.
                known.reachable = AccessGroups.Reachable()
                return leave(slot, for: i.nextPageOffset, call, known)
            case .flow where i.handler == .jmpIndirect:
                let jump = TableJump(at: position, { steps[$0].plan }, { instruction(firstSlot + UInt32($0)) })
                if let jump {
                    steps[jump.table].kept = KeptPage(tableOfJumpAt: neighbours.page + UInt64(i.pageOffset))
                    if let operation = jump.operation { steps[operation].kept = .operations }
                }
                let closing = instruction(jumps.origin.slots.upperBound)
                guard let target = closing.expectedTarget(ofJumpAt: slot) else { return nil }
                steps[position].expectedTarget = target
                guard var way = leave(slot, for: target, call, known) else { return nil }
                way.jumps = Jumps(count: jumps.count + 1, origin: way.block)
                return way
            case .flow, .leave, .interruptReturn: return nil
            default: break
            }
        }
        let last = firstSlot + UInt32(steps.count - 1)
        return leave(last, for: instruction(last).nextPageOffset, call, known)
    }
}

extension RegisterValues {
    /// Whether `value` is what a register has; for none, what the return from `call` needs.
    fileprivate func has(_ value: LinearValue, in register: UInt8?, returningFrom call: InlinedCall?) -> Bool {
        if let register { return self.value(of: register).isSame(as: value) }
        guard let call, let address = address(call.returnTarget) else { return false }
        return address.isSame(as: value)
    }
}

extension StoredValues {
    /// Notes what `i` stores, with these accesses, before it has changed any register. Returns what it loads if that is known, and the
    /// register that this goes to; nil for a return.
    fileprivate mutating func note(
        _ step: TranslationUnit.Step, _ i: DecodedInstruction, _ operand: PlainAccess?, _ stack: PlainAccess?,
        _ values: RegisterValues, _ moment: inout Moment
    ) -> (register: UInt8?, value: LinearValue)? {
        guard operand != nil || stack != nil else {
            if step.mayWrite(i) { moment = Moment() }
            return nil
        }
        let operation = step.plan == .integer ? Operation(rawValue: i.operation) : nil
        if let operand {
            let isMove = operation == .mov && i.operandSize == 8 && i.hasSource
            if operand.use == .write {
                note(isMove ? values.value(of: i.reg) : nil, step.operand, operand, &moment)
            } else if isMove, case .group(let place) = step.operand {
                return value(at: place, moment).map { (i.reg, $0) }
            }
        }
        guard let stack else { return nil }
        if stack.use == .write {
            let value: LinearValue? =
                switch operation {
                case .push where !i.isMemory && i.shape != Form.immediate.rawValue: values.value(of: i.rm)
                case nil where i.handler == .call: values.address(i.nextPageOffset)
                default: nil
                }
            note(value, step.stack, stack, &moment)
            return nil
        }
        guard case .group(let place) = step.stack else { return nil }
        if i.handler == .ret { return value(at: place, moment).map { (nil, $0) } }
        guard operation == .pop, i.rm != RegisterIndex.rsp else { return nil }
        return value(at: place, moment).map { (i.rm, $0) }
    }

    private mutating func note(
        _ value: LinearValue?, _ reference: TranslationUnit.Reference, _ access: PlainAccess, _ moment: inout Moment
    ) {
        if case .group(let place) = reference {
            note(value, at: place, size: access.size, &moment)
        } else {
            moment = Moment()
        }
    }
}

extension TranslationUnit.Step {
    /// Whether an instruction without an access that is known may write to memory.
    fileprivate func mayWrite(_ i: DecodedInstruction) -> Bool {
        switch plan {
        case .nothing, .flow: false
        case .integer: i.isMemory && Operation(rawValue: i.operation) != .lea
        case .vector, .x87: i.isMemory
        case .string, .helper, .system, .systemHelper, .interruptReturn, .leave: true
        }
    }
}

extension TranslationUnit {
    fileprivate mutating func join(
        _ access: PlainAccess, _ values: inout RegisterValues, at place: AccessGroups.Position, canLead: Bool,
        _ canStream: Bool, _ reachable: inout AccessGroups.Reachable
    ) -> Reference {
        if canStream, let member = streams?.join(access, values) {
            members.append(member)
            return .stream(Int32(members.count - 1))
        }
        return groups.join(access, &values, at: place, canLead: canLead, &reachable).map { .group($0) } ?? .alone
    }
}

/// A call whose function is written into the code of its caller.
struct InlinedCall: Equatable {
    /// The first slot of the run of instructions, and the slot of the call.
    var run: UInt32
    var slot: UInt32
    /// Where it returns to, an offset from the page base.
    var returnTarget: UInt64
}
