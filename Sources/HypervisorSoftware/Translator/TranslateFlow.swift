// SPDX-License-Identifier: Apache-2.0
// Where control goes: jumps, calls and returns in 64-bit mode, and the ends of blocks. Intel SDM volume 2.
//
// A call of the guest is one of the host, too, so that the host predicts the return. On the host's stack lie, for each call
// that has not returned, the guest's return address and, at the stack pointer, the host's. A return to the address that is
// there goes to the code behind the host's call; any other takes one call off and looks its target up. Whatever leaves
// translated code takes all of them off.

extension BlockTranslator {
    /// What lies on the host's stack for each call.
    static let callFrameSize: Int32 = 16

    // MARK: Transfers

    /// Translates a jump, call or return that comes after `previous`. Returns whether the block goes on behind it.
    mutating func translateFlow(_ i: DecodedInstruction, after previous: DecodedInstruction?) -> Bool {
        switch i.handler {
        case .jmp: edge(i.immediate, count: count)
        case .call: call(i)
        case .ret: returnFrom(i, isJump: previous?.writesStackTop ?? false)
        case .jmpIndirect: jumpIndirect(i)
        case .callIndirect: callIndirect(i)
        default:
            let condition = i.handler.rawValue - Handler.jo.rawValue
            restoreFlags(FlagUse.condition(condition))
            if leadsBack(i.immediate) {
                // The way back is the straight one.
                repeatBlock(count: count, skip: code.jump(if: condition ^ 1))
            } else {
                aside(code.jump(if: condition), .branch(target: i.immediate, count: count))
            }
            return true
        }
        return false
    }

    private mutating func call(_ i: DecodedInstruction) {
        guard i.expectsReturn else {
            pushReturn(i, charging: true)
            return edge(i.immediate, count: count)
        }
        let mayInline = call == nil
        beginCall()
        pushReturn(i, charging: true)
        if mayInline, join(i.immediate, count: count) {
            inlinedCalls += 1
            values = nil
            return
        }
        code.push(.first)
        chargeOrLeave(for: i.immediate, count: count)
        if i.immediate < 4096 {
            let site = code.call()
            aside(site, .dispatch(target: i.immediate, site: site))
        } else {
            goFar(i.immediate, isCall: true)
        }
        returnPoint(to: i.nextPageOffset, isNear: i.immediate < 4096)
    }

    /// The address behind `i` goes on the guest's stack; it is in the first register then.
    private mutating func pushReturn(_ i: DecodedInstruction, charging: Bool) {
        let top = accessStack(RegisterIndex.rsp, -8, .write)
        leaveInstead(charging: charging)
        makeTarget(i.nextPageOffset)
        code.store(.first, top)
        code.address(stackPointer, HostMemory(stackPointer, -8))
    }

    /// Where the host comes back to from a call, to go on at `target`, an offset from the page base. Code may have changed meanwhile, but no translation of an address:
    /// that leaves translated code. Memory may be accessed in another way than this block's, after STAC or CLAC.
    /// - Parameter isNear: the call leads to the same page, and most often comes back from there. Then the page base waits for nothing.
    private mutating func returnPoint(to target: UInt64, isNear: Bool) {
        code.pop(.first)
        if isNear {
            let differs = compareTarget(target)
            aside(differs, .storePageBase(resume: code.position))
        } else {
            code.address(.first, HostMemory(.first, -Int32(target)))
            code.store(.first, .context(ContextLayout.pageBase))
        }
        if set != .user {
            code.instruction(wide: false, 0xf6, reg: 0, rm: .context(ContextLayout.salt))  // TEST
            code.byte(ContextLayout.suspensionInSalt)
            let differs = set == .supervisor ? HostCondition.notEqual : HostCondition.equal
            aside(code.jump(if: differs), .dispatch(target: target, site: 0))
        }
        goOn(target)
    }

    /// Makes the inlined call one of the host, before the code goes where nobody knows that it is inlined.
    mutating func beginCall() {
        guard let call else { return }
        self.call = nil
        let before = state
        makeTarget(call.returnTarget)
        code.push(.first)
        let begun = code.call()
        state = BlockState()
        returnPoint(to: call.returnTarget, isNear: true)
        code.land(begun)
        code.forgetAll()
        state = before
    }

    /// Charges the block; when the time slice is over the interpreter does the rest.
    mutating func chargeOrLeave() { chargeOrLeave(count) }

    /// The same with `count` instructions.
    private mutating func chargeOrLeave(_ count: Int32) {
        showState()
        charge(count)
        flags.inHost = false
        leaveAside(code.jump(if: HostCondition.negative), charging: false)
    }

