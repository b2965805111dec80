// SPDX-License-Identifier: Apache-2.0
// Code that all translated blocks share: the way in and out, and calls of the interpreter.

/// Places of the shared routines in the code buffer. They are written once, at its start.
struct SharedRoutines {
    /// `void enter(context, code)`, as C has it.
    let enter: Int
    /// Leaves for the page offset in the first register; the second has the place of a jump to link, or 0.
    let leaveToDispatch: Int
    /// Leaves to have the instruction in the slot that the second register names interpreted.
    let leaveToInterpret: Int
    /// Leaves to have code without groups made from the slot that the second register names; the first has the place of
    /// the jump to link.
    let leaveToTail: Int
    /// Called: the interpreter runs the instruction in the slot that the second register names. The flags are in the
    /// context before, and in the host's flags, too, after.
    let interpret: Int
    /// The same for an instruction that uses the x87 unit, which is not in the host's after.
    let interpretX87: Int
    /// Called: the guest's x87 unit becomes the host's. The flags are in the context before, and only there after.
    let loadX87: Int
    /// Called: the guest's vector registers and MXCSR become the host's.
    let loadVectors: Int
    /// Called: finds out whether the entry of user code in the table of jump targets whose place is in the second register holds
    /// still, because its linear address leads to the same page of memory. If so, the zero flag is set, and the entry good again.
    let revalidate: Int
    /// Called: finds out whether the next page is the one whose physical address the context's temporary has. The zero flag says so,
    /// and the place of the context that the second register names then says for how long that is known.
    let findNextPage: Int
    /// Called: looks for the linear address in the first register in the second place that it may have in the table of jump targets,
    /// which the second register becomes. The zero flag says whether it is there, and good.
    let findSecond: Int
    let crossingAccesses: CrossingAccesses
    let stackAccesses: StackAccesses
    /// Where blocks may begin.
    let end: Int

    /// Byte offsets in `Core` of what the routines reach there.
    struct CoreOffsets {
        var general: Int
        var xmm: Int
        var mxcsr: Int
        var systemFlags: Int
        var privilege: Int
        var accessSet: Int
        var segments: Int
        var segmentBases: Int
        var rip: Int
        var kernelGSBase: Int

        var gsBase: Int { segmentBases + Int(SegmentIndex.gs) * 8 }

        /// A segment register.
        func segment(_ index: UInt8) -> Int { segments + Int(index) * MemoryLayout<Segment>.stride }
    }
    let core: CoreOffsets
    /// Whether the host has RORX.
    let hasRotate: Bool

    /// Registers that a C function keeps.
    private static let kept: [HostRegister] = [.rbp, .rbx, .r12, .r13, .r14, .r15]

