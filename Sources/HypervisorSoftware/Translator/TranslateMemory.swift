// SPDX-License-Identifier: Apache-2.0
// Guest memory from translated code: addresses, the soft TLB looked up inline, and accesses that share a page.

extension BlockTranslator {
    /// The rights that an access needs.
    enum MemoryUse {
        case read
        case write

        /// The tag of an entry that allows it.
        var tagOffset: Int {
            switch self {
            case .read: TranslationBuffer.Entry.readTagOffset
            case .write: TranslationBuffer.Entry.writeTagOffset
            }
        }
    }

    /// Computes the linear address of the operand of `i` in `target` alone. May change the host's flags where there is a
    /// segment, or an index.
    mutating func makeAddress(_ i: DecodedInstruction, _ target: HostRegister) {
        makeOffset(GuestAddress(i), target)
        if let segment = segmentPlace(i) {
            code.instruction(wide: true, 0x03, reg: target.rawValue, rm: .context(segment))
        }
    }

    /// Computes the offset of the operand of `i` in `target`. With a register to spare the host's flags stay.
    mutating func makeOffset(_ address: GuestAddress, _ target: HostRegister, spare: HostRegister? = nil) {
        let (displacement, scale) = (address.displacement, address.scale)
        guard let index = home(address.index, apartFrom: target) else {
            return makeAddress(address.base, displacement, target)
        }
        let base = home(address.base, apartFrom: target)
        switch (base, index) {
        case (.slot(let place), .register(let index)) where index != target:
            code.load(target, .context(place))
            code.address(target, HostMemory(target, index: index, scale: scale, displacement))
        case (.register(let base), .slot(let place)) where base != target:
            code.load(target, .context(place))
            code.address(target, HostMemory(base, index: target, scale: scale, displacement))
        case (.slot(let basePlace), .slot(let place)):
            code.load(target, .context(place))
            code.address(target, HostMemory(nil, index: target, scale: scale, displacement))
            if let spare {
                code.load(spare, .context(basePlace))
                code.address(target, HostMemory(spare, index: target))
            } else {
                code.instruction(wide: true, 0x03, reg: target.rawValue, rm: .context(basePlace))
            }
        case (nil, .slot(let place)):
            code.load(target, .context(place))
            code.address(target, HostMemory(nil, index: target, scale: scale, displacement))
        default:
            code.address(target, HostMemory(base?.register, index: index.register, scale: scale, displacement))
        }
    }

    /// Where a base or index can be taken from, beside `target`; nil for none.
    func home(_ register: UInt8, apartFrom target: HostRegister) -> GuestHome? {
        switch register {
        case RegisterIndex.zero: nil
        case RegisterIndex.pageBase: .slot(ContextLayout.pageBase)
        case held where target != .first: .register(.first)
        default: .of(register)
        }
    }

    private func segmentPlace(_ i: DecodedInstruction) -> Int? {
        switch i.segment {
        case SegmentIndex.fs: ContextLayout.fsBase
        case SegmentIndex.gs: ContextLayout.gsBase
        default: nil
        }
    }

    /// Whether the address uses no register that must be loaded first.
    func isSimple(_ i: DecodedInstruction) -> Bool {
        if case .slot = home(i.base, apartFrom: .first) { return false }
        if case .slot = home(i.index, apartFrom: .first) { return false }
        return segmentPlace(i) == nil
    }

    /// Makes `size` bytes at the memory operand of `i` reachable by the operand it returns, which uses the second
    /// register but not the first. Where that cannot be done here the interpreter runs the instruction.
    ///
    /// May change the host's flags, unless the access belongs to a group and is not its first.
    mutating func access(_ i: DecodedInstruction, size: Int32, _ use: MemoryUse, aligned: Bool = false) -> HostMemory {
        if let known = reach(operandWay, GuestAddress(i)) { return known }
        giveUpHostFlags()
        makeAddress(i, .second)
        if case .kept(let kept) = operandWay {
            lookUpKept(kept, size: size)
        } else {
            // What else may help changes the first register.
            code.forget(HostRegister.first.rawValue)
            let (missed, search): (Int, Search?) =
                GuestAddress(i).isStack && segmentPlace(i) == nil
                ? lookUpStack(size: size, use, aligned: aligned)
                : (lookUpPage(size: size, use, aligned: aligned), nil)
            let isWrite = use == .write
            if !aligned, !isWrite || isPlain && i.onlyWrites {
                crossingAside(missed, size: size, isWrite: isWrite, search)
            } else {
                interpretAside(missed, search)
            }
        }
        keepFlags()
        return HostMemory(.second)
    }

