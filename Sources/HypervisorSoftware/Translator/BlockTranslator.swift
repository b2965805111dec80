// SPDX-License-Identifier: Apache-2.0
// One decoded block to host code: the order of things, flags, and what lies beside the straight path.

/// Translates one block.
///
/// At a block's start, and wherever translated code is left, the guest's status flags are in the context. In between they
/// may be in the host's flags as well, or only there, or follow from registers.
struct BlockTranslator: ~Copyable {
    /// Code beside the straight path.
    enum Aside {
        /// The instruction reads what has not been reached. If that lies in two pages, `routine` brings it together, and the code
        /// goes on at `resume`; else it does as with `otherwise`.
        indirect case read(_ routine: Int, resume: Int, otherwise: Aside)
        /// The same of `instruction`, which writes and does nothing else.
        indirect case write(_ routine: Int, _ instruction: DecodedInstruction, otherwise: Aside)
        /// The page is not where it was looked for first.
        indirect case find(_ search: Search, otherwise: Aside)
        /// The interpreter runs the instruction in `slot`, then the code goes on at `resume`.
        case interpret(resume: Resumption)
        /// The same of an instruction that uses the x87 unit, which is in the host's before and after.
        case interpretX87(resume: Resumption)
        /// Translated code ends before the instruction in `slot`; `count` instructions are charged to the time slice.
        case leave(count: Int32)
        /// Leaves for `target`, an offset from the page base; `site` is the place of a jump that can be linked to it, or 0.
        case dispatch(target: UInt64, site: Int)
        /// The code at `target`, an offset from the page base, is not known at `place` of the context.
        case findFarTarget(_ target: UInt64, place: Int, resume: Int)
        /// It is not known at `place` of the context whether the next page is the one that the block was translated with. The code
        /// goes on at `resume` if it is, at `target` after `count` instructions if not.
        case findNextPage(target: UInt64, place: Int, resume: Int, count: Int32)
        /// The first place of a linear address in the table of jump targets has another. If its second one has it the code goes on at
        /// `resume`.
        indirect case findSecond(resume: Int, otherwise: Aside)
        /// What the table of jump targets knows of a linear address is of before translations changed. Where it holds still the
        /// code goes on at `resume`.
        indirect case revalidate(resume: Int, otherwise: Aside)
        /// The page base is another one, which the first register has.
        case storePageBase(resume: Int)
        /// The block begins once more, in its first copy.
        case again
        /// The code at the address in the context's temporary is not known, which comes from the stack if `taken` is not 0.
        case leaveForTemporary(taken: Int32)
        /// A return, which takes `taken` bytes from the stack, leads elsewhere than the last call came from.
        case returnElsewhere(taken: Int32)
        /// A jump, or the return from an inlined call, which takes `taken` bytes from the stack, leads elsewhere than to the `expected`
        /// target, an offset from the page base, which the address in the first register lacks.
        case goElsewhere(expected: UInt64, taken: Int32, count: Int32)
        /// The condition of a jump in the block holds.
        case branch(target: UInt64, count: Int32)
        /// The accesses of a group that begins with the instruction in `slot` cannot be reached as one: other code goes
        /// on there, after `count` instructions.
        case tail(count: Int32)
        /// Registers of the guest must be loaded first, or the interpreter must run the instruction.
        case load(allowed: Int, routine: Int, resume: Int, count: Int32)
    }

    /// A place of the straight path, and what is expected of the free registers there.
    struct Resumption {
        var place: Int
        var known: FreeRegisters
    }

    /// How an access goes on whose page is not where it was looked for first, and where the code does with the page found.
    enum Search {
        case kept(KeptPage, size: Int32, resume: Int)
        case stack(MemoryUse, size: Int32, aligned: Bool, resume: Resumption)
    }

    private struct Branch {
        /// Where the displacement of the jump to it is.
        var place: Int
        var run: UInt32
        var slot: UInt32
        var call: InlinedCall?
        var jumps: Int
        var state: BlockState
        var values: RegisterValues?
        var aside: Aside
    }

