// SPDX-License-Identifier: Apache-2.0
// Blocks that jump to their own start: a second copy of their code, and a third one for accesses that run through pages.

/// How a block that jumps to itself is when it does: other copies of its code begin like that.
struct Loop {
    var state: BlockState
    /// The jumps to the next copy.
    var places: [Int] = []
    /// Those to the head of the third copy, from its end.
    var ends: [Int] = []

    init(state: BlockState) {
        self.state = state
        // Who comes back with the flags in the context need not have them from the same instruction.
        if state.flags.inContext { self.state.flags.replay = nil }
    }
}

extension BlockTranslator {
    /// Times that a loop must still go round for its third copy to be worth entering, less one.
    private static let fewestTimes: Int32 = 3
    /// Times that loops go round, all taken together, between two attempts to enter a third copy from a second one. Most loops
    /// are short.
    private static let patience: Int32 = 6

    /// Whether `target`, an offset from the page base, is the start of the block itself.
    func leadsBack(_ target: UInt64) -> Bool { target == start && !isPlain && call == nil }

    /// Control goes back to the start of the block, or to what follows: by the jump whose displacement is at `skip`.
    mutating func repeatBlock(count: Int32, skip: Int) {
        let (before, known) = (state, code.known)
        repeatBlock(count: count)
        code.land(skip)
        (state, code.known) = (before, known)
    }

    /// Control goes to the start of the block itself, where the flags may be as they are now.
    mutating func repeatBlock(count: Int32) {
        // A way through expected jumps may have an instruction several times.
        shape?.comeBack(run, slot, jumps == 0 ? values : nil, count: count)
        // The first copy leaves when the time slice is over, and all see its flags then. The others go on in it for that.
        let needsFlags = startNeedsFlags || shape == nil && streams == nil
        if needsFlags {
            giveUpHostFlags()
            if loop?.state.isMet(by: state, needsFlags: true) == false { saveFlags() }
        }
        flags.inHost = false
        if loop == nil { loop = Loop(state: state) }
        let isMet = loop?.state.isMet(by: state, needsFlags: needsFlags) == true
        if !isMet { storeX87Record() }
        let staysInStreams = streams != nil && isMet
        if staysInStreams {
            load(bases)
            code.arithmetic(5, wide: false, .context(ContextLayout.budget), count)
        } else {
            charge(count)
        }
        let back = code.jump(if: staysInStreams ? HostCondition.greater : HostCondition.notNegative, entry)
        if isMet { loop?.places.append(back) }
        let end = code.jump()
        if staysInStreams {
            loop?.ends.append(end)
        } else {
            aside(end, needsFlags ? .dispatch(target: start, site: 0) : .again)
        }
    }

    /// Writes the other copies of the code of a loop, whose first one is of `unit` and comes back in `state`. The second one begins
    /// so. The third has accesses that it does not look up, and is entered where that is so for some times that it goes round.
    /// - Parameter plan: plans a unit with streams.
    mutating func translateLoop(
        _ state: BlockState, _ unit: TranslationUnit, _ instruction: (UInt32) -> DecodedInstruction,
        plan: (borrowing BlockTranslator, AccessStreams) -> TranslationUnit
    ) {
        code.align()
        let second = code.position
        for place in takePlaces() { code.land(place) }
        self.state = state
        shape = LoopShape()
        values = RegisterValues(knowsHalves: true)
        translateOnce(unit, instruction)
        values = nil
        let shape = self.shape
        self.shape = nil
        let places = takePlaces()
        var target = second
        if let shape, !shape.gains.isEmpty {
            let unit = plan(self, AccessStreams(shape))
            if let streams = unit.streams, !streams.streams.isEmpty {
                target = translateStreams(unit, streams, state, second: second, instruction)
            }
        }
        for place in places { code.link(place, to: target) }
    }

    private mutating func takePlaces() -> [Int] {
        defer { loop?.places.removeAll() }
        return loop?.places ?? []
    }

    // MARK: The third copy