    init(_ code: inout Assembler, _ core: CoreOffsets, hasRotate: Bool) {
        self.core = core
        self.hasRotate = hasRotate
        loadVectors = code.position
        Self.moveVectors(&code, core, isLoad: true)
        Self.set(&code, ContextLayout.vectorLoaded, 1)
        code.byte(0xc3)  // RET
        code.align()

        let saveVectors = code.position
        Self.moveVectors(&code, core, isLoad: false)
        code.instruction(wide: false, .map0F, 0xae, reg: 2, rm: .context(ContextLayout.hostControl))  // LDMXCSR
        code.byte(0xc3)
        code.align()

        // The image has the host's own registers after the x87 unit; the guest's are in the core.
        let saveX87 = code.position
        code.instruction(wide: true, .map0F, 0xae, reg: 0, rm: .context(ContextLayout.x87Image))  // FXSAVE
        code.byte(0xdb)  // FNINIT: as functions want it
        code.byte(0xe3)
        Self.set(&code, ContextLayout.x87Loaded, 0)
        Self.set(&code, ContextLayout.x87Saved, 1)
        code.byte(0xc3)
        code.align()

        enter = code.position
        for register in Self.kept { code.push(register) }
        code.address(.rsp, HostMemory(.rsp, -8))
        code.address(.context, HostMemory(.rdi, Int32(ContextLayout.bias)))
        code.instruction(wide: false, .map0F, 0xae, reg: 3, rm: .context(ContextLayout.hostControl))  // STMXCSR
        code.store(.rsi, .context(ContextLayout.temporary))
        Self.loadRegisters(&code, core)
        // As if the guest had been called from address 0: the last call that there is to return from.
        code.byte(0x6a)  // PUSH
        code.byte(0)
        code.address(.first, HostMemory(.rsp, -8))
        code.store(.first, .context(ContextLayout.hostStack))
        code.callThrough(.context(ContextLayout.temporary))
        // It returned there.
        code.store(.first, .context(ContextLayout.exitRIP))
        code.moveImmediate(.second, 0)
        let returned = code.jump()
        code.align()

        leaveToDispatch = code.position
        code.instruction(wide: true, 0x03, reg: HostRegister.first.rawValue, rm: .context(ContextLayout.pageBase))
        code.store(.first, .context(ContextLayout.exitRIP))
        code.land(returned)
        Self.setKind(&code, .dispatch)
        let dispatching = code.jump()
        code.align()
        leaveToTail = code.position
        code.store(.first, .context(ContextLayout.exitRIP))
        Self.setKind(&code, .tail)
        let tailing = code.jump()
        code.align()
        leaveToInterpret = code.position
        Self.setKind(&code, .interpret)
        code.land(dispatching)
        code.land(tailing)
        Self.saveRegisters(&code, core)
        Self.ifLoaded(&code, ContextLayout.vectorLoaded) { $0.call(saveVectors) }
        let leave = code.position
        Self.ifLoaded(&code, ContextLayout.x87Loaded) { $0.call(saveX87) }
        Self.set(&code, ContextLayout.vectorLoaded, 0)
        // Takes the guest's calls off.
        code.load(.rsp, .context(ContextLayout.hostStack))
        code.address(.rsp, HostMemory(.rsp, BlockTranslator.callFrameSize + 8))
        for register in Self.kept.reversed() { code.pop(register) }
        // No RET: the host would predict the return of one of them.
        code.pop(.second)
        code.instruction(wide: false, 0xff, reg: 4, rm: .register(.second))  // JMP
        code.align()

        interpretX87 = code.position
        Self.ifLoaded(&code, ContextLayout.x87Loaded) { $0.call(saveX87) }
        let vectors = (save: saveVectors, load: loadVectors)
        interpret = code.position
        Self.callFunction(&code, core, ContextLayout.interpret, vectors) {
            $0.instruction(wide: false, 0x85, reg: 0, rm: .register(.rax))  // TEST
            $0.jump(if: HostCondition.notEqual, leave)
        }
        code.loadFlags()
        code.byte(0xc3)
        code.align()

        loadX87 = code.position
        Self.callFunction(&code, core, ContextLayout.prepareX87, vectors) {
            $0.instruction(wide: true, .map0F, 0xae, reg: 1, rm: .context(ContextLayout.x87Image))  // FXRSTOR
            Self.set(&$0, ContextLayout.x87Loaded, 1)
        }
        code.byte(0xc3)
        code.align()
        revalidate = code.position
        let unknown = Self.revalidate(&code)
        code.align()
        code.land(unknown)
        code.pop(.rcx)
        code.pop(.rax)
        code.store(.second, .context(ContextLayout.otherTemporary))
        Self.callFunction(&code, core, ContextLayout.findTarget, vectors)
        code.load(.second, .context(ContextLayout.otherTemporary))
        code.load(.first, .context(ContextLayout.salt))
        let salt = HostMemory.context(ContextLayout.jumpTable + ContextLayout.jumpSalt, index: .second)
        code.instruction(wide: true, 0x3b, reg: HostRegister.first.rawValue, rm: .memory(salt))
        code.byte(0xc3)
        code.align()
        findNextPage = code.position
        code.store(.second, .context(ContextLayout.otherTemporary))
        Self.callFunction(&code, core, ContextLayout.findNextPage, vectors)
        code.load(.second, .context(ContextLayout.otherTemporary))
        code.compareFarKey(.context(ContextLayout.farKey, index: .second))
        code.byte(0xc3)
        code.align()
        findSecond = code.position
        code.instruction(wide: false, 0x69, reg: HostRegister.second.rawValue, rm: .register(.first))  // IMUL
        code.doubleWord(JumpTable.multiplier)
        code.arithmetic(4, wide: false, .register(.second), JumpTable.indexMask)
        let linear = HostMemory.context(ContextLayout.jumpTable + ContextLayout.jumpLinear, index: .second)
        code.instruction(wide: true, 0x3b, reg: HostRegister.first.rawValue, rm: .memory(linear))
        let isOther = code.jump(if: HostCondition.notEqual)
        code.load(.first, .context(ContextLayout.salt))
        code.instruction(wide: true, 0x3b, reg: HostRegister.first.rawValue, rm: .memory(salt))
        code.land(isOther)
        code.byte(0xc3)
        crossingAccesses = CrossingAccesses(&code)
        stackAccesses = StackAccesses(&code)
        code.align()
        end = code.position
    }

