// SPDX-License-Identifier: Apache-2.0
// Jumps through tables, as switches and interpreters of programs have them. The host predicts many of them wrong, and then
// everything waits for two loads: what to do next, and where the table says that this is done. Both find their page in a
// shorter way than others.

/// A page that was found before, in which an access looks first: a number of `ContextLayout.keptPage`.
struct KeptPage {
    let number: Int
    /// Whether the page takes the place of another that was found before.
    var replaces: Bool { number == 0 }

    /// What all loads use of what to do next: a program that is interpreted is read from its beginning to its end.
    static let operations = KeptPage(number: 0)

    private init(number: Int) { self.number = number }

    /// The page of the table that the jump at a physical address goes through. Few jumps share one.
    init(tableOfJumpAt address: UInt64) {
        number = 1 + Int(address &* 0x9e37_79b9 >> 16 & 0xffff) % (ContextLayout.keptPageCount - 1)
    }
}

/// The two loads of a jump through a table, by their positions in its run of instructions.
struct TableJump {
    /// Of the target, or what it is made from.
    private(set) var table: Int
    /// Of the index, if its address moves on by a constant.
    private(set) var operation: Int?

    /// How many instructions before its use a register is looked for.
    private static let farthest = 16

    /// Finds those of the jump at `last`; nil if it does not go through a table.
    init?(at last: Int, _ plan: (Int) -> TranslationPlan, _ instruction: (Int) -> DecodedInstruction) {
        let jump = instruction(last)
        if jump.isMemory {
            table = last
        } else {
            guard let load = Self.load(of: jump.rm, before: last, plan, instruction) else { return nil }
            table = load
        }
        let i = instruction(table)
        guard i.index < RegisterIndex.zero, i.scale >= 2 else { return nil }
        guard let load = Self.load(of: i.index, before: table, plan, instruction),
            Self.movesOn(instruction(load), before: last, plan, instruction)
        else { return }
        operation = load
    }

    /// The position of the load of what `register` has at `position`, or what that is made from with constants.
    private static func load(
        of register: UInt8, before position: Int, _ plan: (Int) -> TranslationPlan,
        _ instruction: (Int) -> DecodedInstruction
    ) -> Int? {
        var register = register
        for position in stride(from: position - 1, through: max(0, position - farthest), by: -1) {
            let i = instruction(position)
            guard RegisterUse.written(i, plan(position)) >> UInt16(register) & 1 != 0 else { continue }
            guard plan(position) == .integer, let operation = Operation(rawValue: i.operation) else { return nil }
            switch operation {
            case .mov, .movzx8, .movzx16, .movsx8, .movsx16, .movsxd:
                if i.isMemory { return position }
                guard i.hasSource, i.source & RegisterIndex.highByte == 0 else { return nil }
                register = i.source
            // The table's own address is added, or constants.
            case .add, .sub, .and, .inc, .dec: break
            default: return nil
            }
        }
        return nil
    }

    /// Whether a register that the address of `load` is made of moves on by a constant before `last`.
    private static func movesOn(
        _ load: DecodedInstruction, before last: Int, _ plan: (Int) -> TranslationPlan,
        _ instruction: (Int) -> DecodedInstruction
    ) -> Bool {
        (0..<last).contains { position in
            let i = instruction(position)
            guard plan(position) == .integer, i.operandSize == 8 else { return false }
            let register: UInt8
            switch Operation(rawValue: i.operation) {
            case .inc, .dec: register = i.rm
            case .add, .sub:
                guard i.shape == Form.rmImmediate.rawValue else { return false }
                register = i.rm
            case .lea:
                guard i.base == i.reg, i.index == RegisterIndex.zero else { return false }
                return i.reg == load.base || i.reg == load.index
            default: return false
            }
            return !i.isMemory && (register == load.base || register == load.index)
        }
    }
}

extension BlockTranslator {
    /// Makes the read of `size` bytes at the linear address in the second register reachable there, as `lookUpPage` does, but
    /// looks in a page that was found before. Uses the first register.
    mutating func lookUpKept(_ page: KeptPage, size: Int32) {
        let (key, offset) = places(page)
        code.move(.first, .second)
        code.arithmetic(4, wide: true, .register(.first), -4096 | (size - 1))
        code.instruction(wide: true, 0x3b, reg: HostRegister.first.rawValue, rm: .context(key))
        let missed = code.jump(if: HostCondition.notEqual)
        code.instruction(wide: true, 0x03, reg: HostRegister.second.rawValue, rm: .context(offset))
        crossingAside(missed, size: size, isWrite: false, .kept(page, size: size, resume: code.position))
    }

    /// What `lookUpKept` does where the access is in another page. Returns the place of a jump for when the soft TLB does not
    /// have that.
    mutating func findKept(_ page: KeptPage, size: Int32, resume: Int) -> Int {
        let (key, offset) = places(page)
        let address = HostMemory.context(ContextLayout.otherTemporary)
        code.store(.second, address)
        let missed = lookUpPage(size: size, .read, aligned: false)
        if !page.replaces {
            // A table may lie in two pages: then one of them is looked up each time, and the host can predict which.
            code.instruction(wide: false, 0xf6, reg: 0, rm: .context(key))  // TEST
            code.byte(ContextLayout.noKeptPage)
            code.jump(if: HostCondition.equal, resume)
        }
        code.move(.first, .second)
        code.instruction(wide: true, 0x2b, reg: HostRegister.first.rawValue, rm: .memory(address))
        code.store(.first, .context(offset))
        code.load(.first, address)
        code.arithmetic(4, wide: true, .register(.first), -4096)
        code.store(.first, .context(key))
        code.instruction(wide: false, 0xc6, reg: 0, rm: .context(ContextLayout.keepsPages))  // MOV
        code.byte(1)
        code.jump(resume)
        return missed
    }

    /// The places in the context of the page, and of what leads from there to the host's memory.
    private func places(_ page: KeptPage) -> (key: Int, offset: Int) {
        let place = ContextLayout.keptPage(page.number, set)
        return (place, place + 8)
    }
}
