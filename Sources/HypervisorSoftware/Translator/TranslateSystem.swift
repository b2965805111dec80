// SPDX-License-Identifier: Apache-2.0
// The system instructions that kernels execute most, as changes of the processor's state. Intel SDM volume 2.

extension BlockTranslator {
    /// Translates CLI, STI, SWAPGS, STAC or CLAC, with which the block ends; the interpreter runs it where it may fault.
    mutating func translateSystem(_ i: DecodedInstruction) {
        saveFlags()
        guard set != .user, let operation = Operation(rawValue: i.operation) else {
            return leaveAside(code.jump(), charging: true)
        }
        let core = routines.core
        code.load(.first, .context(ContextLayout.core))
        code.instruction(wide: false, 0x80, reg: 7, rm: inCore(core.privilege))  // CMP
        code.byte(0)
        leaveAside(code.jump(if: HostCondition.notEqual), charging: true)
        switch operation {
        case .cli: changeFlag(.interrupt, to: false)
        case .sti:
            // The interpreter looks after an interrupt that waits.
            code.instruction(wide: false, 0x80, reg: 7, rm: .context(ContextLayout.interruptWaits))
            code.byte(0)
            leaveAside(code.jump(if: HostCondition.notEqual), charging: true)
            changeFlag(.interrupt, to: true)
        case .swapgs:
            code.store(.rax, .context(ContextLayout.temporary))
            code.load(.rax, HostMemory(.first, Int32(core.gsBase)))
            code.load(.second, HostMemory(.first, Int32(core.kernelGSBase)))
            code.store(.rax, HostMemory(.first, Int32(core.kernelGSBase)))
            code.store(.second, HostMemory(.first, Int32(core.gsBase)))
            code.store(.second, .context(ContextLayout.gsBase))
            code.load(.rax, .context(ContextLayout.temporary))
        default:
            suspendProtection(operation == .stac)
            flags.inHost = false
            // The next block is of another set.
            return endBlock(i.nextPageOffset, count: count)
        }
        flags.inHost = false
        edge(i.nextPageOffset, count: count)
    }

    /// A place in the `Core` whose address is in the first register.
    private func inCore(_ offset: Int) -> HostOperand { .memory(HostMemory(.first, Int32(offset))) }

    private mutating func changeFlag(_ flag: Flags, to value: Bool) {
        let bit = Int32(truncatingIfNeeded: flag.rawValue)
        code.arithmetic(value ? 1 : 4, wide: false, inCore(routines.core.systemFlags), value ? bit : ~bit)
    }

    /// STAC and CLAC: code goes on in blocks of the other set.
    private mutating func suspendProtection(_ isSuspended: Bool) {
        changeFlag(.alignmentCheck, to: isSuspended)
        let set = isSuspended ? AccessSet.supervisorToUser : .supervisor
        code.instruction(wide: false, 0xc6, reg: 0, rm: inCore(routines.core.accessSet))
        code.byte(set.tag)
        let bit = ContextLayout.suspensionInSalt
        for salt in [ContextLayout.salt, ContextLayout.farSalt] {
            code.instruction(wide: false, 0x80, reg: isSuspended ? 1 : 4, rm: .context(salt))  // OR, AND
            code.byte(isSuspended ? bit : ~bit)
        }
    }

    /// PUSHF of 64 bits.
    mutating func pushFlags() {
        saveFlags()
        flags.inHost = false
        let top = accessStack(RegisterIndex.rsp, -8, .write)
        let (first, rax) = (HostRegister.first.rawValue, HostRegister.rax.rawValue)
        code.store(.rax, .context(ContextLayout.temporary))
        code.instruction(wide: false, .map0F, 0xb7, reg: rax, rm: .context(ContextLayout.flags))  // MOVZX
        code.instruction(wide: false, 0x8b, reg: first, rm: .number(rax))
        code.arithmetic(4, wide: false, .number(first), 1)
        code.instruction(wide: false, 0xc1, reg: 4, rm: .number(first))  // SHL
        code.byte(UInt8(Flags.overflow.rawValue.trailingZeroBitCount))
        code.instruction(wide: false, 0xc1, reg: 5, rm: .number(rax))  // SHR
        code.byte(8)
        code.arithmetic(4, wide: false, .number(rax), Int32(Flags.status.subtracting(.overflow).rawValue))
        code.instruction(wide: false, 0x0b, reg: rax, rm: .number(first))
        code.load(.first, .context(ContextLayout.core))
        code.instruction(wide: false, 0x8b, reg: first, rm: inCore(routines.core.systemFlags))
        let hidden = Int32(truncatingIfNeeded: Flags([.resume, .virtual8086]).rawValue)
        code.arithmetic(4, wide: false, .number(first), ~hidden)
        code.instruction(wide: false, 0x0b, reg: rax, rm: .number(first))
        code.store(.rax, top)
        code.load(.rax, .context(ContextLayout.temporary))
        code.address(stackPointer, HostMemory(stackPointer, -8))
    }
}

extension AccessSet {
    /// As `Core` has it in memory.
    fileprivate var tag: UInt8 { unsafe withUnsafeBytes(of: self) { unsafe $0[0] } }
}
