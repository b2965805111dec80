// SPDX-License-Identifier: Apache-2.0
// One decoded block to host code: the order of things, flags, and what lies beside the straight path.

/// Translates one block.
///
/// At a block's start, and wherever translated code is left, the guest's status flags are in the context. In between they
/// may be in the host's flags as well, or only there.
struct BlockTranslator: ~Copyable {
    /// Code beside the straight path.
    enum Aside {
        /// The interpreter runs the instruction in `slot`, then the code goes on at `resume`.
        case interpret(resume: Int)
        /// The same of an instruction that uses the x87 unit, which is in the host's before and after.
        case interpretX87(resume: Int)
        /// Translated code ends before the instruction in `slot`; `count` instructions are charged to the time slice.
        case leave(count: Int32)
        /// Leaves for `target`, an offset from the page base; `site` is the place of a jump that can be linked to it, or 0.
        case dispatch(target: UInt64, site: Int)
        /// The code at `target`, an offset from the page base, is not known at `place` of the context.
        case findFarTarget(_ target: UInt64, place: Int, resume: Int)
        /// A return, which takes `taken` bytes from the stack, leads elsewhere than the last call came from.
        case returnElsewhere(taken: Int32)
        /// The condition of a jump in the block holds.
        case branch(target: UInt64, count: Int32, savesFlags: Bool)
        /// Registers of the guest must be loaded first, or the interpreter must run the instruction.
        case load(allowed: Int, routine: Int, resume: Int, count: Int32)
    }

    private struct Branch {
        /// Where the displacement of the jump to it is.
        var place: Int
        var slot: UInt32
        var aside: Aside
    }

    static let longest = 64

    var code: Assembler
    let routines: SharedRoutines
    let set: AccessSet
    /// Whether all that looks at system flags or changes them is left to the interpreter, which a check does once.
    private let leavesSystem: Bool
    /// How many far targets of the context are in use.
    var farTargets: Int
    private var asides: [Branch] = []

    // The instruction being translated.
    var slot: UInt32 = 0
    /// Its number in the block, from 1: what is charged when the block ends with it.
    var count: Int32 = 0
    /// The jumps of this instruction that lead to `.interpret`.
    private var misses: [Int] = []

    /// The guest's flags are in the host's flags; in the context.
    var flagsInHost = false
    var flagsInContext = true
    /// The block has made sure that the vector registers are loaded.
    var vectorsLoaded = false
    /// The block has made sure that the x87 unit is in the host's, and noted the page of its last instruction.
    var x87Loaded = false
    var x87PageNoted = false

    init(
        _ code: consuming Assembler, _ routines: SharedRoutines, _ set: AccessSet, farTargets: Int, leavesSystem: Bool
    ) {
        self.code = code
        self.routines = routines
        self.set = set
        self.farTargets = farTargets
        self.leavesSystem = leavesSystem
        asides.reserveCapacity(32)
    }

    /// Writes the code for `count` instructions from `firstSlot`, and the closing slot. Returns where to enter it.
    mutating func translate(
        _ firstSlot: UInt32, count total: Int, _ instruction: (UInt32) -> DecodedInstruction
    ) -> Int {
        let entry = prologue(UInt64(instruction(firstSlot).pageOffset))
        let total = min(total, Self.longest)
        var plans = InlineArray<64, TranslationPlan>(repeating: .leave)
        var live = InlineArray<64, Flags>(repeating: .status)
        for position in 0..<total { plans[position] = plan(instruction(firstSlot + UInt32(position))) }
        var needed = Flags.status
        for position in stride(from: total - 1, through: 0, by: -1) {
            let i = instruction(firstSlot + UInt32(position))
            live[position] = needed
            let use = plans[position].flagUse(i)
            needed = plans[position].canStop(i) ? .status : needed.subtracting(use.replaces).union(use.reads)
        }
        var open = true
        for position in 0..<total where open {
            slot = firstSlot + UInt32(position)
            self.count = Int32(position + 1)
            let i = instruction(slot)
            misses.removeAll(keepingCapacity: true)
            switch plans[position] {
            case .nothing: break
            case .integer: translateInteger(i, live[position])
            case .vector: translateVector(i)
            case .x87:
                translateX87(i, next: position + 1 < total ? instruction(slot + 1) : nil)
            case .helper:
                saveFlags()
                code.moveImmediate(.second, UInt64(slot))
                code.call(i.usesX87 ? routines.interpretX87 : routines.interpret)
                if i.usesX87 { x87Loaded = false }
                flagsInHost = true
            case .system:
                translateSystem(i)
                open = false
            case .systemHelper:
                saveFlags()
                code.moveImmediate(.second, UInt64(slot))
                code.call(routines.interpret)
                edge(i.nextPageOffset, count: self.count)
                open = false
            case .leave:
                saveFlags()
                let place = code.jump()
                leaveAside(place, charging: true)
                open = false
            case .flow: open = translateFlow(i, after: position > 0 ? instruction(slot - 1) : nil)
            }
            for place in misses {
                aside(
                    place, i.usesX87 ? .interpretX87(resume: code.position) : .interpret(resume: code.position))
            }
        }
        if open {
            let end = instruction(firstSlot + UInt32(total))
            self.count = Int32(total)
            saveFlags()
            edge(UInt64(end.pageOffset), count: self.count)
        }
        // Asides may make others.
        var next = 0
        while next < asides.count {
            translateAside(asides[next])
            next += 1
        }
        return entry
    }

