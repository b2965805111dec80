// SPDX-License-Identifier: Apache-2.0
// The x87 unit's registers: data stack, control, status and tag words, last pointers. Intel SDM volume 1, 8.1.

/// One 80-bit register, in double extended-precision format.
package struct X87Register: Equatable, Sendable {
    /// The significand with its explicit integer bit.
    package var mantissa: UInt64
    /// Sign (bit 15) and biased exponent.
    package var exponent: UInt16

    package init(mantissa: UInt64, exponent: UInt16) {
        self.mantissa = mantissa
        self.exponent = exponent
    }

    package static let zero = X87Register(mantissa: 0, exponent: 0)
    /// The quiet NaN that answers a masked invalid operation.
    package static let indefinite = X87Register(mantissa: 0xc000_0000_0000_0000, exponent: 0xffff)

    private static let integerBit: UInt64 = 1 << 63

    var isNegative: Bool { exponent & 0x8000 != 0 }
    var isZero: Bool { exponent & 0x7fff == 0 && mantissa == 0 }
    /// Unnormal, pseudo-infinity or pseudo-NaN: formats of the 8087 that are invalid operands now.
    var isUnsupported: Bool { exponent & 0x7fff != 0 && mantissa & Self.integerBit == 0 }
    var isNaN: Bool { exponent & 0x7fff == 0x7fff && mantissa > Self.integerBit }

    /// What FXAM says of the value, as C3, C2 and C0.
    var examination: X87Status {
        switch (exponent & 0x7fff, mantissa) {
        case (0, 0): .condition3  // zero
        case (0, _): [.condition3, .condition2]  // denormal
        case (_, ..<Self.integerBit): []  // unsupported
        case (0x7fff, Self.integerBit): [.condition2, .condition0]  // infinity
        case (0x7fff, _): .condition0  // NaN
        default: .condition2  // normal
        }
    }

    /// The two tag bits of a register that is not empty.
    var tag: UInt16 {
        if isZero { return 1 }
        let magnitude = exponent & 0x7fff
        return magnitude == 0 || magnitude == 0x7fff || mantissa & Self.integerBit == 0 ? 2 : 0
    }
}

/// The status word. TOP is bits 11 to 13.
package struct X87Status: OptionSet, Sendable {
    package var rawValue: UInt16
    package init(rawValue: UInt16) { self.rawValue = rawValue }

    package static let invalid = X87Status(rawValue: 1 << 0)  // IE
    package static let denormal = X87Status(rawValue: 1 << 1)  // DE
    package static let zeroDivide = X87Status(rawValue: 1 << 2)  // ZE
    package static let overflow = X87Status(rawValue: 1 << 3)  // OE
    package static let underflow = X87Status(rawValue: 1 << 4)  // UE
    package static let precision = X87Status(rawValue: 1 << 5)  // PE
    package static let stackFault = X87Status(rawValue: 1 << 6)  // SF
    package static let errorSummary = X87Status(rawValue: 1 << 7)  // ES
    package static let condition0 = X87Status(rawValue: 1 << 8)  // C0
    package static let condition1 = X87Status(rawValue: 1 << 9)  // C1
    package static let condition2 = X87Status(rawValue: 1 << 10)  // C2
    package static let condition3 = X87Status(rawValue: 1 << 14)  // C3
    package static let busy = X87Status(rawValue: 1 << 15)  // B

    /// The six exceptions, at the same places as their masks in the control word.
    static let exceptions = X87Status(rawValue: 0x3f)
    /// Exceptions that keep an instruction from doing anything when they are not masked.
    static let beforeExecution: X87Status = [.invalid, .denormal, .zeroDivide]
    static let conditions: X87Status = [.condition0, .condition1, .condition2, .condition3]
    static let comparison: X87Status = [.condition0, .condition2, .condition3]
    static let topMask: UInt16 = 7 << 11
}