    /// Writes the third copy. Returns where its head is.
    private mutating func translateStreams(
        _ unit: TranslationUnit, _ streams: AccessStreams, _ state: BlockState, second: Int,
        _ instruction: (UInt32) -> DecodedInstruction
    ) -> Int {
        code.align()
        let body = code.position
        self.state = state
        bases = FreeRegisters(basesOf: unit)
        translateOnce(unit, instruction)
        hasStreams = true
        for place in takePlaces() { code.link(place, to: body) }
        let head = code.position
        code.arithmetic(5, wide: false, .context(ContextLayout.patience), 1)
        code.jump(if: HostCondition.notNegative, second)
        store(Self.patience, ContextLayout.patience)
        self.state = state
        enterStreams(streams.streams, leastCount: streams.shape.leastCount, body: body, otherwise: second)
        translateAsides(instruction)
        return head
    }

    /// Looks up the pages of `streams`, and goes on in `body` for as long as they stay in them, or the time slice lasts;
    /// goes on in `otherwise` where that is too short.
    private mutating func enterStreams(
        _ streams: [AccessStreams.Stream], leastCount: Int32, body: Int, otherwise: Int
    ) {
        code.forgetAll()
        for register in halves(streams) { code.link(checkHalf(register), to: otherwise) }
        for (number, stream) in streams.enumerated() where stream.stride == 0 {
            for place in lookUp(stream) { code.link(place, to: otherwise) }
            code.instruction(
                wide: true, 0x03, reg: HostRegister.second.rawValue,
                rm: .memory(tlbEntry(TranslationBuffer.Entry.hostOffset)))
            code.address(.second, HostMemory(.second, Int32(truncatingIfNeeded: -stream.low)))
            code.store(.second, .context(AccessStreams.place(number)))
        }
        let ends = loop?.ends ?? []
        let moving = streams.enumerated().filter { $0.element.stride != 0 }
        guard !moving.isEmpty else {
            enter(body)
            for place in ends { code.land(place) }
            if startNeedsFlags {
                code.arithmetic(7, wide: false, .context(ContextLayout.budget), 0)
                aside(code.jump(if: HostCondition.negative), .dispatch(target: start, site: 0))
            }
            code.jump(otherwise)
            return
        }
        // Pages that other loops went through are not known.
        if moving.count > 1 { store(4096, ContextLayout.times) }
        let begin = code.jump()
        for place in ends { code.land(place) }
        // It is a long one.
        store(0, ContextLayout.patience)
        code.land(begin)
        var missed = halves(streams.filter { $0.stride != 0 }).map { checkHalf($0) }
        var least: Int?
        for (order, (number, stream)) in moving.enumerated() {
            missed += enter(stream, number, mayBeKnown: moving.count > 1, least: least)
            least = ContextLayout.otherTemporary
            if order == 0 {
                least = ContextLayout.streamRooms + number * 4
            } else if order < moving.count - 1 {
                store32(.first, ContextLayout.otherTemporary)
            }
        }
        let (few, over) = limit(leastCount: leastCount, body: body)
        // Most often one access lies in two pages.
        for place in missed + [over] { code.land(place) }
        store(0, ContextLayout.patience)
        let leave = code.position
        takeHeldBack()
        addToBudget()
        if startNeedsFlags { aside(code.jump(if: HostCondition.negative), .dispatch(target: start, site: 0)) }
        code.jump(otherwise)
        code.land(few)
        // The next attempt is behind them.
        store32(.first, ContextLayout.patience)
        code.jump(leave)
    }

