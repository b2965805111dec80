// SPDX-License-Identifier: Apache-2.0
// Host instructions as bytes. Intel SDM volume 2, chapter 2.

/// What is known of the two registers that no register of the guest has.
struct FreeRegisters {
    /// The guest's register in the context whose value the first one has, too.
    var held: UInt8?
    /// The place in the context whose value the second one has: where a group or stream is.
    var reached: Int?
    /// The same of the first one, of a stream.
    var reachedByFirst: Int?
}

/// Writes instructions into two sections of the code buffer, one for the straight path and one for what lies beside it; what
/// does not fit is dropped, and `overflowed` says so.
@safe struct Assembler {
    /// The buffer at its writable address.
    private let buffer: UnsafeMutablePointer<UInt8>
    private let size: Int
    /// Where the next byte goes, as an offset into the buffer.
    private(set) var position: Int
    private var limit: Int
    /// The same of the section that is not written now.
    private var other: Range<Int>
    private(set) var overflowed = false
    /// What the free registers have, until the next instruction that may change them.
    var known = FreeRegisters()

    /// - Parameters:
    ///   - buffer: valid for `size` bytes while the assembler is used.
    ///   - section: what may be written first, within the buffer.
    ///   - other: what may be written after `switchSection`, within the buffer.
    init(
        _ buffer: UnsafeMutablePointer<UInt8>, size: Int, section: Range<Int> = 0..<0, other: Range<Int> = 0..<0
    ) {
        precondition(section.upperBound <= size && other.upperBound <= size)
        unsafe self.buffer = buffer
        self.size = size
        position = section.lowerBound
        limit = section.upperBound
        self.other = other
    }

    /// Goes on in the other section.
    mutating func switchSection() {
        let present = position..<limit
        position = other.lowerBound
        limit = other.upperBound
        other = present
    }

    /// The first byte of the section that is not written now that is free.
    var otherPosition: Int { other.lowerBound }

    @inline(__always)
    mutating func byte(_ value: UInt8) {
        guard position < limit else {
            overflowed = true
            return
        }
        // SAFETY: position < limit, which is within the buffer.
        unsafe buffer[position] = value
        position += 1
    }

    mutating func word(_ value: UInt16) { number(value) }

    mutating func doubleWord(_ value: Int32) { number(value) }

    mutating func quadWord(_ value: UInt64) { number(value) }

    /// The bytes of `value`, the lowest first.
    @inline(__always)
    private mutating func number<Number: FixedWidthInteger & BitwiseCopyable>(_ value: Number) {
        guard position + MemoryLayout<Number>.size <= limit else {
            overflowed = true
            return
        }
        // SAFETY: all of them are below the limit, which is within the buffer.
        unsafe UnsafeMutableRawPointer(buffer + position).storeBytes(of: value.littleEndian, as: Number.self)
        position += MemoryLayout<Number>.size
    }

    /// Replaces the four bytes at `place`.
    func patch(_ place: Int, _ value: Int32) {
        guard place >= 0, place + 4 <= size else { return }
        // SAFETY: checked above; the bytes of an instruction that no processor runs now.
        unsafe UnsafeMutableRawPointer(buffer + place).storeBytes(of: value, as: Int32.self)
    }

    /// The register with this number may change.
    @inline(__always)
    mutating func forget(_ register: UInt8) {
        if register == HostRegister.first.rawValue {
            known.held = nil
            known.reachedByFirst = nil
        }
        if register == HostRegister.second.rawValue { known.reached = nil }
    }

    /// Control may come here from elsewhere.
    mutating func forgetAll() { known = FreeRegisters() }

    /// Writes what changes neither of the two registers.
    mutating func keeping(_ write: (inout Assembler) -> Void) {
        let known = known
        write(&self)
        self.known = known
    }

