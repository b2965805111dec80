// SPDX-License-Identifier: Apache-2.0
// What is known of general registers in translated code without running it: sums of values that they had before.

/// The sum of one value that a register had, or of two, and a constant.
struct LinearValue {
    /// In place of a second value.
    static let none: UInt16 = .max

    /// The number of the value: below `RegisterValues.count` that of a register at the beginning.
    var origin: UInt16
    /// The number of a second one, which is shifted left by `scale`.
    var index = LinearValue.none
    var scale: UInt8 = 0
    var offset: Int64 = 0

    /// Whether both differ by a constant.
    func hasTerms(of other: LinearValue) -> Bool {
        origin == other.origin && index == other.index && scale == other.scale
    }

    func moved(by distance: Int64) -> LinearValue? {
        guard distance.magnitude < 1 << 30, (offset + distance).magnitude < 1 << 30 else { return nil }
        var value = self
        value.offset += distance
        return value
    }

    /// The sum with `other`, shifted left by `scale`.
    func adding(_ other: LinearValue, shiftedBy scale: UInt8) -> LinearValue? {
        guard index == Self.none, other.index == Self.none else { return nil }
        // Without a shift either can be first.
        let isSwapped = scale == 0 && other.origin < origin
        return LinearValue(
            origin: isSwapped ? other.origin : origin, index: isSwapped ? origin : other.origin, scale: scale
        ).moved(by: offset + other.offset << Int64(scale))
    }
}

/// The values of the general registers at one place of a block, as sums of those at its beginning and of values that
/// became known later.
struct RegisterValues {
    /// General registers, and what stands for a missing one and the page base, by their numbers.
    static let count = Int(RegisterIndex.pageBase) + 1

    private var values = (0..<UInt16(count)).map { LinearValue(origin: $0) }
    private var origins = UInt16(count)

    func value(of register: UInt8) -> LinearValue { values[Int(register)] }

    /// The linear address of `address`; nil if it is no such sum.
    func value(_ address: GuestAddress) -> LinearValue? {
        var value: LinearValue? = values[Int(address.base)]
        if address.index != RegisterIndex.zero {
            let index = values[Int(address.index)]
            let isAlone = address.base == RegisterIndex.zero && address.scale == 0
            value = isAlone ? index : value?.adding(index, shiftedBy: address.scale)
        }
        return value?.moved(by: Int64(address.displacement))
    }

    /// The linear address of `address`. Registers whose sum would have too many terms get values of which nothing else is known.
    mutating func knownValue(_ address: GuestAddress) -> LinearValue? {
        if let value = value(address) { return value }
        for register in [address.base, address.index] where values[Int(register)].index != LinearValue.none {
            values[Int(register)] = LinearValue(origin: origins)
            origins &+= 1
        }
        return value(address)
    }

    /// What each register gained since the beginning; nil where that is no constant.
    var gains: [Int64?] {
        values.indices.map { number in
            let value = values[number]
            return Int(value.origin) == number && value.index == LinearValue.none ? value.offset : nil
        }
    }

    /// What `i` does to the registers.
    mutating func note(_ i: DecodedInstruction, _ plan: TranslationPlan) {
        let written = RegisterUse.written(i, plan)
        guard written != 0 else { return }
        let result = result(i, plan)
        for register in 0..<16 where written >> UInt16(register) & 1 != 0 {
            values[register] = LinearValue(origin: origins)
            origins &+= 1
        }
        if let (register, value) = result { values[Int(register)] = value }
    }

    /// The register that becomes such a sum.
    private func result(_ i: DecodedInstruction, _ plan: TranslationPlan) -> (register: UInt8, value: LinearValue)? {
        guard plan == .integer, i.operandSize == 8 else { return nil }
        func moved(_ from: UInt8, _ distance: Int64, to register: UInt8) -> (register: UInt8, value: LinearValue)? {
            values[Int(from)].moved(by: distance).map { (register, $0) }
        }
        let constant = Int64(bitPattern: i.immediate)
        let isBetweenRegisters = i.shape == Form.rmReg.rawValue || i.shape == Form.regRM.rawValue
        let (from, to) = i.shape == Form.regRM.rawValue ? (i.rm, i.reg) : (i.reg, i.rm)
        switch Operation(rawValue: i.operation) {
        case .push, .pushf: return moved(RegisterIndex.rsp, -8, to: RegisterIndex.rsp)
        case .pop: return i.rm == RegisterIndex.rsp ? nil : moved(RegisterIndex.rsp, 8, to: RegisterIndex.rsp)
        case .leave: return moved(RegisterIndex.rbp, 8, to: RegisterIndex.rsp)
        case .lea:
            guard i.base <= RegisterIndex.pageBase, i.base != RegisterIndex.zero || i.index != RegisterIndex.zero else {
                return nil
            }
            return value(GuestAddress(i)).map { (i.reg, $0) }
        case _ where i.isMemory: return nil
        case .inc: return moved(i.rm, 1, to: i.rm)
        case .dec: return moved(i.rm, -1, to: i.rm)
        case .add where isBetweenRegisters:
            return values[Int(to)].adding(values[Int(from)], shiftedBy: 0).map { (to, $0) }
        case .add: return moved(i.rm, constant, to: i.rm)
        case .sub where !isBetweenRegisters: return constant == .min ? nil : moved(i.rm, -constant, to: i.rm)
        case .mov where isBetweenRegisters: return moved(from, 0, to: to)
        default: return nil
        }
    }
}