    private func plan(_ i: DecodedInstruction) -> TranslationPlan {
        let plan = TranslationPlan.of(i)
        return leavesSystem && plan.isOfSystem(i) ? .leave : plan
    }

    /// What code that became invalid does is before its entry, which is overwritten with a jump to it.
    private mutating func prologue(_ pageOffset: UInt64) -> Int {
        code.align()
        let start = code.position
        leaveFor(pageOffset, site: 0)
        while code.position < start + Self.prologueSize, !code.overflowed { code.byte(0xcc) }
        return code.position
    }

    static let prologueSize = 32

    // MARK: Flags

    /// Puts the flags into the context, as anybody who sees the guest's state expects them. Changes no flag.
    mutating func saveFlags() {
        if !flagsInContext { emitSaveFlags() }
        flagsInContext = true
    }

    private mutating func emitSaveFlags() {
        code.move(.first, .rax)
        code.byte(0x9f)  // LAHF
        code.instruction(wide: false, .map0F, 0x90, reg: 0, rm: .register(.rax))  // SETO AL
        code.instruction(prefix: 0x66, wide: false, 0x89, reg: 0, rm: .context(ContextLayout.flags))
        code.move(.rax, .first)
    }

    /// Puts the flags from the context into the host's flags.
    mutating func restoreFlags() {
        if !flagsInHost { code.loadFlags() }
        flagsInHost = true
    }

    // MARK: Leaving the straight path

    /// A jump to the interpretation of this instruction, which was just written with its displacement at `place`.
    mutating func interpretAside(_ place: Int) { misses.append(place) }

    /// A jump out of the block before this instruction.
    mutating func leaveAside(_ place: Int, charging: Bool) {
        asides.append(Branch(place: place, slot: slot, aside: .leave(count: charging ? count : 0)))
    }

    /// The jumps to the interpretation of this instruction lead out of the block.
    mutating func leaveInstead(charging: Bool) {
        for place in misses { leaveAside(place, charging: charging) }
        misses.removeAll(keepingCapacity: true)
    }

    mutating func aside(_ place: Int, _ aside: Aside) {
        asides.append(Branch(place: place, slot: slot, aside: aside))
    }

    private mutating func translateAside(_ branch: Branch) {
        code.land(branch.place)
        slot = branch.slot
        switch branch.aside {
        case .interpret(let resume):
            code.moveImmediate(.second, UInt64(branch.slot))
            code.call(routines.interpret)
            code.jump(resume)
        case .interpretX87(let resume):
            code.moveImmediate(.second, UInt64(branch.slot))
            code.call(routines.interpretX87)
            code.call(routines.loadX87)
            code.jump(resume)
        case .leave(let count):
            if count > 0 { charge(count) }
            code.moveImmediate(.second, UInt64(branch.slot))
            code.jump(routines.leaveToInterpret)
        case .dispatch(let target, let site): leaveFor(target, site: site)
        case .findFarTarget(let target, let place, let resume): findFarTarget(target, place: place, resume: resume)
        case .returnElsewhere(let taken): returnElsewhere(taken: taken)
        case .branch(let target, let count, let savesFlags):
            if savesFlags { emitSaveFlags() }
            edge(target, count: count)
        case .load(let allowed, let routine, let resume, let count):
            code.instruction(wide: false, 0x80, reg: 7, rm: .context(allowed))
            code.byte(0)
            let refused = code.jump(if: HostCondition.equal)
            code.call(routine)
            code.jump(resume)
            asides.append(Branch(place: refused, slot: branch.slot, aside: .leave(count: count)))
        }
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