    static let longest = 64
    /// Bytes that the code of any block has at least, and in which nobody comes back to it: a jump that takes the place of
    /// invalid code, whose displacement has 32 bits.
    static let shortestBlock = 5
    var code: Assembler
    let routines: SharedRoutines
    let set: AccessSet
    /// Whether all that looks at system flags or changes them is left to the interpreter, which a check does once.
    private let leavesSystem: Bool
    /// The far targets of the context that are free.
    var farTargets: Range<Int>
    /// Finds the blocks that this one leads to. Nil for plain code: each access by itself, and no block in another's code.
    private let neighbours: TranslationSource?
    /// Where the context has what is known of the next page.
    private var nextPagePlace: Int?
    var isPlain: Bool { neighbours == nil }
    /// Where the block is entered, and the offset in its page.
    private(set) var entry = 0
    private(set) var start: UInt64 = 0
    /// Whether somebody may see the flags that the block begins with.
    private(set) var startNeedsFlags = true
    var loop: Loop?
    /// Not nil while the second copy of a loop is written.
    var shape: LoopShape?
    /// What is written: one copy of the code.
    private var unit = TranslationUnit()
    /// Not nil while the third copy of a loop is written.
    var streams: AccessStreams? { unit.streams }
    /// What the free registers have whenever the third copy of a loop begins.
    var bases = FreeRegisters()
    /// Whether an instruction needs no register but those of its address.
    var sparesFirst = false
    /// Calls whose functions are in the code.
    var inlinedCalls: UInt64 = 0
    /// Indirect jumps that go on where they are expected to lead.
    var expectedJumps: UInt64 = 0
    /// Whether the code has a copy for accesses that run through pages.
    var hasStreams = false
    /// What registers have here as sums of what they had at the start; nil where nobody asks, or nothing is known.
    var values: RegisterValues?
    private var asides: [Branch] = []
    /// What this copy of the code puts into the context for groups.
    var groupStores = GroupStores()
    /// The slots of the headers of blocks that were joined to this one, in all its copies.
    private(set) var joined: [UInt32] = []
    /// What is to be written next, where control comes to it, and what is charged before it.
    private var join: (run: Int, count: Int32)?

    // The instruction being translated.
    var slot: UInt32 = 0
    /// The first slot of the run of instructions that it belongs to.
    private(set) var run: UInt32 = 0
    /// The call that the code is inlined for, which the host knows nothing of; nil where it is not.
    var call: InlinedCall?
    /// How many expected jumps lead to it from the start.
    private(set) var jumps = 0
    /// For an indirect jump, the target that it is expected to lead to, an offset from the page base.
    private(set) var expectedTarget: UInt64?
    /// Its number in the block, from 1: what is charged when the block ends with it.
    var count: Int32 = 0
    /// A jump of this instruction that leads to `.interpret`.
    private struct Miss {
        var place: Int
        var state: BlockState
        /// What may help before, and where the code goes on then.
        var crossing: (routine: Int, resume: Int)?
        var isWrite = false
        var search: Search?

        /// Looks elsewhere before, if the access has only looked in one place.
        func searching(_ aside: Aside) -> Aside { search.map { .find($0, otherwise: aside) } ?? aside }
    }
    private var misses: [Miss] = []
    /// Whether the interpreter may run the instruction, and the code go on behind it.
    var mayBeInterpreted: Bool { !misses.isEmpty }
    /// How its accesses find their memory.
    private(set) var operandWay = AccessWay.alone
    private(set) var stackWay = AccessWay.alone
    /// It changes a register that the flags would follow from, and they are needed after it.
    private(set) var losesFlags = false
    /// Whether the next instruction moves the stack pointer as well, and needs to know it for nothing else.
    private(set) var movesStackNext = false
    /// What the stack pointer must still be moved by.
    var stackMoved: Int32 = 0

    /// The guest's register in the context whose value the first register has, too.
    var held: UInt8? {
        get { code.known.held }
        set { code.known.held = newValue }
    }

    var state = BlockState()
    var flags: FlagState {
        get { state.flags }
        set { state.flags = newValue }
    }
    var vectorsLoaded: Bool {
        get { state.vectorsLoaded }
        set { state.vectorsLoaded = newValue }
    }
    var x87Loaded: Bool {
        get { state.x87Loaded }
        set { state.x87Loaded = newValue }
    }

    init(
        _ code: consuming Assembler, _ routines: SharedRoutines, _ set: AccessSet, farTargets: Range<Int>,
        leavesSystem: Bool, neighbours: TranslationSource?
    ) {
        self.code = code
        self.routines = routines
        self.set = set
        self.farTargets = farTargets
        self.leavesSystem = leavesSystem
        self.neighbours = neighbours
        asides.reserveCapacity(32)
    }

