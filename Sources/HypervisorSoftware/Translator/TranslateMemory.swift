// SPDX-License-Identifier: Apache-2.0
// Guest memory from translated code: addresses, and the soft TLB looked up inline.

extension BlockTranslator {
    /// The rights that an access needs.
    enum MemoryUse {
        case read
        case write
    }

    /// Computes the linear address of the operand of `i`, moved by `distance`, in `target` alone. May change the host's
    /// flags.
    mutating func makeAddress(_ i: DecodedInstruction, _ target: HostRegister, distance: Int32 = 0) {
        makeOffset(i, target, displacement: i.displacement &+ distance, spare: nil)
        if let segment = segmentPlace(i) {
            code.instruction(wide: true, 0x03, reg: target.rawValue, rm: .context(segment))
        }
    }

    /// Computes the offset of the operand of `i` in `target`. With a register to spare the host's flags stay.
    mutating func makeOffset(
        _ i: DecodedInstruction, _ target: HostRegister, displacement: Int32, spare: HostRegister?
    ) {
        let base = home(i.base)
        let index = home(i.index)
        switch (base, index) {
        case (.slot(let place), nil):
            code.load(target, .context(place))
            if displacement != 0 { code.address(target, HostMemory(target, displacement)) }
        case (.slot(let place), .register(let index)) where index != target:
            code.load(target, .context(place))
            code.address(target, HostMemory(target, index: index, scale: i.scale, displacement))
        case (.register(let base), .slot(let place)) where base != target:
            code.load(target, .context(place))
            code.address(target, HostMemory(base, index: target, scale: i.scale, displacement))
        case (.slot(let basePlace), .slot(let place)):
            code.load(target, .context(place))
            code.address(target, HostMemory(nil, index: target, scale: i.scale, displacement))
            if let spare {
                code.load(spare, .context(basePlace))
                code.address(target, HostMemory(spare, index: target))
            } else {
                code.instruction(wide: true, 0x03, reg: target.rawValue, rm: .context(basePlace))
            }
        case (nil, .slot(let place)):
            code.load(target, .context(place))
            code.address(target, HostMemory(nil, index: target, scale: i.scale, displacement))
        case (nil, nil): code.moveImmediate(target, UInt64(bitPattern: Int64(displacement)))
        default:
            code.address(target, HostMemory(base?.register, index: index?.register, scale: i.scale, displacement))
        }
    }

    /// Where a base or index is; nil for none.
    private func home(_ register: UInt8) -> GuestHome? {
        switch register {
        case RegisterIndex.zero: nil
        case RegisterIndex.pageBase: .slot(ContextLayout.pageBase)
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
        if case .slot = home(i.base) { return false }
        if case .slot = home(i.index) { return false }
        return segmentPlace(i) == nil
    }

    /// Makes `size` bytes at the memory operand of `i` reachable by the operand it returns, which uses the second
    /// register but not the first. Where that cannot be done here the interpreter runs the instruction.
    ///
    /// Changes the host's flags; the guest's are in the context before.
    mutating func access(_ i: DecodedInstruction, size: Int32, _ use: MemoryUse, aligned: Bool = false) -> HostMemory {
        saveFlags()
        makeAddress(i, .second)
        indexEntry()
        makeAddress(i, .first, distance: aligned ? 0 : size - 1)
        compareTag(use, size: size, aligned: aligned)
        code.load(.second, tlbEntry(TranslationBuffer.Entry.addendOffset))
        if case .slot(let place) = home(i.base), home(i.index) == nil, segmentPlace(i) == nil {
            code.instruction(wide: true, 0x03, reg: HostRegister.second.rawValue, rm: .context(place))
            return HostMemory(.second, i.displacement)
        }
        if isSimple(i), home(i.index) == nil {
            return HostMemory(.second, index: home(i.base)?.register, i.displacement)
        }
        makeAddress(i, .first)
        code.instruction(wide: true, 0x03, reg: HostRegister.second.rawValue, rm: .register(.first))
        return HostMemory(.second)
    }

    /// As above for `size` bytes at `distance` from a host register that holds a linear address.
    mutating func access(_ base: HostRegister, _ distance: Int32, size: Int32, _ use: MemoryUse) -> HostMemory {
        saveFlags()
        code.address(.second, HostMemory(base, distance))
        indexEntry()
        code.address(.first, HostMemory(base, distance + size - 1))
        compareTag(use, size: size, aligned: false)
        code.load(.second, tlbEntry(TranslationBuffer.Entry.addendOffset))
        return HostMemory(.second, index: base, distance)
    }

    /// The second register becomes the offset of the entry for the linear address in it.
    private mutating func indexEntry() {
        let entrySize = MemoryLayout<TranslationBuffer.Entry>.stride
        code.instruction(wide: false, 0xc1, reg: 5, rm: .register(.second))  // SHR
        code.byte(UInt8(12 - entrySize.trailingZeroBitCount))
        code.arithmetic(4, wide: false, .register(.second), Int32((set.entryCount - 1) * entrySize))
    }

    /// Compares the page of the address in the first register: a byte behind it, or the address itself with the bits
    /// that alignment wants to be 0.
    private mutating func compareTag(_ use: MemoryUse, size: Int32, aligned: Bool) {
        code.arithmetic(4, wide: true, .register(.first), aligned ? -4096 | (size - 1) : -4096)
        let tag =
            use == .read
            ? tlbEntry(TranslationBuffer.Entry.readTagOffset) : tlbEntry(TranslationBuffer.Entry.writeTagOffset)
        code.instruction(wide: true, 0x3b, reg: HostRegister.first.rawValue, rm: .memory(tag))
        interpretAside(code.jump(if: HostCondition.notEqual))
        flagsInHost = false
    }

    private func tlbEntry(_ field: Int) -> HostMemory {
        let first = set.firstEntry * MemoryLayout<TranslationBuffer.Entry>.stride
        let offset = ContextLayout.translations + first + field
        return HostMemory(.context, index: .second, Int32(truncatingIfNeeded: offset - ContextLayout.bias))
    }
}

extension GuestHome {
    /// The host register; nil for a place in the context.
    var register: HostRegister? {
        if case .register(let register) = self { return register }
        return nil
    }
}
