// SPDX-License-Identifier: Apache-2.0
// Blocks that jump to their own start: a second copy of their code, and a third one for accesses that run through pages.

/// How a block that jumps to itself is when it does: other copies of its code begin like that.
struct Loop {
    var state: BlockState
    /// The jumps to the next copy.
    var places: [Int] = []
    /// Those to the head of the third copy, from its end.
    var ends: [Int] = []
}

extension BlockTranslator {
    /// Times that a loop must still go round for its third copy to be worth entering, less one.
    private static let fewestTimes: Int32 = 3
    /// Times that loops go round, all taken together, between two attempts to enter a third copy from a second one. Most loops
    /// are short.
    private static let patience: Int32 = 6

    /// Whether `target`, an offset from the page base, is the start of the block itself.
    func leadsBack(_ target: UInt64) -> Bool { target == start && !isPlain }

    /// Control goes back to the start of the block, or to what follows: by the jump whose displacement is at `skip`.
    mutating func repeatBlock(count: Int32, skip: Int) {
        let before = state
        repeatBlock(count: count)
        code.land(skip)
        state = before
    }

    /// Control goes to the start of the block itself, where the flags may be as they are now.
    mutating func repeatBlock(count: Int32) {
        shape?.comeBack(run, slot, values, count: count)
        giveUpHostFlags()
        if loop?.state.isMet(by: state) == false { saveFlags() }
        flags.inHost = false
        if loop == nil { loop = Loop(state: state) }
        let isMet = loop?.state.isMet(by: state) == true
        if !isMet { storeX87Record() }
        if streams != nil, isMet {
            code.arithmetic(5, wide: false, .context(ContextLayout.budget), count)
            aside(code.jump(if: HostCondition.negative), .endStreams)
        } else {
            charge(count)
            aside(code.jump(if: HostCondition.negative), .dispatch(target: start, site: 0))
        }
        if isMet { loop?.places.append(code.jump()) } else { code.jump(entry) }
    }

    /// Writes the other copies of the code of a loop, each by `write`. The second one begins as the first one ends. The third
    /// has accesses that it does not look up, and is entered where that is so for some times that it goes round.
    mutating func translateLoop(_ write: (inout BlockTranslator) -> Void) {
        guard let state = loop?.state else { return }
        code.align()
        let second = code.position
        landPlaces()
        self.state = state
        shape = LoopShape()
        values = RegisterValues()
        write(&self)
        let places = loop?.places ?? []
        let shape = self.shape
        self.shape = nil
        let third = shape.flatMap { translateStreams($0, state, second: second, write) }
        values = nil
        for place in places { code.link(place, to: third ?? second) }
    }

    private mutating func landPlaces() {
        for place in loop?.places ?? [] { code.land(place) }
        loop?.places.removeAll()
    }

    // MARK: The third copy

    /// Writes the third copy. Returns where its head is; nil if there is no such copy because the loop has no streams.
    private mutating func translateStreams(
        _ shape: LoopShape, _ state: BlockState, second: Int, _ write: (inout BlockTranslator) -> Void
    ) -> Int? {
        guard !shape.gains.isEmpty else { return nil }
        let (before, farBefore) = (code, farTargets)
        loop?.places.removeAll()
        code.align()
        let body = code.position
        self.state = state
        values = RegisterValues()
        streams = AccessStreams(shape)
        write(&self)
        let found = streams?.streams ?? []
        streams = nil
        guard !found.isEmpty else {
            code = before
            farTargets = farBefore
            return nil
        }
        hasStreams = true
        for place in loop?.places ?? [] { code.link(place, to: body) }
        let head = code.position
        code.arithmetic(5, wide: false, .context(ContextLayout.patience), 1)
        code.jump(if: HostCondition.notNegative, second)
        code.instruction(wide: false, 0xc7, reg: 0, rm: .context(ContextLayout.patience))
        code.doubleWord(Self.patience)
        for place in loop?.ends ?? [] { code.land(place) }
        enterStreams(found, leastCount: shape.leastCount, body: body, otherwise: second)
        return head
    }

    /// The accesses of a run of instructions that belong to streams.
    mutating func findStreams(
        _ plans: [TranslationPlan], _ run: UInt32, _ values: RegisterValues, _ instruction: (Int) -> DecodedInstruction
    ) -> RunStreams? {
        guard var streams else { return nil }
        let found = RunStreams(plans, run, values, &streams, instruction)
        self.streams = streams
        return found
    }