    /// Writes the code for `count` instructions from `firstSlot`, and the closing slot. Returns where to enter it.
    mutating func translate(
        _ firstSlot: UInt32, count total: Int, owner: UInt32, _ instruction: (UInt32) -> DecodedInstruction
    ) -> Int {
        let first = instruction(firstSlot)
        start = UInt64(first.pageOffset)
        entry = prologue(start, owner)
        if !isPlain, first.nextPageOffset > 4096, !enterNextPage(for: start, count: 0) {
            aside(code.jump(), .dispatch(target: start, site: 0))
        }
        let unit = plan(firstSlot, total, instruction)
        // Whether the next page is the right one is found out before them.
        startNeedsFlags = unit.needsFlags || first.nextPageOffset > 4096
        translateOnce(unit, instruction)
        if let loop {
            translateLoop(loop.state, unit, instruction) {
                $0.plan(firstSlot, total, streams: $1, instruction)
            }
        }
        return entry
    }

    private func plan(
        _ firstSlot: UInt32, _ total: Int, streams: AccessStreams? = nil, _ instruction: (UInt32) -> DecodedInstruction
    ) -> TranslationUnit {
        TranslationUnit(
            firstSlot, min(total, Self.longest), start: start, neighbours: neighbours, leavesSystem: leavesSystem,
            streams: streams, instruction)
    }

    /// Writes the code once, with the blocks that are joined to it and what lies beside it.
    mutating func translateOnce(_ unit: TranslationUnit, _ instruction: (UInt32) -> DecodedInstruction) {
        self.unit = unit
        translateStraight(0, after: 0, instruction)
        translateJoined(instruction)
        translateAsides(instruction)
        groupStores.dropUnused(&code)
    }

    /// Writes what lies beside the straight path.
    mutating func translateAsides(_ instruction: (UInt32) -> DecodedInstruction) {
        // Asides may make others.
        var next = 0
        while next < asides.count {
            let branch = asides[next]
            if case .branch(let target, let count) = branch.aside {
                begin(branch)
                edge(target, count: count)
                translateJoined(instruction)
            } else {
                code.switchSection()
                begin(branch)
                translateAside(branch.aside)
                code.switchSection()
            }
            next += 1
        }
        asides.removeAll(keepingCapacity: true)
    }

    /// Writes the blocks that control goes on in from here.
    private mutating func translateJoined(_ instruction: (UInt32) -> DecodedInstruction) {
        while let (next, count) = join {
            join = nil
            if unit.runs[next].call == nil, unit.runs[next].jumps == 0 {
                let origin = call.map { (run: $0.run, slot: $0.slot) } ?? (run, slot)
                shape?.begin(unit.runs[next].firstSlot, from: origin)
            }
            translateStraight(next, after: count, instruction)
        }
    }

