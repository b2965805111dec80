// SPDX-License-Identifier: Apache-2.0
// The interpreter's inner loop: one switch over the instructions of decoded blocks.

extension Core {
    /// How far `executeBlocks` goes.
    enum Extent {
        case slice, block, instruction
    }

    /// Runs blocks from RIP until the time slice ends, the processor's mode may have changed, or for one block or
    /// instruction. RIP is exact when it returns or throws. Returns whether it ended with a system instruction.
    @discardableResult
    mutating func executeBlocks(_ extent: Extent) throws(Fault) -> Bool {
        /// The jump that led to the block being looked up, if it can be linked.
        var linkFrom: UInt32 = 0
        while true {
            var i = try enterBlock(single: extent == .instruction, linkFrom: &linkFrom)
            do throws(Fault) {
                run: while true {
                    switch i.handler {
                    case .endOfBlock:
                        rip = general[Int(RegisterIndex.pageBase)] &+ i.pageOffset
                        break run
                    case .blockInvalid:
                        rip = general[Int(RegisterIndex.pageBase)] &+ i.pageOffset
                        _ = try lookUp(linearRIP)
                        break run
                    case .invalid: throw .invalidOpcode

                    case .integer: try executeInteger(i.instruction)
                    case .vector: try executeVector(i.instruction)
                    case .x87: try executeX87(i.instruction)
                    case .system:
                        rip = general[Int(RegisterIndex.pageBase)] &+ i.nextPageOffset
                        try executeSystem(i.instruction)
                        return true

                    case .jo: if flags.overflow { if jump(&i, &linkFrom) { continue run } else { break run } }
                    case .jno: if !flags.overflow { if jump(&i, &linkFrom) { continue run } else { break run } }
                    case .jb: if flags.carry { if jump(&i, &linkFrom) { continue run } else { break run } }
                    case .jnb: if !flags.carry { if jump(&i, &linkFrom) { continue run } else { break run } }
                    case .jz: if flags.zero { if jump(&i, &linkFrom) { continue run } else { break run } }
                    case .jnz: if !flags.zero { if jump(&i, &linkFrom) { continue run } else { break run } }
                    case .jbe:
                        if flags.carry || flags.zero { if jump(&i, &linkFrom) { continue run } else { break run } }
                    case .jnbe:
                        if !(flags.carry || flags.zero) { if jump(&i, &linkFrom) { continue run } else { break run } }
                    case .js: if flags.sign { if jump(&i, &linkFrom) { continue run } else { break run } }
                    case .jns: if !flags.sign { if jump(&i, &linkFrom) { continue run } else { break run } }
                    case .jp: if flags.parity { if jump(&i, &linkFrom) { continue run } else { break run } }
                    case .jnp: if !flags.parity { if jump(&i, &linkFrom) { continue run } else { break run } }
                    case .jl: if flags.less { if jump(&i, &linkFrom) { continue run } else { break run } }
                    case .jnl: if !flags.less { if jump(&i, &linkFrom) { continue run } else { break run } }
                    case .jle:
                        if flags.less || flags.zero { if jump(&i, &linkFrom) { continue run } else { break run } }
                    case .jnle:
                        if !(flags.less || flags.zero) { if jump(&i, &linkFrom) { continue run } else { break run } }
                    case .jmp: if jump(&i, &linkFrom) { continue run } else { break run }
                    case .call:
                        blocks.jumpOrigin = 0
                        let back = general[Int(RegisterIndex.pageBase)] &+ i.nextPageOffset
                        try pushReturn(back, i.operandSize)
                        rip = transferTarget(general[Int(RegisterIndex.pageBase)] &+ i.immediate, i.operandSize)
                        break run
                    case .ret:
                        try executeReturn(i.instruction)
                        blocks.jumpOrigin = 0
                        break run
                    case .jmpIndirect:
                        rip = try indirectTarget(i.instruction)
                        unsafe blocks.noteJump(
                            at: blocks.slot(of: i.pointer), to: rip &- general[Int(RegisterIndex.pageBase)])
                        break run
                    case .callIndirect:
                        let target = try indirectTarget(i.instruction)
                        let back = general[Int(RegisterIndex.pageBase)] &+ i.nextPageOffset
                        try pushReturn(back, i.operandSize)
                        blocks.jumpOrigin = 0
                        rip = target
                        break run
                    case .loop:
                        rip =
                            executeLoop(i.instruction)
                            ? transferTarget(general[Int(RegisterIndex.pageBase)] &+ i.immediate, i.operandSize)
                            : general[Int(RegisterIndex.pageBase)] &+ i.nextPageOffset
                        break run
                    case .nop: break

                    case .mov32RR: assign(i.rm, word(i.reg, UInt32.self))
                    case .mov64RR: assign(i.rm, word(i.reg, UInt64.self))
                    case .mov32RI: assign(i.rm, UInt32(truncatingIfNeeded: i.immediate))
                    case .mov64RI: assign(i.rm, i.immediate)
                    case .mov8RM: assign(i.reg, try load(UInt8.self, at: address(i)))
                    case .mov16RM: assign(i.reg, try load(UInt16.self, at: address(i)))
                    case .mov32RM: assign(i.reg, try load(UInt32.self, at: address(i)))
                    case .mov64RM: assign(i.reg, try load(UInt64.self, at: address(i)))
                    case .mov8MR: try store(word(i.reg, UInt8.self), at: address(i))
                    case .mov16MR: try store(word(i.reg, UInt16.self), at: address(i))
                    case .mov32MR: try store(word(i.reg, UInt32.self), at: address(i))
                    case .mov64MR: try store(word(i.reg, UInt64.self), at: address(i))
                    case .mov8MI: try store(UInt8(truncatingIfNeeded: i.immediate), at: address(i))
                    case .mov16MI: try store(UInt16(truncatingIfNeeded: i.immediate), at: address(i))
                    case .mov32MI: try store(UInt32(truncatingIfNeeded: i.immediate), at: address(i))
                    case .mov64MI: try store(UInt64(truncatingIfNeeded: i.immediate), at: address(i))
                    case .lea32: assign(i.reg, UInt32(truncatingIfNeeded: offset(i)))
                    case .lea64: assign(i.reg, offset(i))
                    case .zero8R: assign(i.reg, UInt64(word(i.rm, UInt8.self)))
                    case .zero16R: assign(i.reg, UInt64(word(i.rm, UInt16.self)))
                    case .zero8M: assign(i.reg, UInt64(try load(UInt8.self, at: address(i))))
                    case .zero16M: assign(i.reg, UInt64(try load(UInt16.self, at: address(i))))
                    case .sign8R32: assign(i.reg, UInt32(truncatingIfNeeded: signExtended(word(i.rm, UInt8.self))))
                    case .sign8R64: assign(i.reg, signExtended(word(i.rm, UInt8.self)))
                    case .sign32R: assign(i.reg, signExtended(word(i.rm, UInt32.self)))
                    case .sign32M: assign(i.reg, signExtended(try load(UInt32.self, at: address(i))))
                    case .push64: try pushWord(word(i.rm, UInt64.self))
                    case .pop64: assign(i.rm, try popWord())
                    case .add32RR: registers(i, UInt32.self) { $0.add($1, $2) }
                    case .add64RR: registers(i, UInt64.self) { $0.add($1, $2) }
                    case .add32RI: immediate(i, UInt32.self) { $0.add($1, $2) }
                    case .add64RI: immediate(i, UInt64.self) { $0.add($1, $2) }
                    case .add32RM: try registerMemory(i, UInt32.self) { $0.add($1, $2) }
                    case .add64RM: try registerMemory(i, UInt64.self) { $0.add($1, $2) }
                    case .add32MR: try memoryRegister(i, UInt32.self) { $0.add($1, $2) }
                    case .add64MR: try memoryRegister(i, UInt64.self) { $0.add($1, $2) }
                    case .add32MI: try memoryImmediate(i, UInt32.self) { $0.add($1, $2) }
                    case .add64MI: try memoryImmediate(i, UInt64.self) { $0.add($1, $2) }
                    case .sub32RR: registers(i, UInt32.self) { $0.subtract($1, $2) }
                    case .sub64RR: registers(i, UInt64.self) { $0.subtract($1, $2) }
                    case .sub32RI: immediate(i, UInt32.self) { $0.subtract($1, $2) }
                    case .sub64RI: immediate(i, UInt64.self) { $0.subtract($1, $2) }
                    case .sub32RM: try registerMemory(i, UInt32.self) { $0.subtract($1, $2) }
                    case .sub64RM: try registerMemory(i, UInt64.self) { $0.subtract($1, $2) }
                    case .sub32MR: try memoryRegister(i, UInt32.self) { $0.subtract($1, $2) }
                    case .sub64MR: try memoryRegister(i, UInt64.self) { $0.subtract($1, $2) }
                    case .adc64RR: registers(i, UInt64.self) { $0.addWithCarry($1, $2) }
                    case .adc64RI: immediate(i, UInt64.self) { $0.addWithCarry($1, $2) }
                    case .adc64RM: try registerMemory(i, UInt64.self) { $0.addWithCarry($1, $2) }
                    case .sbb32RR: registers(i, UInt32.self) { $0.subtractWithBorrow($1, $2) }
                    case .sbb64RR: registers(i, UInt64.self) { $0.subtractWithBorrow($1, $2) }
                    case .sbb64RI: immediate(i, UInt64.self) { $0.subtractWithBorrow($1, $2) }
                    case .and32RR: registers(i, UInt32.self) { $0.and($1, $2) }
                    case .and64RR: registers(i, UInt64.self) { $0.and($1, $2) }
                    case .and32RI: immediate(i, UInt32.self) { $0.and($1, $2) }
                    case .and64RI: immediate(i, UInt64.self) { $0.and($1, $2) }
                    case .and32RM: try registerMemory(i, UInt32.self) { $0.and($1, $2) }
                    case .and64RM: try registerMemory(i, UInt64.self) { $0.and($1, $2) }
                    case .or32RR: registers(i, UInt32.self) { $0.or($1, $2) }
                    case .or64RR: registers(i, UInt64.self) { $0.or($1, $2) }
                    case .or32RI: immediate(i, UInt32.self) { $0.or($1, $2) }
                    case .or64RI: immediate(i, UInt64.self) { $0.or($1, $2) }
                    case .or32RM: try registerMemory(i, UInt32.self) { $0.or($1, $2) }
                    case .or64RM: try registerMemory(i, UInt64.self) { $0.or($1, $2) }
                    case .xor32RR: registers(i, UInt32.self) { $0.xor($1, $2) }
                    case .xor64RR: registers(i, UInt64.self) { $0.xor($1, $2) }
                    case .xor32RI: immediate(i, UInt32.self) { $0.xor($1, $2) }
                    case .xor64RI: immediate(i, UInt64.self) { $0.xor($1, $2) }
                    case .xor32RM: try registerMemory(i, UInt32.self) { $0.xor($1, $2) }
                    case .xor64RM: try registerMemory(i, UInt64.self) { $0.xor($1, $2) }
                    case .cmp8RR: compare(word(i.rm, UInt8.self), word(i.reg, UInt8.self))
                    case .cmp8RI: compare(word(i.rm, UInt8.self), UInt8(truncatingIfNeeded: i.immediate))
                    case .cmp8RM: compare(word(i.reg, UInt8.self), try load(UInt8.self, at: address(i)))
                    case .cmp8MR: compare(try load(UInt8.self, at: address(i)), word(i.reg, UInt8.self))
                    case .cmp8MI: compare(try load(UInt8.self, at: address(i)), UInt8(truncatingIfNeeded: i.immediate))
                    case .test8RR: flags.setLogical(word(i.rm, UInt8.self) & word(i.reg, UInt8.self))
                    case .test8RI: flags.setLogical(word(i.rm, UInt8.self) & UInt8(truncatingIfNeeded: i.immediate))
                    case .test8MI:
                        flags.setLogical(try load(UInt8.self, at: address(i)) & UInt8(truncatingIfNeeded: i.immediate))
                    case .cmp32RR: compare(word(i.rm, UInt32.self), word(i.reg, UInt32.self))
                    case .cmp32RI: compare(word(i.rm, UInt32.self), UInt32(truncatingIfNeeded: i.immediate))
                    case .cmp32RM: compare(word(i.reg, UInt32.self), try load(UInt32.self, at: address(i)))
                    case .cmp32MR: compare(try load(UInt32.self, at: address(i)), word(i.reg, UInt32.self))
                    case .cmp32MI:
                        compare(try load(UInt32.self, at: address(i)), UInt32(truncatingIfNeeded: i.immediate))
                    case .test32RR: flags.setLogical(word(i.rm, UInt32.self) & word(i.reg, UInt32.self))
                    case .test32RI: flags.setLogical(word(i.rm, UInt32.self) & UInt32(truncatingIfNeeded: i.immediate))
                    case .test32MI:
                        flags.setLogical(
                            try load(UInt32.self, at: address(i)) & UInt32(truncatingIfNeeded: i.immediate))
                    case .cmp64RR: compare(word(i.rm, UInt64.self), word(i.reg, UInt64.self))
                    case .cmp64RI: compare(word(i.rm, UInt64.self), UInt64(truncatingIfNeeded: i.immediate))
                    case .cmp64RM: compare(word(i.reg, UInt64.self), try load(UInt64.self, at: address(i)))
                    case .cmp64MR: compare(try load(UInt64.self, at: address(i)), word(i.reg, UInt64.self))
                    case .cmp64MI:
                        compare(try load(UInt64.self, at: address(i)), UInt64(truncatingIfNeeded: i.immediate))
                    case .test64RR: flags.setLogical(word(i.rm, UInt64.self) & word(i.reg, UInt64.self))
                    case .inc32R: assign(i.rm, flags.increment(word(i.rm, UInt32.self)))
                    case .inc64R: assign(i.rm, flags.increment(word(i.rm, UInt64.self)))
                    case .inc32M: try memoryRegister(i, UInt32.self) { flags, value, _ in flags.increment(value) }
                    case .dec32R: assign(i.rm, flags.decrement(word(i.rm, UInt32.self)))
                    case .dec64R: assign(i.rm, flags.decrement(word(i.rm, UInt64.self)))
                    case .dec32M: try memoryRegister(i, UInt32.self) { flags, value, _ in flags.decrement(value) }
                    case .neg32R: assign(i.rm, flags.subtract(0, word(i.rm, UInt32.self)))
                    case .neg64R: assign(i.rm, flags.subtract(0, word(i.rm, UInt64.self)))
                    case .not64R: assign(i.rm, ~word(i.rm, UInt64.self))
                    case .shl32I: shift(i, UInt32.self) { $0.shiftLeft($1, $2) }
                    case .shl64I: shift(i, UInt64.self) { $0.shiftLeft($1, $2) }
                    case .shr32I: shift(i, UInt32.self) { $0.shiftRight($1, $2) }
                    case .shr64I: shift(i, UInt64.self) { $0.shiftRight($1, $2) }
                    case .sar32I: shift(i, UInt32.self) { $0.shiftArithmetic($1, $2) }
                    case .sar64I: shift(i, UInt64.self) { $0.shiftArithmetic($1, $2) }
                    case .rol32I: shift(i, UInt32.self) { $0.rotateLeft($1, $2) }
                    case .ror32I: shift(i, UInt32.self) { $0.rotateRight($1, $2) }
                    case .imul32RR: multiply(i.reg, word(i.rm, UInt32.self))
                    case .imul64RR: multiply(i.reg, word(i.rm, UInt64.self))
                    case .imul32RRI: multiply(i.reg, word(i.rm, UInt32.self), UInt32(truncatingIfNeeded: i.immediate))
                    case .imul64RRI: multiply(i.reg, word(i.rm, UInt64.self), i.immediate)
                    case .imul64RM: multiply(i.reg, try load(UInt64.self, at: address(i)))
                    case .cmov32RR:
                        let holds = flags.holds(UInt8(truncatingIfNeeded: i.immediate))
                        assign(i.reg, holds ? word(i.rm, UInt32.self) : word(i.reg, UInt32.self))
                    case .cmov64RR:
                        let holds = flags.holds(UInt8(truncatingIfNeeded: i.immediate))
                        assign(i.reg, holds ? word(i.rm, UInt64.self) : word(i.reg, UInt64.self))
                    case .setR: assign(i.rm, UInt8(flags.holds(i.reg & 15) ? 1 : 0))
                    }
                    i.advance()
                }
            } catch {
                rip = general[Int(RegisterIndex.pageBase)] &+ i.pageOffset
                if error.isNonCanonical, i.instruction.accessesStack { throw .stackFault(0) }
                throw error
            }
            if budget < 0 || extent != .slice { return false }
        }
    }