    /// - Parameter isJump: the return address was just put where it is, so it is not one of a call.
    private mutating func returnFrom(_ i: DecodedInstruction, isJump: Bool) {
        if isJump { beginCall() }
        if let call { return returnInlined(call, i) }
        chargeOrLeave()
        let top = accessStack(RegisterIndex.rsp, 0, .read)
        leaveInstead(charging: false)
        code.load(.first, top)
        let taken = Int32(8 + i.immediate)
        if isJump {
            code.store(.first, .context(ContextLayout.temporary))
            lookUp(missing: .leaveForTemporary(taken: taken))
            code.address(stackPointer, HostMemory(stackPointer, taken))
            followEntry(isCall: false)
            return
        }
        code.instruction(wide: true, 0x3b, reg: HostRegister.first.rawValue, rm: .memory(HostMemory(.rsp, 8)))
        aside(code.jump(if: HostCondition.notEqual), .returnElsewhere(taken: taken))
        code.address(stackPointer, HostMemory(stackPointer, taken))
        code.byte(0xc3)  // RET
    }

    /// The return `i` of the inlined `call`.
    private mutating func returnInlined(_ call: InlinedCall, _ i: DecodedInstruction) {
        let taken = Int32(8 + i.immediate)
        if losesFlags { saveFlags() }
        giveUpHostFlags()
        let top = accessStack(RegisterIndex.rsp, 0, .read)
        leaveInstead(charging: true)
        code.load(.first, top)
        aside(compareTarget(call.returnTarget), .goElsewhere(expected: call.returnTarget, taken: taken, count: count))
        goOnBehindCall(i)
    }

    /// The return `i` of the inlined call, which leads back.
    mutating func goOnBehindCall(_ i: DecodedInstruction) {
        code.address(stackPointer, HostMemory(stackPointer, Int32(8 + i.immediate)))
        guard let call, !join(call.returnTarget, count: count) else { return }
        // The call is over: nothing for the host to know.
        self.call = nil
        endBlock(call.returnTarget, count: count)
    }

    /// The address in the first register loses the offset of `target` from the page base. Returns the place of a jump for when the page base is
    /// not what is left.
    private mutating func compareTarget(_ target: UInt64) -> Int {
        code.address(.first, HostMemory(.first, -Int32(target)))
        code.instruction(
            wide: true, 0x3b, reg: HostRegister.first.rawValue, rm: .context(ContextLayout.pageBase))
        return code.jump(if: HostCondition.notEqual)
    }

    /// What `compareTarget` left of the address in the first register is not the page base.
    mutating func goElsewhere(expected target: UInt64, taken: Int32, count: Int32) {
        code.address(.first, HostMemory(.first, Int32(target)))
        code.store(.first, .context(ContextLayout.temporary))
        // A return from the call that is inlined ends it.
        if taken == 0 { beginCall() }
        chargeOrLeave(count)
        code.load(.first, .context(ContextLayout.temporary))
        lookUp(missing: .leaveForTemporary(taken: taken))
        if taken != 0 { code.address(stackPointer, HostMemory(stackPointer, taken)) }
        followEntry(isCall: false)
    }

    /// The return address in the first register is not that of the last call.
    mutating func returnElsewhere(taken: Int32) {
        code.store(.first, .context(ContextLayout.temporary))
        lookUp(missing: .leaveForTemporary(taken: taken))
        code.address(stackPointer, HostMemory(stackPointer, taken))
        code.instruction(
            wide: true, 0x3b, reg: HostRegister.rsp.rawValue, rm: .context(ContextLayout.hostStack))
        let isEmpty = code.jump(if: HostCondition.equal)
        // The host's prediction of returns loses one, too.
        enterPage()
        code.load(.first, entry(ContextLayout.jumpCode))
        code.store(.first, HostMemory(.rsp))
        code.byte(0xc2)  // RET
        code.word(UInt16(Self.callFrameSize - 8))
        code.land(isEmpty)
        followEntry(isCall: false)
    }

    private mutating func jumpIndirect(_ i: DecodedInstruction) {
        if let expectedTarget { return jumpIndirect(i, expecting: expectedTarget) }
        beginCall()
        chargeOrLeave()
        loadTarget(i, charging: false)
        lookUp(missing: .leave(count: 0))
        followEntry(isCall: false)
    }