    /// Writes the straight path of a run of the unit, with `before` instructions to be charged when it begins.
    private mutating func translateStraight(
        _ number: Int, after before: Int32, _ instruction: (UInt32) -> DecodedInstruction
    ) {
        code.forgetAll()
        if number == 0 { code.known = bases }
        run = unit.runs[number].firstSlot
        call = unit.runs[number].call
        jumps = unit.runs[number].jumps
        let total = unit.runs[number].steps.count
        var open = true
        for position in 0..<total where open {
            let step = unit.runs[number].steps[position]
            slot = run + UInt32(position)
            self.count = before + Int32(position + 1)
            let i = instruction(slot)
            let plan = step.plan
            misses.removeAll(keepingCapacity: true)
            operandWay = unit.operand(number, position)
            stackWay = unit.stack(number, position)
            expectedTarget = step.expectedTarget
            movesStackNext = unit.onlyMovesStack(number, position + 1, instruction(slot + 1))
            let source = flags.replay?.registers ?? 0
            let written = step.loadsKnown ? RegisterUse.writtenBesideLoad(i) : RegisterUse.written(i, plan)
            let changesSource = written & source != 0
            let use = plan.flagUse(i)
            losesFlags =
                changesSource && !step.live.subtracting(use.replaces).isEmpty && !steps(i, plan)
            if losesFlags, step.loadsKnown || !plan.canStop(i) { keepFlags() }
            if plan == .system || plan == .systemHelper {
                values = nil
                state.knowsNextPage = false
            } else {
                values?.note(i, plan)
            }
            switch plan {
            case .nothing: break
            case .integer where step.loadsKnown: skipLoad(i)
            case .integer: translateInteger(i, step.live)
            case .vector: translateVector(i)
            case .x87: translateX87(i)
            case .string: translateString(i)
            case .helper: callInterpreter(i)
            case .system:
                translateSystem(i)
                open = false
            case .systemHelper:
                callInterpreter(i)
                edge(i.nextPageOffset, count: self.count)
                open = false
            case .interruptReturn:
                translateInterruptReturn(i)
                open = false
            case .leave:
                saveFlags()
                let place = code.jump()
                leaveAside(place, charging: true)
                open = false
            case .flow where step.loadsKnown:
                goOnBehindCall(i)
                open = false
            case .flow: open = translateFlow(i, after: position > 0 ? instruction(slot - 1) : nil)
            }
            if changesSource, !use.changes { flags.replay = nil }
            for miss in misses {
                let resume = here
                var aside = i.usesX87 ? Aside.interpretX87(resume: resume) : .interpret(resume: resume)
                if let (routine, resume) = miss.crossing {
                    aside =
                        miss.isWrite
                        ? .write(routine, i, otherwise: aside) : .read(routine, resume: resume, otherwise: aside)
                }
                append(miss.place, miss.state, miss.searching(aside))
            }
        }
        if open {
            let end = instruction(run + UInt32(total))
            self.count = before + Int32(total)
            edge(UInt64(end.pageOffset), count: self.count)
        }
    }

    /// Whether `i` is one of INC and DEC that leaves CF in the context.
    private func steps(_ i: DecodedInstruction, _ plan: TranslationPlan) -> Bool {
        plan == .integer && FlagReplay(i, hasCarry: flags.hasCarryInContext)?.takesCarry == true
    }

    /// The interpreter runs `i`.
    mutating func callInterpreter(_ i: DecodedInstruction) {
        showState()
        code.moveImmediate(.second, UInt64(slot))
        code.call(i.usesX87 ? routines.interpretX87 : routines.interpret)
        if i.usesX87 { x87Loaded = false }
        flags = FlagState(inHost: true, inContext: true)
    }

    /// What code does that became invalid, and in front of its entry where that is and whose it is (`CodeEntry`).
    private mutating func prologue(_ pageOffset: UInt64, _ owner: UInt32) -> Int {
        code.switchSection()
        let detour = code.position
        leaveFor(pageOffset, site: Int(Self.invalidCode))
        code.switchSection()
        while (code.position + CodeEntry.size) & 15 != 0, !code.overflowed { code.byte(0xcc) }
        code.doubleWord(Int32(bitPattern: owner))
        code.doubleWord(Int32(truncatingIfNeeded: detour))
        return code.position
    }

    /// In place of a jump that can be linked: control came to invalid code.
    static let invalidCode: UInt32 = 1

    // MARK: Flags

    /// Puts the flags into the context, as anybody who sees the guest's state expects them. Changes no flag that is needed.
    mutating func saveFlags() {
        guard !flags.inContext else { return }
        restoreFlags()
        let spare = held == nil ? HostRegister.first : .second
        code.move(spare, .rax)
        code.byte(0x9f)  // LAHF
        code.instruction(wide: false, .map0F, 0x90, reg: 0, rm: .register(.rax))  // SETO AL
        code.instruction(prefix: 0x66, wide: false, 0x89, reg: 0, rm: .context(ContextLayout.flags))
        code.move(.rax, spare)
        flags.inContext = true
    }

    /// Puts the flags into the host's flags, `needed` at least. Uses the first register.
    mutating func restoreFlags(_ needed: Flags = .status) {
        if flags.inHost, !flags.hostLacksCarry || !needed.contains(.carry) { return }
        if let replay = flags.replay { replay.write(&self) } else { code.loadFlags() }
        flags.inHost = true
        flags.hostLacksCarry = false
    }

    /// To be called before the host's flags change for another reason: the guest's are saved if they are nowhere else.
    mutating func giveUpHostFlags() {
        if flags.replay == nil { saveFlags() }
        flags.inHost = false
        flags.hostLacksCarry = false
    }