    /// Shortens the time slice to the times in the first register, and goes on in `body`. Returns the places of jumps for when the
    /// times are few, and for when the time slice is over.
    private mutating func limit(leastCount: Int32, body: Int) -> (few: Int, over: Int) {
        let (first, second) = (HostRegister.first.rawValue, HostRegister.second.rawValue)
        code.arithmetic(7, wide: false, .register(.first), Self.fewestTimes)
        let few = code.jump(if: HostCondition.below)
        // The loop goes round once more than it moves on, until nothing is left.
        code.instruction(wide: false, 0xff, reg: 0, rm: .register(.first))  // INC
        store32(.first, ContextLayout.times)
        code.instruction(wide: false, 0x69, reg: first, rm: .register(.first))  // IMUL
        code.doubleWord(leastCount)
        code.instruction(wide: false, 0x8b, reg: second, rm: .context(ContextLayout.budget))
        code.instruction(wide: false, 0x03, reg: second, rm: .context(ContextLayout.heldBack))
        let over = code.jump(if: HostCondition.negative)
        code.instruction(wide: false, 0x2b, reg: second, rm: .register(.first))
        let isShort = code.jump(if: HostCondition.lessOrEqual)
        store32(.second, ContextLayout.heldBack)
        store32(.first, ContextLayout.budget)
        enter(body)
        code.land(isShort)
        code.address(.second, HostMemory(.second, index: .first))
        store32(.second, ContextLayout.budget)
        store(0, ContextLayout.heldBack)
        enter(body)
        return (few, over)
    }

    /// The linear address of a stream becomes the offset in its page, in the second register, and the first one leads to the
    /// page's entry in the soft TLB. Returns the places of jumps for when it cannot be reached.
    private mutating func lookUp(_ stream: AccessStreams.Stream) -> [Int] {
        var missed: [Int] = []
        makeSum(stream.terms, plus: stream.low)
        if let aligned = stream.aligned {
            code.address(.first, HostMemory(.second, Int32(truncatingIfNeeded: aligned - stream.low)))
            code.instruction(wide: false, 0xf6, reg: 0, rm: .register(.first), isByte: true)  // TEST
            code.byte(15)
            missed.append(code.jump(if: HostCondition.notEqual))
        }
        return missed + [checkPage(size: stream.span, stream.use, aligned: false)]
    }

    /// The registers whose lower halves, extended with the sign, are in the addresses of `streams`.
    private func halves(_ streams: [AccessStreams.Stream]) -> [UInt8] {
        var registers: [UInt8] = []
        for stream in streams {
            for index in 0..<stream.terms.count {
                let origin = stream.terms.term(index).origin
                guard origin >= RegisterValues.halves else { continue }
                let register = UInt8(origin - RegisterValues.halves)
                if !registers.contains(register) { registers.append(register) }
            }
        }
        return registers
    }

    /// Returns the place of a jump for when the lower half of a register is near the end of what 32 bits with a sign can have. A loop
    /// with streams moves it by less than 512 times 4096.
    private mutating func checkHalf(_ register: UInt8) -> Int {
        let margin: Int32 = 1 << 22
        let first = HostRegister.first
        load(register, first)
        code.instruction(
            wide: false, 0x8d, reg: first.rawValue, rm: .memory(HostMemory(first, .max - margin + 1)))  // LEA
        code.arithmetic(7, wide: false, .register(first), -2 * margin)
        return code.jump(if: HostCondition.aboveOrEqual)
    }

    /// A register of the guest becomes one of the host.
    private mutating func load(_ register: UInt8, _ target: HostRegister) {
        switch home(register, apartFrom: target) {
        case .register(let host): code.move(target, host)
        case .slot(let place): code.load(target, .context(place))
        case nil: code.moveImmediate(target, 0)
        }
    }

    /// The second register becomes the sum of what `value` has of registers and `distance`. Uses the first one.
    private mutating func makeSum(_ value: LinearValue, plus distance: Int64) {
        let displacement = Int32(truncatingIfNeeded: distance)
        guard value.count > 0 else { return code.moveImmediate(.second, UInt64(bitPattern: distance)) }
        // One that needs no multiplication is first.
        let lead = (0..<value.count).first { value.term($0).factor == 1 } ?? 0
        makeTerm(value.term(lead), .second)
        for index in 0..<value.count where index != lead { addToSecond(value.term(index)) }
        if displacement != 0 { code.address(.second, HostMemory(.second, displacement)) }
    }

