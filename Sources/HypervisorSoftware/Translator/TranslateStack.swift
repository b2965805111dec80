// SPDX-License-Identifier: Apache-2.0
// PUSH, POP and LEAVE, division, jumps, calls and returns in 64-bit mode. Intel SDM volume 2.

extension BlockTranslator {
    var stackPointer: HostRegister { .r15 }
    private var framePointer: HostRegister { .r14 }

    mutating func push(_ i: DecodedInstruction) {
        if i.isMemory {
            let memory = access(i, size: 8, .read)
            code.load(.first, memory)
            code.store(.first, .context(ContextLayout.temporary))
        }
        let top = accessStack(RegisterIndex.rsp, -8, .write)
        if i.isMemory {
            code.load(.first, .context(ContextLayout.temporary))
            code.store(.first, top)
        } else if i.shape == Form.immediate.rawValue {
            code.instruction(wide: true, 0xc7, reg: 0, rm: .memory(top))
            immediate(i.immediate, 8)
        } else {
            code.store(HostRegister(rawValue: begin(i.rm, .first)) ?? .first, top)
        }
        code.address(stackPointer, HostMemory(stackPointer, -8))
    }

    mutating func pop(_ i: DecodedInstruction) {
        let top = accessStack(RegisterIndex.rsp, 0, .read)
        let host = HostRegister(rawValue: begin(i.rm, .first, reads: false)) ?? .first
        if host == stackPointer {
            code.load(host, top)
            return
        }
        code.load(host, top)
        end(i.rm, .first)
        code.address(stackPointer, HostMemory(stackPointer, 8))
    }

    mutating func leaveFrame() {
        let top = accessStack(RegisterIndex.rbp, 0, .read)
        code.load(.first, top)
        code.address(stackPointer, HostMemory(framePointer, 8))
        code.move(framePointer, .first)
    }

    // MARK: Division

    /// DIV and IDIV of 32 and 64 bits where they are sure not to fault; the interpreter does the others.
    mutating func divide(_ operation: Operation, _ i: DecodedInstruction) {
        let wide = i.operandSize == 8
        if i.isMemory {
            let memory = access(i, size: Int32(i.operandSize), .read)
            code.instruction(wide: wide, 0x8b, reg: HostRegister.first.rawValue, rm: .memory(memory))
        } else {
            giveUpHostFlags()
            code.instruction(wide: wide, 0x8b, reg: HostRegister.first.rawValue, rm: source(i.rm))
        }
        let first = HostRegister.first.rawValue
        if operation == .div {
            // The quotient fits if the high half is below the divisor.
            code.instruction(wide: wide, 0x3b, reg: HostRegister.rdx.rawValue, rm: .number(first))
            interpretAside(code.jump(if: HostCondition.aboveOrEqual))
            code.instruction(wide: wide, 0xf7, reg: 6, rm: .number(first))
            return
        }
        // It fits if the high half is the low half's sign, and the divisor neither 0 nor -1.
        let second = HostRegister.second.rawValue
        code.instruction(wide: wide, 0x8d, reg: second, rm: .memory(HostMemory(.first, 1)))
        code.arithmetic(7, wide: wide, .number(second), 1)
        interpretAside(code.jump(if: HostCondition.belowOrEqual))
        code.instruction(wide: wide, 0x8b, reg: second, rm: .register(.rax))
        code.instruction(wide: wide, 0xc1, reg: 7, rm: .number(second))  // SAR
        code.byte(wide ? 63 : 31)
        code.instruction(wide: wide, 0x3b, reg: second, rm: .register(.rdx))
        interpretAside(code.jump(if: HostCondition.notEqual))
        code.instruction(wide: wide, 0xf7, reg: 7, rm: .number(first))
    }

    // MARK: Transfers

    /// Translates a jump, call or return. Returns whether the block goes on behind it.
    mutating func translateFlow(_ i: DecodedInstruction) -> Bool {
        switch i.handler {
        case .jmp:
            edge(i.immediate, count: count)
        case .call: call(i)
        case .ret: returnFrom(i)
        case .jmpIndirect: jumpIndirect(i)
        case .callIndirect: callIndirect(i)
        default:
            let condition = i.handler.rawValue - Handler.jo.rawValue
            restoreFlags(FlagUse.condition(condition))
            aside(
                code.jump(if: condition),
                .branch(target: i.immediate, count: count))
            return true
        }
        return false
    }

    private mutating func call(_ i: DecodedInstruction) {
        pushReturn(i, charging: true)
        edge(i.immediate, count: count)
    }

    /// The address behind `i` goes on the stack.
    private mutating func pushReturn(_ i: DecodedInstruction, charging: Bool) {
        let top = accessStack(RegisterIndex.rsp, -8, .write)
        leaveInstead(charging: charging)
        code.load(.first, .context(ContextLayout.pageBase))
        code.address(.first, HostMemory(.first, Int32(i.nextPageOffset)))
        code.store(.first, top)
        code.address(stackPointer, HostMemory(stackPointer, -8))
    }

    /// Charges the block; when the time slice is over the interpreter does the rest.
    private mutating func chargeOrLeave() {
        saveFlags()
        charge(count)
        flags.inHost = false
        leaveAside(code.jump(if: HostCondition.negative), charging: false)
    }

    private mutating func returnFrom(_ i: DecodedInstruction) {
        chargeOrLeave()
        let top = accessStack(RegisterIndex.rsp, 0, .read)
        leaveInstead(charging: false)
        code.load(.first, top)
        leaveAside(lookUp(), charging: false)
        code.address(stackPointer, HostMemory(stackPointer, Int32(8 + i.immediate)))
        followEntry()
    }

    private mutating func jumpIndirect(_ i: DecodedInstruction) {
        chargeOrLeave()
        loadTarget(i)
        leaveAside(lookUp(), charging: false)
        followEntry()
    }

    private mutating func callIndirect(_ i: DecodedInstruction) {
        chargeOrLeave()
        loadTarget(i)
        // Nothing is pushed before it is known that there is code to go to.
        leaveAside(lookUp(), charging: false)
        code.store(.second, .context(ContextLayout.temporary))
        pushReturn(i, charging: false)
        code.load(.second, .context(ContextLayout.temporary))
        followEntry()
    }

    private mutating func loadTarget(_ i: DecodedInstruction) {
        if i.isMemory {
            let memory = access(i, size: 8, .read)
            leaveInstead(charging: false)
            code.load(.first, memory)
        } else {
            code.instruction(wide: true, 0x8b, reg: HostRegister.first.rawValue, rm: source(i.rm))
        }
    }
}