    /// As above for 8 bytes at `distance` from a guest register.
    mutating func accessStack(_ register: UInt8, _ distance: Int32, _ use: MemoryUse) -> HostMemory {
        if let known = reach(stackWay, GuestAddress(base: register, displacement: distance)) { return known }
        giveUpHostFlags()
        makeAddress(register, distance, .second)
        if register == RegisterIndex.rsp {
            let (missed, search) = lookUpStack(size: 8, use, aligned: false)
            interpretAside(missed, search)
        } else {
            interpretAside(lookUpPage(size: 8, use, aligned: false))
        }
        keepFlags()
        return HostMemory(.second)
    }

    /// The memory at `address`, if its access belongs to a group or stream.
    private mutating func reach(_ way: AccessWay, _ address: GuestAddress) -> HostMemory? {
        let memory: HostMemory
        switch way {
        case .alone, .kept: return nil
        case .group(let member):
            let place = ContextLayout.groups + member.group * 8
            if member.isFirst {
                giveUpHostFlags()
                var lowest = address
                lowest.displacement += member.lowest
                makeOffset(lowest, .second)
                if address.isStack {
                    let (missed, search) = lookUpStack(size: member.span, member.use, aligned: false)
                    aside(missed, .find(search, otherwise: .tail(count: count - 1)))
                } else {
                    let missed = lookUpPage(size: member.span, member.use, aligned: false)
                    aside(missed, .tail(count: count - 1))
                }
                groupStores.note(at: code.position, of: place)
                code.store(.second, .context(place))
                code.known.reached = place
            } else {
                loadSecond(place)
            }
            memory = HostMemory(.second, member.offset)
        case .stream(.fixed(let place, let offset)):
            memory = HostMemory(loadBase(place), offset)
        case .stream(.moving(let place, let rest)): memory = reachMoving(place, rest)
        }
        keepFlags()
        return memory
    }

    /// The second register becomes what is at `place` of the context, where group or stream is.
    mutating func loadSecond(_ place: Int) {
        guard code.known.reached != place else { return }
        groupStores.noteLoad(from: place)
        code.load(.second, .context(place))
        code.known.reached = place
    }

    /// Computes `displacement` from a register, an index as in `DecodedInstruction`, in `target`. The host's flags stay.
    private mutating func makeAddress(_ register: UInt8, _ displacement: Int32, _ target: HostRegister) {
        switch home(register, apartFrom: target) {
        case nil: code.moveImmediate(target, UInt64(bitPattern: Int64(displacement)))
        case .register(let host) where displacement == 0: code.move(target, host)
        case .register(let host): code.address(target, HostMemory(host, displacement))
        case .slot(let place):
            code.load(target, .context(place))
            if displacement != 0 { code.address(target, HostMemory(target, displacement)) }
        }
    }

    /// The linear address in the second register becomes the host's. Returns the place of a jump for when `size` bytes
    /// there cannot be reached. Uses the first register.
    mutating func lookUpPage(size: Int32, _ use: MemoryUse, aligned: Bool) -> Int {
        let missed = checkPage(size: size, use, aligned: aligned)
        addHost()
        return missed
    }

    /// What `checkPage` left becomes the host's address.
    mutating func addHost() {
        code.instruction(
            wide: true, 0x03, reg: HostRegister.second.rawValue,
            rm: .memory(tlbEntry(TranslationBuffer.Entry.hostOffset)))
    }

    /// The linear address in the second register becomes its offset in the page, and the first register leads to the page's
    /// entry. Returns the place of a jump for when `size` bytes there cannot be reached.
    mutating func checkPage(size: Int32, _ use: MemoryUse, aligned: Bool) -> Int {
        if routines.hasRotate {
            code.rotate(.first, .second, right: TranslationBuffer.indexShift)
        } else {
            code.shiftToEntry()
        }
        code.arithmetic(4, wide: false, .register(.first), TranslationBuffer.indexMask(set))
        // The offset in the page, if it is the right one.
        code.instruction(wide: true, 0x33, reg: HostRegister.second.rawValue, rm: .memory(tlbEntry(use.tagOffset)))
        return checkOffset(size: size, aligned: aligned)
    }

    /// Returns the place of a jump for when `size` bytes do not lie in one page at the offset in the second register, or this is none.
    mutating func checkOffset(size: Int32, aligned: Bool) -> Int {
        let second = HostOperand.register(.second)
        if aligned {
            code.instruction(wide: true, 0xf7, reg: 0, rm: second)  // TEST
            code.doubleWord(-4096 | (size - 1))
            return code.jump(if: HostCondition.notEqual)
        }
        code.arithmetic(7, wide: true, second, 4096 - size)
        return code.jump(if: HostCondition.above)
    }

