// SPDX-License-Identifier: Apache-2.0
// Accesses that lie in two pages: code shared by all blocks that brings their bytes together.

/// The shared routines for accesses that a look into the soft TLB has not reached, one for each way of access and size.
///
/// Called with the offset of the entry in the first register and the address exclusive-or its tag in the second, as
/// `BlockTranslator.checkPage` leaves them. If the access lies in two pages that the soft TLB both has, the second register is
/// where its bytes can be instead, the zero flag is set, and the code goes on as if they had been in one. Otherwise the zero flag
/// is clear, and the interpreter may run the instruction. Changes no register of the guest.
struct CrossingAccesses {
    /// Bytes of an access that may be brought together.
    private static let sizes: [Int32] = [2, 4, 8, 16]

    private var reads = InlineArray<12, Int>(repeating: 0)
    private var writes = InlineArray<12, Int>(repeating: 0)
    /// Called after a write has gone where the routine said, with that place in the second register: puts it into its pages.
    let finishWrite: Int

    init(_ code: inout Assembler) {
        for (number, size) in Self.sizes.enumerated() {
            for set in AccessSet.allCases {
                code.align()
                reads[Self.index(set, number)] = code.position
                Self.prepare(&code, set, size, .read)
                code.align()
                writes[Self.index(set, number)] = code.position
                Self.prepare(&code, set, size, .write)
            }
        }
        code.align()
        finishWrite = code.position
        Self.finishWrite(&code)
    }

    private static func index(_ set: AccessSet, _ number: Int) -> Int {
        number * AccessSet.allCases.count + set.rawValue
    }

    /// The routine for `size` bytes; nil if there is none.
    func routine(_ set: AccessSet, size: Int32, _ use: BlockTranslator.MemoryUse) -> Int? {
        Self.sizes.firstIndex(of: size).map { (use == .read ? reads : writes)[Self.index(set, $0)] }
    }

    private static func prepare(
        _ code: inout Assembler, _ set: AccessSet, _ size: Int32, _ use: BlockTranslator.MemoryUse
    ) {
        let (rax, rcx) = (HostRegister.rax, HostRegister.rcx)
        let second = HostRegister.second.rawValue
        let tag = HostOperand.memory(.entry(set, use.tagOffset))
        /// For a read, the 16 bytes at `offset` from RAX, a page, go to `place` of the context.
        func copy(_ code: inout Assembler, from offset: Int32, to place: Int) {
            for half in 0..<2 {
                code.load(.first, HostMemory(rax, offset + Int32(half) * 8))
                code.store(.first, .context(place + half * 8))
            }
        }
        code.push(rax)
        code.push(rcx)
        // The address, and its offset in the page.
        code.instruction(wide: true, 0x33, reg: second, rm: tag)
        code.instruction(wide: false, 0x8b, reg: rcx.rawValue, rm: .register(.second))
        code.arithmetic(4, wide: false, .register(rcx), 4095)
        code.arithmetic(7, wide: false, .register(rcx), 4096 - size)
        var failures = [code.jump(if: HostCondition.belowOrEqual)]
        // Its page.
        code.move(rax, .second)
        code.instruction(wide: true, 0x33, reg: rax.rawValue, rm: tag)
        code.arithmetic(7, wide: true, .register(rax), 4095)
        failures.append(code.jump(if: HostCondition.above))
        code.load(rax, .entry(set, TranslationBuffer.Entry.hostOffset))
        if use == .read {
            copy(&code, from: 4080, to: ContextLayout.crossing)
        } else {
            code.address(rax, HostMemory(rax, index: rcx))
            code.store(rax, .context(ContextLayout.crossingStart))
        }
        // The next one.
        code.instruction(wide: true, 0x2b, reg: second, rm: .register(rcx))  // SUB
        code.address(.second, HostMemory(.second, 4096))
        code.findEntry(set)
        code.instruction(wide: true, 0x3b, reg: second, rm: tag)
        failures.append(code.jump(if: HostCondition.notEqual))
        code.load(rax, .entry(set, TranslationBuffer.Entry.hostOffset))
        if use == .read {
            copy(&code, from: 0, to: ContextLayout.crossing + 16)
        } else {
            code.store(rax, .context(ContextLayout.crossingEnd))
            code.address(rax, HostMemory(rcx, size - 4096))
            code.store(rax, .context(ContextLayout.crossingCount))
        }
        // Those of the first page end, and those of the next begin, in the middle.
        code.address(.second, .context(ContextLayout.crossing + 16 - 4096, index: rcx))
        code.pop(rcx)
        code.pop(rax)
        code.instruction(wide: false, 0x3b, reg: second, rm: .register(.second))  // CMP
        code.byte(0xc3)  // RET
        for place in failures { code.land(place) }
        code.pop(rcx)
        code.pop(rax)
        code.instruction(wide: true, 0x85, reg: HostRegister.rsp.rawValue, rm: .register(.rsp))  // TEST
        code.byte(0xc3)
    }

    private static func finishWrite(_ code: inout Assembler) {
        let saved: [HostRegister] = [.rcx, .rsi, .rdi]
        for register in saved { code.push(register) }
        // From the place to the middle of the buffer.
        code.address(.rcx, .context(ContextLayout.crossing + 16))
        code.instruction(wide: true, 0x2b, reg: HostRegister.rcx.rawValue, rm: .register(.second))  // SUB
        code.move(.rsi, .second)
        code.load(.rdi, .context(ContextLayout.crossingStart))
        copyFew(&code)
        code.load(.rdi, .context(ContextLayout.crossingEnd))
        code.load(.rcx, .context(ContextLayout.crossingCount))
        copyFew(&code)
        for register in saved.reversed() { code.pop(register) }
        code.byte(0xc3)
    }

    /// Copies RCX bytes, fewer than 16, from RSI to RDI, which move on by as many. Uses the first register. REP MOVSB takes longer.
    private static func copyFew(_ code: inout Assembler) {
        for size: UInt8 in [8, 4, 2, 1] {
            code.instruction(wide: false, 0xf6, reg: 0, rm: .register(.rcx))  // TEST CL
            code.byte(size)
            let skip = code.jump(if: HostCondition.equal)
            let prefix: UInt8 = size == 2 ? 0x66 : 0
            let first = HostRegister.first.rawValue
            for (opcode, pointer) in [(0x8a, HostRegister.rsi), (0x88, .rdi)] as [(UInt8, HostRegister)] {  // MOV
                code.instruction(
                    prefix: prefix, wide: size == 8, size == 1 ? opcode : opcode + 1, reg: first,
                    rm: .memory(HostMemory(pointer)))
                code.address(pointer, HostMemory(pointer, Int32(size)))
            }
            code.land(skip)
        }
    }
}