    /// To be called when nothing before the instruction itself changes the host's flags any more: the guest's are brought
    /// there if the instruction changes a register that they follow from. Uses the first register.
    mutating func keepFlags() {
        guard losesFlags, !flags.inContext else { return }
        restoreFlags()
        flags.replay = nil
    }

    // MARK: Leaving the straight path

    /// Puts into the context what is not there yet, for anybody who sees the guest's state from here on.
    mutating func showState() {
        saveFlags()
        storeX87Record()
    }

    /// A jump to the interpretation of this instruction, which was just written with its displacement at `place`.
    /// - Parameter search: how the access goes on before, if it has only looked in one place.
    mutating func interpretAside(_ place: Int, _ search: Search? = nil) {
        misses.append(Miss(place: place, state: state, search: search))
    }

    /// The same from a look into the soft TLB for `size` bytes, behind which the code is now. Where many are known to lie in two
    /// pages, in plain code, `isWrite` says whether `i` writes and does nothing else.
    mutating func crossingAside(_ place: Int, size: Int32, isWrite: Bool, _ search: Search? = nil) {
        let routine = routines.crossingAccesses.routine(set, size: size, isWrite ? .write : .read)
        misses.append(
            Miss(
                place: place, state: state, crossing: routine.map { ($0, code.position) }, isWrite: isWrite,
                search: search))
    }

    /// A jump out of the block before this instruction.
    mutating func leaveAside(_ place: Int, charging: Bool) {
        aside(place, .leave(count: charging ? count : 0))
    }

    /// The jumps to the interpretation of this instruction lead out of the block.
    mutating func leaveInstead(charging: Bool) {
        for miss in misses {
            append(miss.place, miss.state, miss.searching(.leave(count: charging ? count : 0)))
        }
        misses.removeAll(keepingCapacity: true)
    }

    mutating func aside(_ place: Int, _ aside: Aside) { append(place, state, aside) }

    private mutating func append(_ place: Int, _ state: BlockState, _ aside: Aside) {
        switch aside {
        case .branch, .read, .write, .find, .interpret, .interpretX87, .leave, .dispatch, .tail, .goElsewhere: break
        // The straight path may be come back to from there.
        default: code.forgetAll()
        }
        asides.append(
            Branch(
                place: place, run: run, slot: slot, call: call, jumps: jumps, state: state, values: values, aside: aside
            ))
    }

    /// What lies beside the straight path begins here.
    private mutating func begin(_ branch: Branch) {
        code.land(branch.place)
        run = branch.run
        slot = branch.slot
        call = branch.call
        jumps = branch.jumps
        state = branch.state
        values = branch.values
        code.forgetAll()
    }

    private mutating func translateAside(_ aside: Aside) {
        if case .read(let routine, let resume, let otherwise) = aside {
            code.call(routine)
            code.jump(if: HostCondition.equal, resume)
            return translateAside(otherwise)
        }
        if case .write(let routine, let instruction, let otherwise) = aside {
            code.call(routine)
            let refused = code.jump(if: HostCondition.notEqual)
            writeThrough(instruction)
            code.call(routines.crossingAccesses.finishWrite)
            let before = state
            // The straight path may have brought them there before it wrote.
            restoreFlags()
            if case .interpret(let resume) = otherwise { goOn(at: resume) }
            state = before
            code.land(refused)
            code.forgetAll()
            return translateAside(otherwise)
        }
        if case .find(let search, let otherwise) = aside {
            let missed = find(search)
            code.land(missed)
            code.forgetAll()
            return translateAside(otherwise)
        }
        if case .goElsewhere(let expected, let taken, let count) = aside {
            return goElsewhere(expected: expected, taken: taken, count: count)
        }
        showState()
        switch aside {
        case .read, .write, .find, .goElsewhere: break
        case .interpret(let resume):
            code.moveImmediate(.second, UInt64(slot))
            code.call(routines.interpret)
            goOn(at: resume)
        case .interpretX87(let resume):
            code.moveImmediate(.second, UInt64(slot))
            code.call(routines.interpretX87)
            code.call(routines.loadX87)
            goOn(at: resume)
        case .leave(let count):
            if count > 0 { charge(count) }
            code.moveImmediate(.second, UInt64(slot))
            code.jump(routines.leaveToInterpret)
        case .dispatch(let target, let site): leaveFor(target, site: site)
        case .storePageBase(let resume):
            code.store(.first, .context(ContextLayout.pageBase))
            code.jump(resume)
        case .again: code.jump(entry)
        case .findFarTarget(let target, let place, let resume): findFarTarget(target, place: place, resume: resume)
        case .findNextPage(let target, let place, let resume, let count):
            guard let page = neighbours?.nextPage else { break }
            findNextPage(page, target: target, place: place, resume: resume, count: count)
        case .findSecond(let resume, let otherwise):
            code.call(routines.findSecond)
            code.jump(if: HostCondition.equal, resume)
            translateAside(otherwise)
        case .revalidate(let resume, let otherwise):
            code.call(routines.revalidate)
            code.jump(if: HostCondition.equal, resume)
            translateAside(otherwise)
        case .leaveForTemporary(let taken): leaveForTemporary(taken: taken)
        case .returnElsewhere(let taken): returnElsewhere(taken: taken)
        case .branch: break
        case .tail(let count):
            beginCall()
            if count > 0 || streams != nil { charge(count) }
            // Leads to what follows until there is such code.
            let site = code.jump()
            code.land(site)
            code.moveImmediate(.first, UInt64(site))
            code.moveImmediate(.second, UInt64(slot))
            code.jump(routines.leaveToTail)
        case .load(let allowed, let routine, let resume, let count):
            code.instruction(wide: false, 0x80, reg: 7, rm: .context(allowed))
            code.byte(0)
            let refused = code.jump(if: HostCondition.equal)
            code.call(routine)
            code.jump(resume)
            self.aside(refused, .leave(count: count))
        }
    }