    /// Looks up the pages of `streams`, and goes on in `body` for as long as they stay in them, or the time slice lasts;
    /// goes on in `otherwise` where that is too short.
    private mutating func enterStreams(
        _ streams: [AccessStreams.Stream], leastCount: Int32, body: Int, otherwise: Int
    ) {
        let (first, second) = (HostRegister.first.rawValue, HostRegister.second.rawValue)
        let times = ContextLayout.otherTemporary
        var isLimited = false
        code.forgetAll()
        for (number, stream) in streams.enumerated() {
            let place = AccessStreams.place(number)
            makeOffset(stream.address, .second, spare: .first)
            if let aligned = stream.aligned {
                code.address(.first, HostMemory(.second, Int32(truncatingIfNeeded: aligned - stream.low)))
                code.instruction(wide: false, 0xf6, reg: 0, rm: .number(first), isByte: true)  // TEST
                code.byte(15)
                code.jump(if: HostCondition.notEqual, otherwise)
            }
            let use = stream.writes ? MemoryUse.write : .read
            code.link(checkPage(size: stream.span, use, aligned: false), to: otherwise)
            let host = HostOperand.memory(tlbEntry(TranslationBuffer.Entry.hostOffset))
            if stream.stride == 0 {
                code.instruction(wide: true, 0x03, reg: second, rm: host)
                code.address(.second, HostMemory(.second, Int32(truncatingIfNeeded: -stream.low)))
                code.store(.second, .context(place))
                continue
            }
            code.store(.second, .context(ContextLayout.temporary))
            code.instruction(wide: true, 0x8b, reg: second, rm: host)
            code.instruction(wide: true, 0x2b, reg: second, rm: .memory(tlbEntry(use.tagOffset)))
            code.store(.second, .context(place))
            code.load(.first, .context(ContextLayout.temporary))
            divideRoom(stream)
            if isLimited {
                code.instruction(wide: true, 0x3b, reg: first, rm: .context(times))
                code.instruction(wide: true, .map0F, 0x47, reg: first, rm: .context(times))  // CMOVA
            }
            code.store(.first, .context(times))
            isLimited = true
        }
        if isLimited {
            code.load(.first, .context(times))
            code.arithmetic(7, wide: false, .register(.first), Self.fewestTimes)
            code.jump(if: HostCondition.below, otherwise)
            // The budget becomes negative when the loop has gone round so often, and once more.
            code.instruction(wide: false, 0x69, reg: first, rm: .register(.first))  // IMUL
            code.doubleWord(leastCount)
            code.arithmetic(0, wide: false, .register(.first), leastCount - 1)
            code.instruction(wide: false, 0x8b, reg: second, rm: .context(ContextLayout.budget))
            code.instruction(wide: false, 0x2b, reg: second, rm: .register(.first))
            code.jump(if: HostCondition.lessOrEqual, body)
            code.instruction(wide: false, 0x89, reg: second, rm: .context(ContextLayout.heldBack))
            code.instruction(wide: false, 0x89, reg: first, rm: .context(ContextLayout.budget))
        }
        code.jump(body)
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

    /// The time slice gets back what was held back; if it is not over the streams' next pages are looked up.
    mutating func endStreams() {
        takeHeldBack()
        addToBudget()
        aside(code.jump(if: HostCondition.negative), .dispatch(target: start, site: 0))
        loop?.ends.append(code.jump())
    }

    /// The first register becomes what was held back, of which nothing is left.
    mutating func takeHeldBack() {
        let place = HostOperand.context(ContextLayout.heldBack)
        code.instruction(wide: false, 0x8b, reg: HostRegister.first.rawValue, rm: place)
        code.instruction(wide: false, 0xc7, reg: 0, rm: place)
        code.doubleWord(0)
    }

    /// Adds the first register to the time slice; the sign flag says whether it is over.
    mutating func addToBudget() {
        code.instruction(wide: false, 0x01, reg: HostRegister.first.rawValue, rm: .context(ContextLayout.budget))
    }

    /// The memory at `address`, of a stream with this place. Uses the first register; the host's flags stay.
    mutating func reachMoving(_ place: Int, _ address: GuestAddress) -> HostMemory {
        switch (home(address.base, apartFrom: .second), home(address.index, apartFrom: .second)) {
        case (.register(.first), nil):
            loadSecond(place)
            code.address(.second, HostMemory(.second, index: .first))
            return HostMemory(.second, address.displacement)
        case (.register(let base), nil):
            loadSecond(place)
            return HostMemory(base, index: .second, address.displacement)
        case (nil, .register(let index)) where index != .first:
            loadSecond(place)
            return HostMemory(.second, index: index, scale: address.scale, address.displacement)
        case (.register(let base), .register(let index)) where index != .first:
            loadSecond(place)
            code.address(.second, HostMemory(.second, index: base))
            return HostMemory(.second, index: index, scale: address.scale, address.displacement)
        case (.slot(let base), let index) where index == nil || index?.register != nil && index?.register != .first:
            code.load(.second, .context(base))
            code.load(.first, .context(place))
            code.address(.second, HostMemory(.second, index: .first))
            return HostMemory(.second, index: index?.register, scale: address.scale, address.displacement)
        default:
            makeOffset(address, .second, spare: .first)
            code.load(.first, .context(place))
            code.address(.second, HostMemory(.second, index: .first))
            return HostMemory(.second)
        }
    }
}