    /// Adds a part of an address to the second register. May use the first one.
    private mutating func addToSecond(_ term: LinearValue.Term) {
        var (term, scale) = (term, UInt8(0))
        if [2, 4, 8].contains(term.factor) {
            scale = UInt8(term.factor.trailingZeroBitCount)
            term.factor = 1
        }
        var index = HostRegister.first
        if term.origin < RegisterValues.registers, term.factor == 1,
            case .register(let host) = home(UInt8(term.origin), apartFrom: .second)
        {
            index = host
        } else {
            makeTerm(term, index)
        }
        code.address(.second, HostMemory(.second, index: index, scale: scale))
    }

    private mutating func makeTerm(_ term: LinearValue.Term, _ target: HostRegister) {
        let isHalf = term.origin >= RegisterValues.halves
        load(UInt8(truncatingIfNeeded: isHalf ? term.origin - RegisterValues.halves : term.origin), target)
        if isHalf { code.instruction(wide: true, 0x63, reg: target.rawValue, rm: .register(target)) }  // MOVSXD
        if term.factor != 1 {
            code.instruction(wide: true, 0x69, reg: target.rawValue, rm: .register(target))  // IMUL
            code.doubleWord(Int32(term.factor))
        }
    }

    /// Looks up the page of a stream. The first register becomes the number of times that it can move on there, or that of the
    /// streams before it if that is less. Returns the places of jumps for when it cannot be reached.
    /// - Parameters:
    ///   - mayBeKnown: whether the page of the last time may last.
    ///   - least: where the number of the streams before it is; nil if there are none.
    private mutating func enter(_ stream: AccessStreams.Stream, _ number: Int, mayBeKnown: Bool, least: Int?) -> [Int] {
        let (first, second) = (HostRegister.first.rawValue, HostRegister.second.rawValue)
        let room = ContextLayout.streamRooms + number * 4
        var known: Int?
        if mayBeKnown {
            code.instruction(wide: false, 0x8b, reg: first, rm: .context(room))
            code.instruction(wide: false, 0x2b, reg: first, rm: .context(ContextLayout.times))
            known = code.jump(if: HostCondition.notNegative)
        }
        let missed = lookUp(stream)
        code.store(.second, .context(ContextLayout.temporary))
        code.load(.second, tlbEntry(TranslationBuffer.Entry.hostOffset))
        code.instruction(wide: true, 0x2b, reg: second, rm: .memory(tlbEntry(stream.use.tagOffset)))
        if let term = stream.fixed { addToSecond(term) }
        code.store(.second, .context(AccessStreams.place(number)))
        code.load(.first, .context(ContextLayout.temporary))
        divideRoom(stream)
        if let known {
            code.land(known)
            store32(.first, room)
        }
        if let least {
            code.instruction(wide: false, 0x3b, reg: first, rm: .context(least))
            code.instruction(wide: false, .map0F, 0x47, reg: first, rm: .context(least))  // CMOVA
        }
        return missed
    }

    private mutating func store(_ value: Int32, _ place: Int) {
        code.instruction(wide: false, 0xc7, reg: 0, rm: .context(place))
        code.doubleWord(value)
    }

    private mutating func store32(_ register: HostRegister, _ place: Int) {
        code.instruction(wide: false, 0x89, reg: register.rawValue, rm: .context(place))
    }

    /// The offset of a stream in its page, in the first register, becomes the number of times that it can move on there.
    private mutating func divideRoom(_ stream: AccessStreams.Stream) {
        let first = HostOperand.register(.first)
        if stream.stride > 0 {
            code.instruction(wide: true, 0xf7, reg: 3, rm: first)  // NEG
            code.arithmetic(0, wide: true, first, 4096 - stream.span)
        }
        let distance = Int32(truncatingIfNeeded: stream.stride.magnitude)
        let shift: UInt8
        if distance.nonzeroBitCount == 1 {
            shift = UInt8(distance.trailingZeroBitCount)
        } else {
            // Exact for numbers below 4096 and distances up to 512.
            shift = 24
            code.instruction(wide: true, 0x69, reg: HostRegister.first.rawValue, rm: first)  // IMUL
            code.doubleWord(((1 << 24) + distance - 1) / distance)
        }
        code.instruction(wide: true, 0xc1, reg: 5, rm: first)  // SHR
        code.byte(shift)
    }