    /// An instruction with a ModRM byte.
    /// - Parameters:
    ///   - prefix: 66, F2 or F3, or 0.
    ///   - wide: REX.W.
    ///   - reg: ModRM.reg with its extension.
    ///   - isByte: registers 4 to 7 are SPL to DIL, which takes a REX prefix.
    mutating func instruction(
        prefix: UInt8 = 0, wide: Bool, _ map: OpcodeMap, _ opcode: UInt8, reg: UInt8, rm: HostOperand,
        isByte: Bool = false
    ) {
        if prefix != 0 { byte(prefix) }
        forget(reg)
        var rex: UInt8 = wide ? 0x48 : 0x40
        rex |= reg >> 1 & 4
        var forced = isByte && reg & 0xfc == 4
        switch rm {
        case .number(let number):
            rex |= number >> 3 & 1
            forget(number)
            if isByte, number & 0xfc == 4 { forced = true }
        case .memory(let memory):
            if let base = memory.base { rex |= base.rawValue >> 3 }
            if let index = memory.index { rex |= index.rawValue >> 2 & 2 }
        }
        if rex != 0x40 || forced { byte(rex) }
        escape(map)
        byte(opcode)
        modRM(reg & 7, rm)
    }

    /// As above, from the one-byte map.
    mutating func instruction(
        prefix: UInt8 = 0, wide: Bool, _ opcode: UInt8, reg: UInt8, rm: HostOperand, isByte: Bool = false
    ) {
        instruction(prefix: prefix, wide: wide, .primary, opcode, reg: reg, rm: rm, isByte: isByte)
    }

    private mutating func escape(_ map: OpcodeMap) {
        switch map {
        case .primary: break
        case .map0F: byte(0x0f)
        case .map0F38:
            byte(0x0f)
            byte(0x38)
        case .map0F3A:
            byte(0x0f)
            byte(0x3a)
        }
    }

    private mutating func modRM(_ reg: UInt8, _ rm: HostOperand) {
        let memory: HostMemory
        switch rm {
        case .number(let number):
            byte(0xc0 | reg << 3 | number & 7)
            return
        case .memory(let operand): memory = operand
        }
        let indexBits = (memory.index?.rawValue ?? 4) & 7
        guard let base = memory.base else {
            // No base: a SIB byte with a 32-bit displacement.
            byte(reg << 3 | 4)
            byte(memory.scale << 6 | indexBits << 3 | 5)
            doubleWord(memory.displacement)
            return
        }
        let baseBits = base.rawValue & 7
        let kind: UInt8
        if memory.displacement == 0, baseBits != 5 {
            kind = 0
        } else {
            kind = Int8(exactly: memory.displacement) != nil ? 1 : 2
        }
        if memory.index != nil || baseBits == 4 {
            byte(kind << 6 | reg << 3 | 4)
            byte(memory.scale << 6 | indexBits << 3 | baseBits)
        } else {
            byte(kind << 6 | reg << 3 | baseBits)
        }
        if kind == 1 { byte(UInt8(bitPattern: Int8(truncatingIfNeeded: memory.displacement))) }
        if kind == 2 { doubleWord(memory.displacement) }
    }

    /// RORX of 32 bits (BMI2): `to` becomes `from`, rotated right by `count`; the flags stay.
    mutating func rotate(_ to: HostRegister, _ from: HostRegister, right count: UInt8) {
        forget(to.rawValue)
        byte(0xc4)
        byte((to.rawValue < 8 ? 0x80 : 0) | 0x40 | (from.rawValue < 8 ? 0x20 : 0) | 3)
        byte(0x7b)
        byte(0xf0)
        byte(0xc0 | to.rawValue << 3 & 0x38 | from.rawValue & 7)
        byte(count)
    }

    // MARK: Often used

    /// MOV of 64 bits between registers.
    mutating func move(_ to: HostRegister, _ from: HostRegister) {
        instruction(wide: true, 0x8b, reg: to.rawValue, rm: .register(from))
    }

    mutating func load(_ to: HostRegister, _ from: HostMemory) {
        instruction(wide: true, 0x8b, reg: to.rawValue, rm: .memory(from))
    }

    mutating func store(_ from: HostRegister, _ to: HostMemory) {
        keeping { $0.instruction(wide: true, 0x89, reg: from.rawValue, rm: .memory(to)) }
    }

