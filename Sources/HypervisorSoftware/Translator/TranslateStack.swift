// SPDX-License-Identifier: Apache-2.0
// PUSH, POP and LEAVE, and division in 64-bit mode. Intel SDM volume 2.

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
        moveStack(by: -8)
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
        moveStack(by: 8)
    }

    /// Moves the stack pointer, once for all of several instructions that do nothing else with it.
    private mutating func moveStack(by distance: Int32) {
        stackMoved += distance
        // The interpreter moves it at once.
        guard !movesStackNext || mayBeInterpreted else { return }
        code.address(stackPointer, HostMemory(stackPointer, stackMoved))
        stackMoved = 0
    }

    /// A load of what is in the register already.
    mutating func skipLoad(_ i: DecodedInstruction) {
        if !i.isMemory { moveStack(by: 8) }
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
}