    /// The first instruction of the block at RIP, whose length is taken from the time slice.
    @inline(__always)
    private mutating func enterBlock(single: Bool, linkFrom: inout UInt32) throws(Fault) -> InstructionCursor {
        let linear = linearRIP
        let evictions = linkFrom == 0 ? 0 : blocks.evictions
        var slot: UInt32
        if single {
            slot = try decodeSingle(linear)
        } else if let recent = blocks.findRecent(linear, mode, accessSet) {
            slot = recent
            // SAFETY: a slot from the cache is a block's header.
            if unsafe !blocks.header(slot).pointee.isValid { slot = try lookUp(linear) }
        } else {
            slot = try lookUp(linear)
        }
        if linkFrom != 0, slot != BlockCache.scratch, blocks.evictions == evictions {
            // SAFETY: `linkFrom` is the slot of a jump of the block that just ran, and nothing was evicted since.
            unsafe blocks.instruction(linkFrom).pointee.link = slot
        }
        linkFrom = 0
        blocks.noteEntry(slot)
        general[Int(RegisterIndex.pageBase)] = rip &- (linear & 4095)
        // SAFETY: a slot from the cache is followed by its instructions, and the last of them never falls through.
        unsafe budget &-= Int(blocks.header(slot).pointee.count)
        return unsafe InstructionCursor(blocks.instruction(slot &+ 1))
    }

    /// Jumps to the direct target of `i`: moves `i` there if the block is known and the time slice has room for it.
    /// Otherwise sets RIP, and `linkFrom` where the jump can be linked.
    @inline(__always)
    private mutating func jump(_ i: inout InstructionCursor, _ linkFrom: inout UInt32) -> Bool {
        // What the time slice was charged for the instructions behind the jump.
        budget &+= Int(i.scale)
        let link = i.link
        if link != 0 {
            // SAFETY: links lead to block headers of this page.
            let rest = unsafe budget &- Int(blocks.header(link).pointee.count)
            if rest >= 0 {
                budget = rest
                i = unsafe InstructionCursor(blocks.instruction(link &+ 1))
                return true
            }
        }
        rip = transferTarget(general[Int(RegisterIndex.pageBase)] &+ i.immediate, i.operandSize)
        if i.isSamePage { linkFrom = unsafe blocks.slot(of: i.pointer) }
        return false
    }
}