    /// Returns the place of a jump for when the soft TLB does not have the page; RAX and RCX are on the stack there.
    private static func revalidate(_ code: inout Assembler) -> Int {
        let (rax, rcx) = (HostRegister.rax, HostRegister.rcx)
        let set = AccessSet.user
        func jumpEntry(_ field: Int) -> HostMemory { .context(ContextLayout.jumpTable + field, index: .second) }
        func tlbEntry(_ field: Int) -> HostMemory { .context(TranslationBuffer.offset(set) + field, index: .rcx) }
        code.push(rax)
        code.push(rcx)
        code.load(.first, jumpEntry(ContextLayout.jumpLinear))
        code.instruction(wide: false, 0x80, reg: 7, rm: .context(ContextLayout.mayRevalidate))  // CMP
        code.byte(1)
        let forbidden = code.jump(if: HostCondition.notEqual)
        // Found in the same way of access.
        code.load(rax, jumpEntry(ContextLayout.jumpSalt))
        code.instruction(wide: true, 0x33, reg: rax.rawValue, rm: .context(ContextLayout.salt))
        code.byte(0xa8)  // TEST AL
        code.byte(3)
        let otherAccess = code.jump(if: HostCondition.notEqual)
        // The soft TLB has its page, since translations changed.
        code.instruction(wide: false, 0x8b, reg: rcx.rawValue, rm: .register(.first))
        code.instruction(wide: false, 0xc1, reg: 5, rm: .register(rcx))  // SHR
        code.byte(TranslationBuffer.indexShift)
        code.arithmetic(4, wide: false, .register(rcx), TranslationBuffer.indexMask(set))
        code.load(rax, tlbEntry(TranslationBuffer.Entry.fetchTagOffset))
        code.instruction(wide: true, 0x33, reg: rax.rawValue, rm: .register(.first))
        code.arithmetic(7, wide: true, .register(rax), 4095)
        let unknown = code.jump(if: HostCondition.above)
        code.load(rax, tlbEntry(TranslationBuffer.Entry.hostOffset))
        code.instruction(wide: false, 0x8b, reg: rcx.rawValue, rm: .register(.second))
        code.instruction(wide: false, 0xc1, reg: 5, rm: .register(rcx))  // SHR
        code.byte(UInt8((ContextLayout.jumpEntrySize / ContextLayout.jumpHostSize).trailingZeroBitCount))
        let host = HostMemory.context(ContextLayout.jumpHosts, index: .rcx)
        code.instruction(wide: true, 0x3b, reg: rax.rawValue, rm: .memory(host))
        let differs = code.jump(if: HostCondition.notEqual)
        code.load(rax, .context(ContextLayout.salt))
        code.store(rax, jumpEntry(ContextLayout.jumpSalt))
        // None of these jumps is taken where the zero flag is set.
        for place in [forbidden, otherAccess, differs] { code.land(place) }
        code.pop(rcx)
        code.pop(rax)
        code.byte(0xc3)  // RET
        return unknown
    }