    /// The jump `i` is expected to lead to `target`, an offset from the page base.
    private mutating func jumpIndirect(_ i: DecodedInstruction, expecting target: UInt64) {
        giveUpHostFlags()
        loadTarget(i, charging: true)
        aside(compareTarget(target), .goElsewhere(expected: target, taken: 0, count: count))
        expectedJumps += 1
        edge(target, count: count)
    }

    private mutating func callIndirect(_ i: DecodedInstruction) {
        beginCall()
        chargeOrLeave()
        loadTarget(i, charging: false)
        // Nothing is pushed before it is known that there is code to go to.
        lookUp(missing: .leave(count: 0))
        code.store(.second, .context(ContextLayout.temporary))
        pushReturn(i, charging: false)
        code.push(.first)
        code.load(.second, .context(ContextLayout.temporary))
        followEntry(isCall: true)
        returnPoint(to: i.nextPageOffset, isNear: false)
    }

    /// The target of the indirect jump or call `i` in the first register.
    private mutating func loadTarget(_ i: DecodedInstruction, charging: Bool) {
        if i.isMemory {
            let memory = access(i, size: 8, .read)
            leaveInstead(charging: charging)
            code.load(.first, memory)
        } else {
            let host = HostRegister(rawValue: begin(i.rm, .first)) ?? .first
            if host != .first { code.move(.first, host) }
        }
    }

    // MARK: The end of a block

    /// Takes `count` instructions from the time slice; the sign flag says whether it is over. Where a loop with streams is left,
    /// what it held back comes to the time slice again, with the help of the first register.
    mutating func charge(_ count: Int32) {
        guard streams != nil else { return code.arithmetic(5, wide: false, .context(ContextLayout.budget), count) }
        takeHeldBack()
        code.arithmetic(5, wide: false, .register(.first), count)
        addToBudget()
    }

    /// The same with `count` instructions; when the time slice is over the code leaves for `target`. Uses the first register.
    mutating func chargeOrLeave(for target: UInt64, count: Int32) {
        showState()
        flags.inHost = false
        charge(count)
        aside(code.jump(if: HostCondition.negative), .dispatch(target: target, site: 0))
    }

    /// Goes to `target`, an offset from the page base.
    mutating func goOn(_ target: UInt64) {
        if target < 4096 {
            let site = code.jump()
            aside(site, .dispatch(target: target, site: site))
        } else {
            goFar(target, isCall: false)
        }
    }

    /// Goes to `target`, an offset from the page base, in another page, which the context may know from the last time.
    private mutating func goFar(_ target: UInt64, isCall: Bool) {
        guard let distance = Int32(exactly: Int64(bitPattern: target & ~4095)), let place = takeFarTarget() else {
            makeTarget(target)
            lookUp(missing: .dispatch(target: target, site: 0))
            return followEntry(isCall: isCall)
        }
        code.compareFarKey(.context(place + ContextLayout.farKey))
        let unknown = code.jump(if: HostCondition.notEqual)
        aside(unknown, .findFarTarget(target, place: place, resume: code.position))
        code.arithmetic(0, wide: true, .context(ContextLayout.pageBase), distance)
        let known = HostMemory.context(place + ContextLayout.farCode)
        if isCall { code.callThrough(known) } else { code.jumpThrough(known) }
    }

    /// A place in the context for a far target; nil if there is none left.
    mutating func takeFarTarget() -> Int? {
        guard !farTargets.isEmpty else { return nil }
        return ContextLayout.farTargets + farTargets.removeFirst() * ContextLayout.farTargetSize
    }

    /// Puts what the table of jump targets knows of `target` into the far target at `place`.
    mutating func findFarTarget(_ target: UInt64, place: Int, resume: Int) {
        makeTarget(target)
        lookUp(missing: .dispatch(target: target, site: 0))
        code.load(.first, entry(ContextLayout.jumpCode))
        code.store(.first, .context(place + ContextLayout.farCode))
        code.makeFarKey()
        code.store(.first, .context(place + ContextLayout.farKey))
        code.jump(resume)
    }

    /// The linear address of `target`, an offset from the page base, in the first register.
    private mutating func makeTarget(_ target: UInt64) {
        code.load(.first, .context(ContextLayout.pageBase))
        if let near = Int32(exactly: Int64(bitPattern: target)) {
            code.address(.first, HostMemory(.first, near))
        } else {
            code.moveImmediate(.second, target)
            code.instruction(wide: true, 0x03, reg: HostRegister.first.rawValue, rm: .register(.second))
        }
    }

    /// Leaves translated code for `target`, an offset from the page base.
    mutating func leaveFor(_ target: UInt64, site: Int) {
        code.moveImmediate(.first, target)
        code.moveImmediate(.second, UInt64(site))
        code.jump(routines.leaveToDispatch)
    }

