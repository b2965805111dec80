// SPDX-License-Identifier: Apache-2.0
// Accesses through the stack pointer, which look first in the page that one of them found last. Then no access waits for a look
// into the soft TLB, as functions that save registers, call each other and return would at every step.

/// The shared routines for such an access that lies elsewhere, one for each way of access and use.
///
/// Called with the address exclusive-or the page that was found last in the second register. Leaves what
/// `BlockTranslator.checkPage` does, but for the flags: offset of the entry, and address exclusive-or its tag. If the page
/// may be written it is the one that was found last. Changes no register of the guest.
struct StackAccesses {
    private var reads = InlineArray<3, Int>(repeating: 0)
    private var writes = InlineArray<3, Int>(repeating: 0)

    init(_ code: inout Assembler) {
        for set in AccessSet.allCases {
            reads[set.rawValue] = Self.find(&code, set, .read)
            writes[set.rawValue] = Self.find(&code, set, .write)
        }
    }

    func routine(_ set: AccessSet, _ use: BlockTranslator.MemoryUse) -> Int {
        (use == .read ? reads : writes)[set.rawValue]
    }

    private static func find(_ code: inout Assembler, _ set: AccessSet, _ use: BlockTranslator.MemoryUse) -> Int {
        let (rax, second) = (HostRegister.rax, HostRegister.second.rawValue)
        let page = ContextLayout.stackPage(set)
        code.align()
        let start = code.position
        code.push(rax)
        code.instruction(wide: true, 0x33, reg: second, rm: .context(page))
        code.move(rax, .second)
        code.findEntry(set)
        // A page that may be written may be read.
        code.instruction(
            wide: true, 0x33, reg: second, rm: .memory(.entry(set, TranslationBuffer.Entry.writeTagOffset)))
        code.arithmetic(7, wide: true, .register(.second), 4095)
        let refused = code.jump(if: HostCondition.above)
        code.arithmetic(4, wide: true, .register(rax), -4096)
        code.store(rax, .context(page))
        code.load(rax, .entry(set, TranslationBuffer.Entry.hostOffset))
        code.store(rax, .context(page + ContextLayout.stackHost))
        let found = code.jump()
        code.land(refused)
        if use == .read {
            code.move(.second, rax)
            code.instruction(
                wide: true, 0x33, reg: second, rm: .memory(.entry(set, TranslationBuffer.Entry.readTagOffset)))
        }
        code.land(found)
        code.pop(rax)
        code.byte(0xc3)  // RET
        return start
    }
}

extension BlockTranslator {
    /// Makes `size` bytes at the linear address in the second register reachable there, as `lookUpPage` does, but looks in the page
    /// that was found last. Returns the place of a jump for when they are elsewhere, and how they are found there. Changes no
    /// other register.
    mutating func lookUpStack(size: Int32, _ use: MemoryUse, aligned: Bool) -> (missed: Int, search: Search) {
        let (page, second) = (ContextLayout.stackPage(set), HostRegister.second.rawValue)
        code.instruction(wide: true, 0x33, reg: second, rm: .context(page))
        let missed = checkOffset(size: size, aligned: aligned)
        code.instruction(wide: true, 0x03, reg: second, rm: .context(page + ContextLayout.stackHost))
        return (missed, .stack(use, size: size, aligned: aligned, resume: here))
    }

    /// What `lookUpStack` does where the access is in another page. Returns the place of a jump for when the soft TLB does not
    /// have that.
    mutating func findStack(size: Int32, _ use: MemoryUse, aligned: Bool) -> Int {
        code.call(routines.stackAccesses.routine(set, use))
        let missed = checkOffset(size: size, aligned: aligned)
        addHost()
        return missed
    }
}
