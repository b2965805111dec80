// SPDX-License-Identifier: Apache-2.0
// One instruction after decoding: 32 bytes that the interpreter dispatches on and a translator can read.

/// How the effective address is formed and which prefixes matter at run time.
package struct InstructionTraits: OptionSet {
    package let rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }

    /// The r/m operand is memory.
    package static let memory = InstructionTraits(rawValue: 1 << 0)
    package static let lock = InstructionTraits(rawValue: 1 << 1)
    /// F3.
    package static let rep = InstructionTraits(rawValue: 1 << 2)
    /// F2.
    package static let repne = InstructionTraits(rawValue: 1 << 3)
    /// The address is 32 bits wide (16 with `address16`) or its segment has limits: not the flat 64-bit case.
    package static let legacyAddress = InstructionTraits(rawValue: 1 << 4)
    package static let address16 = InstructionTraits(rawValue: 1 << 5)
    package static let address32 = InstructionTraits(rawValue: 1 << 6)
    /// The target of a direct jump lies in the same page.
    package static let samePage = InstructionTraits(rawValue: 1 << 7)
}

/// A decoded instruction. Blocks are runs of these; a block's first slot is a header of the same size.
package struct DecodedInstruction {
    /// What the interpreter's main switch goes by.
    var handler: Handler
    /// The row's operation: raw value of `Operation`, `VectorOperation` or `X87Operation`.
    package var operation: UInt16 = 0
    /// Bytes, 1 to 15.
    package var length: UInt8 = 0
    /// Operand size in bytes: 1, 2, 4 or 8.
    package var operandSize: UInt8 = 0
    /// ModRM.reg with REX.R. Byte operands: `highByte` set for AH, CH, DH, BH.
    package var reg: UInt8 = 0
    /// ModRM.rm with REX.B, or the register in the opcode.
    package var rm: UInt8 = 0
    /// Index into `Core.general`: a register, `RegisterIndex.zero` or `RegisterIndex.pageBase`.
    var base: UInt8 = RegisterIndex.zero
    var index: UInt8 = RegisterIndex.zero
    /// 0 to 3: the index register is shifted left by it.
    var scale: UInt8 = 0
    /// Index into `Core.segmentBase`; `SegmentIndex.flat` where the base is zero.
    var segment: UInt8 = SegmentIndex.flat
    /// Offset of the instruction in its page, 0 to 4095.
    var pageOffset: UInt16 = 0
    package var traits: InstructionTraits = []
    /// Operand form: raw value of `Form`, `VectorOperands` or an x87 operand kind.
    package var shape: UInt8 = 0
    /// In a block's closing slot, this and what follows are of the next indirect jump behind the block (`noteJump`).
    var displacement: Int32 = 0
    /// For direct jumps, the arena slot of the target block, or 0; for jumps inside a block see `Block`.
    var link: UInt32 = 0
    /// Immediate, sign-extended; for direct jumps the target's offset from the page base.
    package var immediate: UInt64 = 0

    /// The closing slot of a block whose last instruction ends at `offset` of the page.
    static func end(at offset: Int) -> DecodedInstruction {
        var end = DecodedInstruction(handler: .endOfBlock)
        end.pageOffset = UInt16(truncatingIfNeeded: offset)
        return end
    }

    package var isMemory: Bool { traits.contains(.memory) }
    /// Whether its explicit or only access is to the stack segment in 64-bit mode.
    var accessesStack: Bool {
        switch handler {
        case .push64, .pop64, .call, .ret: true
        default: isMemory && segment == SegmentIndex.flat && (base == RegisterIndex.rsp || base == RegisterIndex.rbp)
        }
    }
    /// The page offset of the instruction after this one.
    var nextPageOffset: UInt64 { UInt64(pageOffset) &+ UInt64(length) }
}

/// A place in a decoded block: the instruction there, read in place.
@safe struct InstructionCursor {
    private var place: UnsafeMutablePointer<DecodedInstruction>

    /// - Parameter place: an instruction of a block that ends with a closing slot, in an arena that outlives the cursor.
    @inline(__always)
    init(_ place: UnsafeMutablePointer<DecodedInstruction>) { unsafe self.place = place }

    // SAFETY: `place` stays within a block, for `advance` is not called on its closing slot.
    var handler: Handler { @inline(__always) get { unsafe place.pointee.handler } }
    var reg: UInt8 { @inline(__always) get { unsafe place.pointee.reg } }
    var rm: UInt8 { @inline(__always) get { unsafe place.pointee.rm } }
    var base: UInt8 { @inline(__always) get { unsafe place.pointee.base } }
    var index: UInt8 { @inline(__always) get { unsafe place.pointee.index } }
    var scale: UInt8 { @inline(__always) get { unsafe place.pointee.scale } }
    var segment: UInt8 { @inline(__always) get { unsafe place.pointee.segment } }
    var displacement: Int32 { @inline(__always) get { unsafe place.pointee.displacement } }
    var immediate: UInt64 { @inline(__always) get { unsafe place.pointee.immediate } }
    var operandSize: UInt8 { @inline(__always) get { unsafe place.pointee.operandSize } }
    var link: UInt32 { @inline(__always) get { unsafe place.pointee.link } }
    var isSamePage: Bool { @inline(__always) get { unsafe place.pointee.traits.contains(.samePage) } }
    var pageOffset: UInt64 { @inline(__always) get { unsafe UInt64(place.pointee.pageOffset) } }
    var nextPageOffset: UInt64 { @inline(__always) get { unsafe place.pointee.nextPageOffset } }
    /// A copy, for handlers that are functions of their own.
    var instruction: DecodedInstruction { @inline(__always) get { unsafe place.pointee } }
    var pointer: UnsafeMutablePointer<DecodedInstruction> { @inline(__always) get { unsafe place } }

    @inline(__always)
    mutating func advance() { unsafe place += 1 }
}

/// Indices into `Core.general` beyond the architectural sixteen.
enum RegisterIndex {
    static let rax: UInt8 = 0
    static let rcx: UInt8 = 1
    static let rdx: UInt8 = 2
    static let rbx: UInt8 = 3
    static let rsp: UInt8 = 4
    static let rbp: UInt8 = 5
    static let rsi: UInt8 = 6
    static let rdi: UInt8 = 7
    static let r11: UInt8 = 11
    /// Always zero: the missing base or index of an address.
    static let zero: UInt8 = 16
    /// RIP minus the page offset of the running block: base of RIP-relative addresses.
    static let pageBase: UInt8 = 17
    /// Always 2^32: corrects a RIP-relative displacement that wrapped.
    static let fourGiB: UInt8 = 18
    /// Stands for an absolute 64-bit address, which is in the immediate.
    static let absolute: UInt8 = 19
    /// Marks AH, CH, DH and BH in `reg` and `rm` of byte operations; the low two bits name the register.
    static let highByte: UInt8 = 0x40
}

/// Segment registers in encoding order, then the pseudo segment with base 0.
enum SegmentIndex {
    static let es: UInt8 = 0
    static let cs: UInt8 = 1
    static let ss: UInt8 = 2
    static let ds: UInt8 = 3
    static let fs: UInt8 = 4
    static let gs: UInt8 = 5
    static let flat: UInt8 = 6
}