    /// Calls the C function at a place of the context, with the context and the second register for arguments. The guest's
    /// registers are in the core before, and in the host's again after; `afterwards` is written in between.
    private static func callFunction(
        _ code: inout Assembler, _ core: CoreOffsets, _ function: Int, _ vectors: (save: Int, load: Int),
        _ afterwards: (inout Assembler) -> Void = { _ in }
    ) {
        saveRegisters(&code, core)
        ifLoaded(&code, ContextLayout.vectorLoaded) { $0.call(vectors.save) }
        code.address(.rdi, HostMemory(.context, Int32(-ContextLayout.bias)))
        code.instruction(wide: false, 0x8b, reg: HostRegister.rsi.rawValue, rm: .register(.second))
        // A call of the guest's that is half done may have put one address on the stack.
        code.store(.rsp, .context(ContextLayout.stackMeanwhile))
        code.arithmetic(4, wide: true, .register(.rsp), -16)
        code.instruction(wide: false, 0xff, reg: 2, rm: .context(function))  // CALL
        code.load(.rsp, .context(ContextLayout.stackMeanwhile))
        afterwards(&code)
        ifLoaded(&code, ContextLayout.vectorLoaded) { $0.call(vectors.load) }
        loadRegisters(&code, core)
    }

    /// Stores a byte of the context.
    private static func set(_ code: inout Assembler, _ place: Int, _ value: UInt8) {
        code.instruction(wide: false, 0xc6, reg: 0, rm: .context(place))
        code.byte(value)
    }

    private static func setKind(_ code: inout Assembler, _ kind: ExitKind) {
        code.instruction(
            wide: false, 0x89, reg: HostRegister.second.rawValue, rm: .context(ContextLayout.exitDetail))
        code.instruction(wide: false, 0xc7, reg: 0, rm: .context(ContextLayout.exitKind))
        code.doubleWord(Int32(kind.rawValue))
    }

    private static func ifLoaded(_ code: inout Assembler, _ place: Int, _ body: (inout Assembler) -> Void) {
        code.instruction(wide: false, 0x80, reg: 7, rm: .context(place))  // CMP
        code.byte(0)
        let skip = code.jump(if: HostCondition.equal)
        body(&code)
        code.land(skip)
    }

    /// Between `Core` and the host's registers and the context. Uses the first register.
    private static func moveVectors(_ code: inout Assembler, _ core: CoreOffsets, isLoad: Bool) {
        code.load(.first, .context(ContextLayout.core))
        for number in 0..<16 as Range<UInt8> {
            let place = HostMemory(.first, Int32(core.xmm + Int(number) * 16))
            code.instruction(wide: false, .map0F, isLoad ? 0x10 : 0x11, reg: number, rm: .memory(place))  // MOVUPS
        }
        // LDMXCSR, STMXCSR
        code.instruction(
            wide: false, .map0F, 0xae, reg: isLoad ? 2 : 3, rm: .memory(HostMemory(.first, Int32(core.mxcsr))))
    }

    private static func loadRegisters(_ code: inout Assembler, _ core: CoreOffsets) {
        code.load(.first, .context(ContextLayout.core))
        for register in 0..<16 as Range<UInt8> {
            if case .slot(let place) = GuestHome.of(register) {
                code.load(.second, general(register, core))
                code.store(.second, .context(place))
            }
        }
        for register in 0..<16 as Range<UInt8> {
            if case .register(let host) = GuestHome.of(register) { code.load(host, general(register, core)) }
        }
    }

    /// Changes no register that has a guest's value, nor the second.
    private static func saveRegisters(_ code: inout Assembler, _ core: CoreOffsets) {
        code.load(.first, .context(ContextLayout.core))
        for register in 0..<16 as Range<UInt8> {
            if case .register(let host) = GuestHome.of(register) { code.store(host, general(register, core)) }
        }
        for register in 0..<16 as Range<UInt8> {
            if case .slot(let place) = GuestHome.of(register) {
                code.load(.rax, .context(place))
                code.store(.rax, general(register, core))
            }
        }
    }

    private static func general(_ register: UInt8, _ core: CoreOffsets) -> HostMemory {
        HostMemory(.first, Int32(core.general + Int(register) * 8))
    }
}

extension Assembler {
    mutating func push(_ register: HostRegister) {
        if register.rawValue >= 8 { byte(0x41) }
        byte(0x50 | register.rawValue & 7)
    }

    mutating func pop(_ register: HostRegister) {
        forget(register.rawValue)
        if register.rawValue >= 8 { byte(0x41) }
        byte(0x58 | register.rawValue & 7)
    }
}