    // MARK: The table of jump targets

    /// Goes to the code for the linear address in the first register, which no register of the guest may have.
    /// - Parameter toUser: whether it may be user code.
    mutating func follow(toUser: Bool) {
        code.store(.first, .context(ContextLayout.temporary))
        lookUp(missing: .leaveForTemporary(taken: 0), toUser: toUser)
        followEntry(isCall: false)
    }

    /// Leaves for the linear address in the context's temporary, and takes as many bytes from the guest's stack.
    mutating func leaveForTemporary(taken: Int32) {
        code.load(.first, .context(ContextLayout.temporary))
        if taken > 0 {
            // The interpreter refuses one that is not canonical.
            let second = HostRegister.second.rawValue
            code.move(.second, .first)
            for operation in [4, 7] as [UInt8] {  // SHL, SAR
                code.instruction(wide: true, 0xc1, reg: operation, rm: .number(second))
                code.byte(16)
            }
            code.instruction(wide: true, 0x3b, reg: second, rm: .register(.first))
            aside(code.jump(if: HostCondition.notEqual), .leave(count: 0))
            code.address(stackPointer, HostMemory(stackPointer, taken))
        }
        code.instruction(
            wide: true, 0x2b, reg: HostRegister.first.rawValue, rm: .context(ContextLayout.pageBase))  // SUB
        code.moveImmediate(.second, 0)
        code.jump(routines.leaveToDispatch)
    }

    /// Finds the code for the linear address in the first register. Where there is none the code goes on in `missing`.
    private mutating func lookUp(missing: Aside) { lookUp(missing: missing, toUser: set == .user) }

    private mutating func lookUp(missing: Aside, toUser: Bool) {
        let (first, second) = (HostRegister.first.rawValue, HostRegister.second.rawValue)
        let shifted = HostMemory(nil, index: .first, scale: JumpTable.indexShift)
        code.instruction(wide: false, 0x8d, reg: second, rm: .memory(shifted))  // LEA
        code.arithmetic(4, wide: false, .number(second), JumpTable.indexMask)
        code.instruction(wide: true, 0x3b, reg: first, rm: .memory(entry(ContextLayout.jumpLinear)))
        let other = code.jump(if: HostCondition.notEqual)
        code.load(.first, .context(ContextLayout.salt))
        code.instruction(wide: true, 0x3b, reg: first, rm: .memory(entry(ContextLayout.jumpSalt)))
        let changed = code.jump(if: HostCondition.notEqual)
        aside(other, .findSecond(resume: code.position, otherwise: missing))
        aside(changed, toUser ? .revalidate(resume: code.position, otherwise: missing) : missing)
    }

    /// Goes to the code that `lookUp` found.
    private mutating func followEntry(isCall: Bool) {
        enterPage()
        let place = entry(ContextLayout.jumpCode)
        if isCall { code.callThrough(place) } else { code.jumpThrough(place) }
    }

    /// The page of the code that `lookUp` found becomes the page base.
    private mutating func enterPage() {
        code.load(.first, entry(ContextLayout.jumpPage))
        code.store(.first, .context(ContextLayout.pageBase))
    }

    private func entry(_ field: Int) -> HostMemory {
        .context(ContextLayout.jumpTable + field, index: .second)
    }
}

extension Assembler {
    /// What a far target that is known now is good for, in the first register.
    fileprivate mutating func makeFarKey() {
        load(.first, .context(ContextLayout.pageBase))
        instruction(wide: true, 0x33, reg: HostRegister.first.rawValue, rm: .context(ContextLayout.farSalt))
    }

    /// The zero flag says whether `key` is of what is known now. Uses the first register.
    mutating func compareFarKey(_ key: HostMemory) {
        makeFarKey()
        instruction(wide: true, 0x3b, reg: HostRegister.first.rawValue, rm: .memory(key))
    }
}

extension DecodedInstruction {
    /// Whether a call is one that a return comes back from. A call that leads over some bytes behind it makes its own
    /// address known, or is half of an indirect jump whose target nobody shall predict.
    var expectsReturn: Bool { immediate &- nextPageOffset > 16 }

    /// Whether it puts a value at the top of the stack, as PUSH or MOV.
    fileprivate var writesStackTop: Bool {
        switch handler {
        case .push64: return true
        case .mov64MR: return base == RegisterIndex.rsp && index == RegisterIndex.zero && displacement == 0
        default: return handler == .integer && operation == Operation.push.rawValue
        }
    }
}