    /// The first register becomes what was held back, of which nothing is left.
    mutating func takeHeldBack() {
        code.instruction(
            wide: false, 0x8b, reg: HostRegister.first.rawValue, rm: .context(ContextLayout.heldBack))
        store(0, ContextLayout.heldBack)
    }

    /// Adds the first register to the time slice; the sign flag says whether it is over.
    mutating func addToBudget() {
        code.instruction(wide: false, 0x01, reg: HostRegister.first.rawValue, rm: .context(ContextLayout.budget))
    }

    /// Goes on in the third copy of the loop.
    private mutating func enter(_ body: Int) {
        code.forgetAll()
        load(bases)
        code.jump(body)
    }

    /// A register becomes what the context has at the place of a stream.
    mutating func loadBase(_ place: Int) -> HostRegister {
        if code.known.reached != place, sparesFirst, !losesFlags, bases.reachedByFirst == place {
            loadFirst(place)
            return .first
        }
        loadSecond(place)
        return .second
    }

    /// The first register becomes what is at `place` of the context, where a stream is.
    mutating func loadFirst(_ place: Int) {
        guard code.known.reachedByFirst != place else { return }
        code.load(.first, .context(place))
        code.known.reachedByFirst = place
    }

    /// The memory of a stream with this place, to which `rest` is added. Uses the first register; the host's flags stay.
    mutating func reachMoving(_ place: Int, _ rest: GuestAddress) -> HostMemory {
        switch (home(rest.base, apartFrom: .second), home(rest.index, apartFrom: .second)) {
        case (.register(.first), nil), (nil, .register(.first)):
            loadSecond(place)
            code.address(.second, HostMemory(.second, index: .first, scale: rest.scale))
            return HostMemory(.second, rest.displacement)
        case (.register(let register), nil), (nil, .register(let register)):
            return HostMemory(loadBase(place), index: register, scale: rest.scale, rest.displacement)
        case (.slot(let slot), nil), (nil, .slot(let slot)):
            code.load(.second, .context(slot))
            code.load(.first, .context(place))
            code.address(.second, HostMemory(.first, index: .second, scale: rest.scale))
            return HostMemory(.second, rest.displacement)
        case (.register(let base), .register(let index)) where index != .first:
            loadSecond(place)
            code.address(.second, HostMemory(.second, index: base))
            return HostMemory(.second, index: index, scale: rest.scale, rest.displacement)
        case (.slot(let base), .register(let index)) where index != .first:
            code.load(.second, .context(base))
            code.load(.first, .context(place))
            code.address(.second, HostMemory(.second, index: .first))
            return HostMemory(.second, index: index, scale: rest.scale, rest.displacement)
        default:
            makeOffset(rest, .second, spare: .first)
            code.load(.first, .context(place))
            code.address(.second, HostMemory(.second, index: .first))
            return HostMemory(.second)
        }
    }
}

extension FreeRegisters {
    /// What they keep while a loop goes round in its third copy, which is of `unit`: where the stream is that is used first, and where the
    /// next one is that a vector instruction uses. Only those need no other register and find it in the first one.
    fileprivate init(basesOf unit: TranslationUnit) {
        for (number, run) in unit.runs.enumerated() {
            for (position, step) in run.steps.enumerated() {
                guard case .stream(let member) = unit.operand(number, position) else { continue }
                if reached == nil {
                    reached = member.place
                } else if reachedByFirst == nil, member.place != reached, step.plan == .vector {
                    reachedByFirst = member.place
                }
            }
        }
    }
}
