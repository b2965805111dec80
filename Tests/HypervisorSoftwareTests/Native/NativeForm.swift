// SPDX-License-Identifier: Apache-2.0
// The rows of the instruction table as the generator sees them: how to encode one, and what its operands hold.

@testable import HypervisorSoftware

/// One encoding to test.
struct NativeForm: CustomStringConvertible, Sendable {
    /// Immediates by size.
    enum Immediate {
        case none
        case bytes(Int)
        /// 2 or 4 bytes by operand size.
        case word
        /// 2, 4 or 8 bytes by operand size.
        case full
    }

    /// What a memory operand should look like.
    enum Content {
        case integer
        case real32, real64, real80, decimal
        /// XMM or MM register contents.
        case packed
        /// FLDENV and FRSTOR images.
        case environment
        case fxsave
        case mxcsr
        case x87Control
    }

    /// What needs more than random operands.
    enum Treatment {
        case plain
        /// Ends in a jump to the instruction after it, or over a filler.
        case relative
        case indirect
        case returns
        case string
        case popFlags
        /// SHLD and SHRD.
        case doubleShift
        /// RBP in the window, few nesting levels.
        case enter
        /// RBX + AL in the window.
        case table
        /// The immediate is an address.
        case absolute
        /// RDI in the window.
        case maskMove
        /// The immediate is a vector.
        case interrupt
        /// Reads a selector from r/m, from the stack or from behind an offset; loads it, looks at it or jumps to it.
        case loadsSegment, inspectsSelector, popsSegment, loadsPointer, farIndirect
        /// Pops a far pointer; IRET the flags and the stack pointer too.
        case farReturn, interruptReturn
        /// A memory operand that is written in a format with host-dependent fields: FSTENV, FSAVE and FXSAVE.
        case storesEnvironment, storesImage
    }

    var name: String
    /// A mandatory prefix, or 0.
    var prefix: UInt8 = 0
    var escape: [UInt8] = []
    var opcode: UInt8
    /// ModRM.reg, when it selects the row.
    var reg: UInt8?
    /// ModRM.rm, when it selects the row.
    var rm: UInt8?
    var hasModRM = true
    var allowsMemory = true
    var allowsRegister = true
    var immediate = Immediate.none
    /// 66 changes the operand size.
    var allowsOperandPrefix = false
    /// REX.W changes the operand size.
    var allowsWide = false
    var isLockable = false
    var memoryBytes = 8
    var isAligned = false
    var content = Content.integer
    var undefinedFlags: UInt64 = 0
    var treatment = Treatment.plain
    /// Every instance raises an exception: privileged and invalid instructions.
    var alwaysFaults = false

    var description: String {
        var text = name
        if prefix != 0 { text += " " + String(prefix, radix: 16) }
        for byte in escape + [opcode] { text += " " + String(byte, radix: 16) }
        if let reg { text += " /\(reg)" }
        if !allowsMemory { text += " register" }
        return text
    }
}

extension NativeForm {
    /// x87 rows.
    static let x87: [NativeForm] = X87Form.rows.map { row in
        var form = NativeForm(name: "\(row.mnemonic)", opcode: row.opcode, reg: row.reg, rm: row.rm)
        form.allowsMemory = row.isMemory
        form.allowsRegister = !row.isMemory
        switch row.memory {
        case .none, .integer16, .integer32, .integer64: break
        case .real32: form.content = .real32
        case .real64: form.content = .real64
        case .real80:
            form.content = .real80
            form.memoryBytes = 10
        case .decimal:
            form.content = .decimal
            form.memoryBytes = 10
        case .word: form.content = .x87Control
        case .environment, .state:
            form.content = .environment
            form.memoryBytes = 108
            form.allowsOperandPrefix = true
            form.treatment = row.operation == .save || row.operation == .storeEnvironment ? .storesEnvironment : .plain
        }
        return form
    }

    /// Encodings of the x87 opcodes that have no row.
    static let x87Invalid: [NativeForm] = (UInt8(0xd8)...0xdf).flatMap { opcode in
        (UInt8(0xc0)...0xff).compactMap { modRM in
            guard X87Form.lookup(opcode: opcode, modRM: modRM) == nil else { return nil }
            var form = NativeForm(name: "invalid", opcode: opcode, reg: modRM >> 3 & 7, rm: modRM & 7)
            form.allowsMemory = false
            form.alwaysFaults = true
            return form
        }
            + (UInt8(0)..<8).compactMap { reg in
                guard X87Form.lookup(opcode: opcode, modRM: reg << 3) == nil else { return nil }
                var form = NativeForm(name: "invalid", opcode: opcode, reg: reg)
                form.allowsRegister = false
                form.alwaysFaults = true
                return form
            }
    }
}