    /// A field of the entry that `checkPage` found.
    func tlbEntry(_ field: Int) -> HostMemory { .entry(set, field) }
}

extension Assembler {
    /// The first register becomes the offset of the entry of the soft TLB for the address in the second one.
    mutating func findEntry(_ set: AccessSet) {
        shiftToEntry()
        arithmetic(4, wide: false, .register(.first), TranslationBuffer.indexMask(set))
    }

    fileprivate mutating func shiftToEntry() {
        instruction(wide: false, 0x8b, reg: HostRegister.first.rawValue, rm: .register(.second))
        instruction(wide: false, 0xc1, reg: 5, rm: .register(.first))  // SHR
        byte(TranslationBuffer.indexShift)
    }
}

extension HostMemory {
    /// A field of the entry of the soft TLB whose offset is in the first register.
    static func entry(_ set: AccessSet, _ field: Int) -> HostMemory {
        .context(TranslationBuffer.offset(set) + field, index: .first)
    }
}

extension DecodedInstruction {
    /// Whether it is a store from a register, or of a constant.
    var onlyWrites: Bool {
        guard isMemory else { return false }
        switch TranslationPlan.of(self) {
        case .integer: return Operation(rawValue: operation) == .mov && shape != Form.regRM.rawValue
        case .vector:
            let layout = VectorOperands(rawValue: shape)?.layout
            return layout?.storesToRM == true && layout?.reg == .xmm
        default: return false
        }
    }
}

// MARK: What may belong to a group

extension BlockTranslator {
    /// The access through ModRM of `i`, if its address is that of registers and a displacement.
    static func operandAccess(_ i: DecodedInstruction, _ plan: TranslationPlan) -> PlainAccess? {
        guard i.isMemory, i.index <= RegisterIndex.zero, i.base <= RegisterIndex.pageBase,
            i.segment != SegmentIndex.fs, i.segment != SegmentIndex.gs
        else { return nil }
        func plain(_ size: Int32, _ use: MemoryUse, aligned: Bool = false, canLead: Bool = true) -> PlainAccess {
            PlainAccess(address: GuestAddress(i), size: size, use: use, isAligned: aligned, canLead: canLead)
        }
        switch plan {
        case .integer:
            guard let operation = Operation(rawValue: i.operation) else { return nil }
            switch operation {
            case .lea, .div, .idiv, .cmpxchg8b: return nil
            case _ where operation.testsBit && i.isInBitString: return nil
            default: return plain(accessSize(operation, i), memoryUse(operation, i))
            }
        case .vector:
            guard let layout = VectorOperands(rawValue: i.shape)?.layout else { return nil }
            return plain(
                Int32(layout.memoryBytes), layout.storesToRM ? .write : .read, aligned: layout.isAligned)
        case .x87:
            guard let operation = X87Operation(rawValue: i.operation) else { return nil }
            return plain(x87Size(i), operation.storesToMemory ? .write : .read, canLead: operation != .loadControl)
        case .flow: return plain(8, .read, canLead: false)
        case .nothing, .string, .helper, .system, .systemHelper, .interruptReturn, .leave: return nil
        }
    }

    /// The access of `i` to the stack.
    static func stackAccess(_ i: DecodedInstruction, _ plan: TranslationPlan) -> PlainAccess? {
        func plain(
            _ displacement: Int32, _ use: MemoryUse, from base: UInt8 = RegisterIndex.rsp, canLead: Bool = true
        ) -> PlainAccess {
            PlainAccess(
                address: GuestAddress(base: base, displacement: displacement), size: 8, use: use, canLead: canLead)
        }
        switch plan {
        case .integer:
            switch Operation(rawValue: i.operation) {
            case .push, .pushf: return plain(-8, .write)
            case .pop: return plain(0, .read)
            case .leave: return plain(0, .read, from: RegisterIndex.rbp)
            default: return nil
            }
        case .flow:
            switch i.handler {
            case .call: return plain(-8, .write)
            case .callIndirect: return plain(-8, .write, canLead: false)
            case .ret: return plain(0, .read, canLead: false)
            default: return nil
            }
        default: return nil
        }
    }
}

extension GuestHome {
    /// The host register; nil for a place in the context.
    var register: HostRegister? {
        if case .register(let register) = self { return register }
        return nil
    }
}
