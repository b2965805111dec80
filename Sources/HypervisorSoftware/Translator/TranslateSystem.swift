// SPDX-License-Identifier: Apache-2.0
// The system instructions that kernels execute most, as changes of the processor's state. Intel SDM volume 2.

extension BlockTranslator {
    /// Translates CLI, STI, SWAPGS, STAC, CLAC, SYSCALL or SYSRET, with which the block ends; the interpreter runs it where it
    /// may fault.
    mutating func translateSystem(_ i: DecodedInstruction) {
        let operation = Operation(rawValue: i.operation)
        if operation == .syscall, set == .user { return systemCall(i) }
        if operation == .sysret, set != .user { return systemReturn() }
        showState()
        guard set != .user, let operation, operation != .syscall else {
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

    /// Changes a flag that is not one of the status flags. The address of the `Core` is in the first register.
    mutating func changeFlag(_ flag: Flags, to value: Bool) {
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

    /// RFLAGS as PUSHF and SYSCALL store it, in `register`. Uses the first register.
    private mutating func makeFlagsImage(_ register: HostRegister) {
        let (first, number) = (HostRegister.first.rawValue, register.rawValue)
        code.instruction(wide: false, .map0F, 0xb7, reg: number, rm: .context(ContextLayout.flags))  // MOVZX
        code.instruction(wide: false, 0x8b, reg: first, rm: .number(number))
        code.arithmetic(4, wide: false, .number(first), 1)
        code.instruction(wide: false, 0xc1, reg: 4, rm: .number(first))  // SHL
        code.byte(UInt8(Flags.overflow.rawValue.trailingZeroBitCount))
        code.instruction(wide: false, 0xc1, reg: 5, rm: .number(number))  // SHR
        code.byte(8)
        code.arithmetic(4, wide: false, .number(number), Int32(Flags.status.subtracting(.overflow).rawValue))
        code.instruction(wide: false, 0x0b, reg: number, rm: .number(first))
        code.load(.first, .context(ContextLayout.core))
        code.instruction(wide: false, 0x8b, reg: first, rm: inCore(routines.core.systemFlags))
        let hidden = Int32(truncatingIfNeeded: Flags([.resume, .virtual8086]).rawValue)
        code.arithmetic(4, wide: false, .number(first), ~hidden)
        code.instruction(wide: false, 0x0b, reg: number, rm: .number(first))
    }

    /// PUSHF of 64 bits.
    mutating func pushFlags() {
        saveFlags()
        flags.inHost = false
        let top = accessStack(RegisterIndex.rsp, -8, .write)
        code.store(.rax, .context(ContextLayout.temporary))
        makeFlagsImage(.rax)
        code.store(.rax, top)
        code.load(.rax, .context(ContextLayout.temporary))
        code.address(stackPointer, HostMemory(stackPointer, -8))
    }
}

// MARK: Calls of the supervisor, and returns

extension BlockTranslator {
    /// SYSCALL. What it does depends on registers of the system, which the context has in the form that is wanted here.
    private mutating func systemCall(_ i: DecodedInstruction) {
        chargeOrLeave()
        leaveUnlessAllowed()
        makeFlagsImage(.rcx)
        guard case .slot(let r11) = GuestHome.of(RegisterIndex.r11) else { return }
        code.store(.rcx, .context(r11))
        code.load(.rcx, .context(ContextLayout.pageBase))
        code.address(.rcx, HostMemory(.rcx, Int32(i.nextPageOffset)))
        let second = HostRegister.second.rawValue
        code.load(.first, .context(ContextLayout.core))
        code.load(.second, .context(ContextLayout.systemCallFlags))
        code.instruction(wide: true, 0x21, reg: second, rm: inCore(routines.core.systemFlags))  // AND
        code.load(.second, .context(ContextLayout.systemCallStatus))
        code.instruction(prefix: 0x66, wide: false, 0x21, reg: second, rm: .context(ContextLayout.flags))
        change(to: .supervisor, ContextLayout.systemCallSegments, ContextLayout.supervisorSalts)
        code.load(.first, .context(ContextLayout.systemCallTarget))
        follow(toUser: false)
    }

    /// SYSRET to 64-bit code. The interpreter runs those after which something has to be done first.
    private mutating func systemReturn() {
        let (first, second) = (HostRegister.first.rawValue, HostRegister.second.rawValue)
        chargeOrLeave()
        leaveUnlessAllowed()
        code.instruction(wide: false, 0x80, reg: 7, rm: .context(ContextLayout.interruptWaits))  // CMP
        code.byte(0)
        leaveAside(code.jump(if: HostCondition.notEqual), charging: false)
        code.load(.first, .context(ContextLayout.core))
        code.instruction(wide: false, 0x80, reg: 7, rm: inCore(routines.core.privilege))
        code.byte(0)
        leaveAside(code.jump(if: HostCondition.notEqual), charging: false)
        // Its target is in the lower half.
        code.move(.first, .rcx)
        code.instruction(wide: true, 0xc1, reg: 5, rm: .number(first))  // SHR
        code.byte(47)
        leaveAside(code.jump(if: HostCondition.notEqual), charging: false)
        guard case .slot(let r11) = GuestHome.of(RegisterIndex.r11) else { return }
        code.load(.second, .context(r11))
        code.instruction(wide: false, 0xf7, reg: 0, rm: .number(second))  // TEST
        code.doubleWord(Int32(Flags.trap.rawValue))
        leaveAside(code.jump(if: HostCondition.notEqual), charging: false)
        code.instruction(wide: false, 0x8b, reg: first, rm: .number(second))
        code.arithmetic(4, wide: false, .number(first), Int32(Flags.status.subtracting(.overflow).rawValue))
        code.arithmetic(1, wide: false, .number(first), 2)
        code.instruction(wide: false, 0xc1, reg: 4, rm: .number(first))  // SHL
        code.byte(8)
        code.instruction(wide: false, .map0F, 0xba, reg: 4, rm: .number(second))  // BT
        code.byte(UInt8(Flags.overflow.rawValue.trailingZeroBitCount))
        code.arithmetic(2, wide: false, .number(first), 0)  // ADC
        code.instruction(prefix: 0x66, wide: false, 0x89, reg: first, rm: .context(ContextLayout.flags))
        code.arithmetic(4, wide: false, .number(second), Int32(Flags.writable.subtracting(.status).rawValue))
        code.arithmetic(1, wide: false, .number(second), 2)
        code.load(.first, .context(ContextLayout.core))
        code.store(.second, HostMemory(.first, Int32(routines.core.systemFlags)))
        change(to: .user, ContextLayout.systemReturnSegments, ContextLayout.userSalts)
        code.move(.first, .rcx)
        follow(toUser: true)
    }

    /// IRET, wherever it leads.
    mutating func translateInterruptReturn(_ i: DecodedInstruction) {
        chargeOrLeave()
        callInterpreter(i)
        code.load(.first, .context(ContextLayout.core))
        code.load(.first, HostMemory(.first, Int32(routines.core.rip)))
        follow(toUser: true)
    }

    private mutating func leaveUnlessAllowed() {
        code.instruction(wide: false, 0x80, reg: 7, rm: .context(ContextLayout.systemCallsAllowed))  // CMP
        code.byte(0)
        leaveAside(code.jump(if: HostCondition.equal), charging: false)
    }

    /// Changes CPL with CS and SS, which are at `segments` of the context, and what goes with it. The address of the `Core` is
    /// in the first register.
    private mutating func change(to set: AccessSet, _ segments: Int, _ salts: Int) {
        let second = HostRegister.second.rawValue
        for (number, index) in [SegmentIndex.cs, SegmentIndex.ss].enumerated() {
            let from = segments + number * ContextLayout.segmentSize
            let to = routines.core.segment(index)
            code.load(.second, .context(from))
            code.store(.second, HostMemory(.first, Int32(to)))
            code.instruction(wide: false, 0x8b, reg: second, rm: .context(from + 8))
            code.instruction(wide: false, 0x89, reg: second, rm: inCore(to + 8))
            code.instruction(wide: true, 0xc7, reg: 0, rm: inCore(routines.core.segmentBases + Int(index) * 8))
            code.doubleWord(0)
        }
        code.instruction(wide: false, 0xc6, reg: 0, rm: inCore(routines.core.privilege))
        code.byte(set == .user ? 3 : 0)
        code.instruction(wide: false, 0xc6, reg: 0, rm: inCore(routines.core.accessSet))
        code.byte(set.tag)
        code.load(.second, .context(salts))
        code.store(.second, .context(ContextLayout.salt))
        code.load(.second, .context(salts + 8))
        code.store(.second, .context(ContextLayout.farSalt))
    }
}

extension AccessSet {
    /// As `Core` has it in memory.
    fileprivate var tag: UInt8 { unsafe withUnsafeBytes(of: self) { unsafe $0[0] } }
}