/// The state of the x87 unit. A value: no references, no allocation.
package struct X87: Sendable {
    /// The physical registers R0 to R7, which MMX knows as MM0 to MM7.
    var registers = InlineArray<8, X87Register>(repeating: .zero)
    private(set) var control: UInt16 = 0x037f
    package var status: X87Status = []
    /// One bit for each physical register that is not empty.
    package var valid: UInt8 = 0
    /// Low bits of the opcode's first byte and the ModRM byte of the last recorded instruction; 11 bits.
    package var lastOpcode: UInt16 = 0  // FOP
    /// Offset of the last recorded instruction in CS.
    package var lastInstruction: UInt64 = 0  // FIP
    /// Offset of its memory operand.
    package var lastData: UInt64 = 0  // FDP

    package init() {}

    /// Index of ST(0) among the physical registers, 0 to 7.
    package var top: UInt8 {
        get { UInt8(truncatingIfNeeded: status.rawValue &>> 11 & 7) }
        set { status.rawValue = status.rawValue & ~X87Status.topMask | UInt16(newValue & 7) &<< 11 }
    }

    /// The physical register that ST(`index`) is.
    @inline(__always)
    func physical(_ index: UInt8) -> UInt8 { (top &+ index) & 7 }

    /// ST(`index`), whether empty or not. Setting fills the register.
    subscript(st index: UInt8) -> X87Register {
        @inline(__always) get { registers[Int(physical(index))] }
        @inline(__always) set {
            let number = physical(index)
            registers[Int(number)] = newValue
            valid |= 1 &<< number
        }
    }

    @inline(__always)
    func isValid(_ index: UInt8) -> Bool { valid &>> physical(index) & 1 != 0 }

    /// Both ST(0) and ST(`index`) hold values.
    @inline(__always)
    func areValid(_ index: UInt8) -> Bool { isValid(0) && isValid(index) }

    @inline(__always)
    mutating func pop() {
        valid &= ~(1 &<< top)
        top &+= 1
    }

    @inline(__always)
    mutating func push(_ value: X87Register) {
        top &-= 1
        self[st: 0] = value
    }

    /// Reserved bits read as the hardware has them: bit 6 set, bits 13 to 15 and 7 clear.
    mutating func setControl(_ word: UInt16) {
        control = word & 0x1f3f | 0x40
        summarize()
    }

    /// Brings ES and B up to date with flags and masks.
    @inline(__always)
    mutating func summarize() {
        if status.rawValue & ~control & X87Status.exceptions.rawValue != 0 {
            status.formUnion([.errorSummary, .busy])
        } else {
            status.subtract([.errorSummary, .busy])
        }
    }

    /// Some of `flags` is not masked and keeps the instruction from happening.
    @inline(__always)
    func isBlocked(_ flags: UInt16) -> Bool { flags & ~control & X87Status.beforeExecution.rawValue != 0 }

    /// Adds the exceptions in `flags` to the status; the condition bits named by `conditions` become those in `flags`.
    @inline(__always)
    mutating func record(_ flags: UInt16, _ conditions: X87Status = .condition1) {
        let sticky = X87Status.exceptions.rawValue | X87Status.stackFault.rawValue
        status.rawValue =
            status.rawValue & ~conditions.rawValue | flags & (conditions.rawValue | sticky)
        summarize()
    }

    /// A register that should hold a value is empty, or one that should be empty is not.
    /// Returns whether the masked answer is to be given.
    @inline(never)
    mutating func stackFault(isOverflow: Bool = false) -> Bool {
        var flags: X87Status = [.invalid, .stackFault]
        if isOverflow { flags.insert(.condition1) }
        record(flags.rawValue)
        return !isBlocked(flags.rawValue)
    }

    /// FNINIT. The registers keep their contents, and are empty.
    mutating func initialize() {
        control = 0x037f
        status = []
        valid = 0
        lastOpcode = 0
        lastInstruction = 0
        lastData = 0
    }

    /// FNCLEX.
    mutating func clearExceptions() {
        status.subtract([.exceptions, .stackFault, .errorSummary, .busy])
    }

    /// FXSAVE's other tag word, two bits a physical register.
    var fullTag: UInt16 {
        var word: UInt16 = 0
        for number in 0..<8 {
            let tag = valid >> UInt8(number) & 1 == 0 ? 3 : registers[number].tag
            word |= tag << UInt16(number * 2)
        }
        return word
    }

    /// Takes FLDENV's tag word: only empty or not empty matters, the rest follows from the contents.
    mutating func setFullTag(_ word: UInt16) {
        valid = 0
        for number in UInt8(0)..<8 where word >> UInt16(number * 2) & 3 != 3 { valid |= 1 << number }
    }
}