    /// LEA of 64 bits.
    mutating func address(_ to: HostRegister, _ memory: HostMemory) {
        instruction(wide: true, 0x8d, reg: to.rawValue, rm: .memory(memory))
    }

    /// A register becomes `value`, in the shortest form that leaves the flags alone.
    mutating func moveImmediate(_ to: HostRegister, _ value: UInt64) {
        forget(to.rawValue)
        if value <= UInt64(UInt32.max) {
            if to.rawValue >= 8 { byte(0x41) }
            byte(0xb8 | to.rawValue & 7)
            doubleWord(Int32(truncatingIfNeeded: value))
        } else if let short = Int32(exactly: Int64(bitPattern: value)) {
            instruction(wide: true, 0xc7, reg: 0, rm: .register(to))
            doubleWord(short)
        } else {
            byte(to.rawValue >= 8 ? 0x49 : 0x48)
            byte(0xb8 | to.rawValue & 7)
            quadWord(value)
        }
    }

    /// One of ADD, OR, ADC, SBB, AND, SUB, XOR and CMP (0 to 7) with an immediate.
    mutating func arithmetic(_ operation: UInt8, wide: Bool, _ rm: HostOperand, _ value: Int32) {
        if let short = Int8(exactly: value) {
            instruction(wide: wide, 0x83, reg: operation, rm: rm)
            byte(UInt8(bitPattern: short))
        } else {
            instruction(wide: wide, 0x81, reg: operation, rm: rm)
            doubleWord(value)
        }
    }

    // MARK: Jumps

    /// A jump to `target`, a position in the buffer. Returns where its displacement is.
    @discardableResult
    mutating func jump(_ target: Int = 0) -> Int {
        byte(0xe9)
        return relative(target)
    }

    /// The same on condition 0 to 15 (JO to JNLE).
    @discardableResult
    mutating func jump(if condition: UInt8, _ target: Int = 0) -> Int {
        byte(0x0f)
        byte(0x80 | condition & 15)
        return relative(target)
    }

    /// The same for a call.
    @discardableResult
    mutating func call(_ target: Int = 0) -> Int {
        forgetAll()
        byte(0xe8)
        return relative(target)
    }

    private mutating func relative(_ target: Int) -> Int {
        let place = position
        doubleWord(Int32(truncatingIfNeeded: target - (place + 4)))
        return place
    }

    /// Makes the jump whose displacement is at `place` lead to here.
    func land(_ place: Int) { link(place, to: position) }

    /// Makes the jump whose displacement is at `place` lead to `target`.
    func link(_ place: Int, to target: Int) { patch(place, Int32(truncatingIfNeeded: target - (place + 4))) }

    /// Where the jump whose displacement is at `place` leads to.
    func target(_ place: Int) -> Int {
        guard place >= 0, place + 4 <= size else { return 0 }
        // SAFETY: checked above.
        return unsafe place + 4 + Int(UnsafeRawPointer(buffer + place).loadUnaligned(as: Int32.self))
    }

    /// JMP through memory.
    mutating func jumpThrough(_ memory: HostMemory) { instruction(wide: false, 0xff, reg: 4, rm: .memory(memory)) }

    /// CALL through memory.
    mutating func callThrough(_ memory: HostMemory) { instruction(wide: false, 0xff, reg: 2, rm: .memory(memory)) }

    /// Fills up to a multiple of 16 with INT3.
    mutating func align() { while position & 15 != 0, !overflowed { byte(0xcc) } }
}

/// Conditions of jumps in host code.
enum HostCondition {
    static let below: UInt8 = 2
    static let aboveOrEqual: UInt8 = 3
    static let equal: UInt8 = 4
    static let notEqual: UInt8 = 5
    static let belowOrEqual: UInt8 = 6
    static let above: UInt8 = 7
    static let negative: UInt8 = 8
    static let notNegative: UInt8 = 9
    static let lessOrEqual: UInt8 = 14
    static let greater: UInt8 = 15
}