    /// Where the code is, and what the free registers have there.
    var here: Resumption { Resumption(place: code.position, known: code.known) }

    /// Returns the place of a jump for when it is not found.
    private mutating func find(_ search: Search) -> Int {
        switch search {
        case .kept(let page, let size, let resume): return findKept(page, size: size, resume: resume)
        case .stack(let use, let size, let aligned, let resume):
            let missed = findStack(size: size, use, aligned: aligned)
            goOn(at: resume)
            return missed
        }
    }

    /// Goes back to the straight path.
    private mutating func goOn(at resume: Resumption) {
        load(resume.known)
        code.jump(resume.place)
    }

    /// The free registers get what they shall have, where they have it not. The host's flags stay.
    mutating func load(_ wanted: FreeRegisters) {
        if let held = wanted.held, self.held != held, case .slot(let place) = GuestHome.of(held) {
            code.load(.first, .context(place))
        }
        if let place = wanted.reached { loadSecond(place) }
        if let place = wanted.reachedByFirst { loadFirst(place) }
    }

    /// The place in the context for what is known of the next page; nil if there is no room.
    mutating func takeNextPagePlace() -> Int? {
        if nextPagePlace == nil { nextPagePlace = takeFarTarget() }
        return nextPagePlace
    }

    /// The block ends, and control goes to `target`, an offset from the page base.
    mutating func edge(_ target: UInt64, count: Int32) {
        if leadsBack(target) { return repeatBlock(count: count) }
        if !join(target, count: count) { endBlock(target, count: count) }
    }

    /// Goes on with the block at `target`, if that is joined to the present one there. Returns whether it is.
    mutating func join(_ target: UInt64, count: Int32) -> Bool {
        let edge = TranslationUnit.Edge(run: run, slot: slot, target: target, call: call, jumps: jumps)
        guard let next = unit.run(behind: edge),
            !unit.runs[next].needsNextPage || enterNextPage(for: target, count: count)
        else { return false }
        let header = unit.runs[next].firstSlot - 1
        if header != unit.runs[0].firstSlot - 1, !joined.contains(header) { joined.append(header) }
        join = (next, count)
        return true
    }

    /// The same where the next block shall have its own code.
    mutating func endBlock(_ target: UInt64, count: Int32) {
        beginCall()
        chargeOrLeave(for: target, count: count)
        goOn(target)
    }
}

extension Assembler {
    /// The flags of the context become the host's.
    mutating func loadFlags() {
        move(.first, .rax)
        instruction(wide: false, .map0F, 0xb7, reg: 0, rm: .context(ContextLayout.flags))
        byte(0x04)  // ADD AL, 7F: overflows if OF was set
        byte(0x7f)
        byte(0x9e)  // SAHF
        move(.rax, .first)
    }
}
