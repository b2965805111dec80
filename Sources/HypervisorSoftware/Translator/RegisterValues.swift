// SPDX-License-Identifier: Apache-2.0
// What is known of general registers in translated code without running it: sums of values that they had before.

/// The sum of a constant and multiples of up to three values that registers had.
struct LinearValue {
    struct Term: Equatable {
        /// The number of the value.
        var origin: UInt16
        var factor: Int16

        static let none = Term(origin: .max, factor: 0)
    }

    /// Ascending by their origins.
    private var places = InlineArray<3, Term>(repeating: .none)
    private(set) var count = 0
    var offset: Int64 = 0

    /// A constant.
    init() {}

    /// The value of this number.
    init(origin: UInt16) {
        places[0] = Term(origin: origin, factor: 1)
        count = 1
    }

    func term(_ index: Int) -> Term { places[index] }

    /// The number of the only value in it, if nothing is added to that but the constant.
    var origin: UInt16? { count == 1 && places[0].factor == 1 ? places[0].origin : nil }

    /// Whether both differ by a constant.
    func hasTerms(of other: LinearValue) -> Bool {
        guard count == other.count else { return false }
        for index in 0..<count where places[index] != other.places[index] { return false }
        return true
    }

    /// Whether it has the lower half of a register, so that it is right only as long as no sum leaves the 32 bits.
    var hasHalves: Bool {
        (0..<count).contains { places[$0].origin >= RegisterValues.halves && places[$0].origin < RegisterValues.count }
    }

    /// Whether both are the same.
    func isSame(as other: LinearValue) -> Bool { hasTerms(of: other) && offset == other.offset }

    func moved(by distance: Int64) -> LinearValue? {
        guard distance.magnitude < 1 << 30, (offset + distance).magnitude < 1 << 30 else { return nil }
        var value = self
        value.offset += distance
        return value
    }

    /// The sum with `other`, that `factor` times: -8 to 8.
    func adding(_ other: LinearValue, times factor: Int16) -> LinearValue? {
        var sum = self
        for index in 0..<other.count {
            let term = other.places[index]
            guard sum.add(Term(origin: term.origin, factor: term.factor * factor)) else { return nil }
        }
        return sum.moved(by: other.offset * Int64(factor))
    }

    /// Returns whether there is room.
    private mutating func add(_ term: Term) -> Bool {
        var index = 0
        while index < count, places[index].origin < term.origin { index += 1 }
        if index < count, places[index].origin == term.origin {
            places[index].factor += term.factor
            if places[index].factor != 0 { return places[index].factor.magnitude <= 64 }
            for later in index..<count - 1 { places[later] = places[later + 1] }
            count -= 1
            places[count] = .none
            return true
        }
        guard count < 3, term.factor.magnitude <= 64 else { return false }
        for later in stride(from: count, to: index, by: -1) { places[later] = places[later - 1] }
        places[index] = term
        count += 1
        return true
    }
}

/// The values of the general registers at one place of a block, as sums of those at its beginning and of values that
/// became known later.
///
/// Values below `registers` are those of registers at the beginning. From `halves` on come their lower halves, extended with the sign:
/// what is said of these holds as long as nothing that is added to them leaves the 32 bits.
struct RegisterValues {
    /// General registers, and what stands for a missing one and the page base, by their numbers.
    static let registers = UInt16(RegisterIndex.pageBase) + 1
    static let halves: UInt16 = 32
    /// Values that are known at the beginning.
    static let count = Int(halves) + 16
    /// More is not added to a lower half.
    private static let longestDistance: Int64 = 1 << 15

    /// The lower half of a register, as the sum of that of one at the beginning and a constant.
    private struct Half {
        var register: UInt8
        var offset: Int64
    }

    private struct Register {
        var value: LinearValue
        /// Where the value does not tell it.
        var half: Half?
    }

    private var known: [Register]
    private var origins = UInt16(count)
    private let knowsHalves: Bool

    /// - Parameter knowsHalves: whether somebody makes sure that sums of lower halves do not leave the 32 bits.
    init(knowsHalves: Bool) {
        self.knowsHalves = knowsHalves
        known = (0..<Self.registers).map { number in
            let isNone = number == UInt16(RegisterIndex.zero)
            return Register(value: isNone ? LinearValue() : LinearValue(origin: number))
        }
    }

    func value(of register: UInt8) -> LinearValue { known[Int(register)].value }

    /// The linear address at an offset from the page base; nil if it is no such sum.
    func address(_ pageOffset: UInt64) -> LinearValue? {
        value(of: RegisterIndex.pageBase).moved(by: Int64(truncatingIfNeeded: pageOffset))
    }

    /// The linear address of `address`; nil if it is no such sum.
    func value(_ address: GuestAddress) -> LinearValue? {
        let index = known[Int(address.index)].value
        return known[Int(address.base)].value.adding(index, times: 1 << Int16(address.scale))?
            .moved(by: Int64(address.displacement))
    }

    /// The linear address of `address`. Registers whose sum would have too many terms get values of which nothing else is known.
    mutating func knownValue(_ address: GuestAddress) -> LinearValue? {
        if let value = value(address) { return value }
        for register in [address.base, address.index] where known[Int(register)].value.count > 1 {
            known[Int(register)] = Register(value: newValue())
        }
        return value(address)
    }

    /// A register becomes `value`.
    mutating func become(_ register: UInt8, _ value: LinearValue) { known[Int(register)] = Register(value: value) }

    private mutating func newValue() -> LinearValue {
        defer { origins &+= 1 }
        return LinearValue(origin: origins)
    }

    /// The lower half of a register.
    private func half(_ register: UInt8) -> Half? {
        let known = known[Int(register)]
        if let half = known.half { return half }
        guard let origin = known.value.origin else { return nil }
        switch origin {
        case ..<16, Self.halves..<Self.halves + 16:
            return Half(register: UInt8(origin & 15), offset: known.value.offset)
        default: return nil
        }
    }

    /// What each value that was known at the beginning gained since then; nil where that is no constant.
    var gains: [Int64?] {
        (0..<Self.count).map { number in
            if number < Int(Self.registers) {
                let value = known[number].value
                return value.origin == UInt16(number) ? value.offset : nil
            }
            guard number >= Int(Self.halves) else { return nil }
            let register = UInt8(number - Int(Self.halves))
            guard let half = half(register), half.register == register else { return nil }
            return half.offset
        }
    }

    /// What `i` does to the registers.
    mutating func note(_ i: DecodedInstruction, _ plan: TranslationPlan) {
        let written = RegisterUse.written(i, plan)
        guard written != 0 else { return }
        let result = result(i, plan)
        let half = result == nil ? self.half(i, plan) : nil
        for register in 0..<16 where written >> UInt16(register) & 1 != 0 {
            known[register] = Register(value: newValue())
        }
        if let (register, value) = result { known[Int(register)].value = value }
        if let (register, half) = half { known[Int(register)].half = half }
    }

    /// The register that becomes such a sum.
    private func result(_ i: DecodedInstruction, _ plan: TranslationPlan) -> (register: UInt8, value: LinearValue)? {
        func moved(_ from: UInt8, _ distance: Int64, to register: UInt8) -> (register: UInt8, value: LinearValue)? {
            known[Int(from)].value.moved(by: distance).map { (register, $0) }
        }
        if plan == .flow {
            switch i.handler {
            case .call: return moved(RegisterIndex.rsp, -8, to: RegisterIndex.rsp)
            case .ret: return moved(RegisterIndex.rsp, 8 + Int64(i.immediate), to: RegisterIndex.rsp)
            default: return nil
            }
        }
        guard plan == .integer, i.operandSize == 8 else { return nil }
        func sum(_ from: UInt8, to register: UInt8, times factor: Int16) -> (register: UInt8, value: LinearValue)? {
            known[Int(register)].value.adding(known[Int(from)].value, times: factor).map { (register, $0) }
        }
        func extended(_ from: UInt8, to register: UInt8) -> (register: UInt8, value: LinearValue)? {
            guard knowsHalves, let half = half(from), half.offset.magnitude <= Self.longestDistance else { return nil }
            let value = LinearValue(origin: Self.halves + UInt16(half.register))
            return value.moved(by: half.offset).map { (register, $0) }
        }
        let constant = Int64(bitPattern: i.immediate)
        let (from, to) = (i.source, i.destination)
        switch Operation(rawValue: i.operation) {
        case .push, .pushf: return moved(RegisterIndex.rsp, -8, to: RegisterIndex.rsp)
        case .pop: return i.rm == RegisterIndex.rsp ? nil : moved(RegisterIndex.rsp, 8, to: RegisterIndex.rsp)
        case .leave: return moved(RegisterIndex.rbp, 8, to: RegisterIndex.rsp)
        case .lea:
            guard i.base <= RegisterIndex.pageBase, i.base != RegisterIndex.zero || i.index != RegisterIndex.zero else {
                return nil
            }
            return value(GuestAddress(i)).map { (i.reg, $0) }
        case .cbw: return extended(RegisterIndex.rax, to: RegisterIndex.rax)
        case _ where i.isMemory: return nil
        case .movsxd: return extended(i.rm, to: i.reg)
        case .inc: return moved(i.rm, 1, to: i.rm)
        case .dec: return moved(i.rm, -1, to: i.rm)
        case .add where i.hasSource: return sum(from, to: to, times: 1)
        case .add: return moved(i.rm, constant, to: i.rm)
        case .sub where i.hasSource: return sum(from, to: to, times: -1)
        case .sub: return constant == .min ? nil : moved(i.rm, -constant, to: i.rm)
        case .mov where i.hasSource: return moved(from, 0, to: to)
        default: return nil
        }
    }

    /// The register whose lower half becomes such a sum, by an instruction of 32 bits.
    private func half(_ i: DecodedInstruction, _ plan: TranslationPlan) -> (register: UInt8, half: Half)? {
        guard plan == .integer, i.operandSize == 4, !i.isMemory else { return nil }
        func moved(_ from: UInt8, _ distance: Int64, to register: UInt8) -> (register: UInt8, half: Half)? {
            guard let half = half(from), (half.offset + distance).magnitude <= Self.longestDistance else { return nil }
            return (register, Half(register: half.register, offset: half.offset + distance))
        }
        let constant = Int64(bitPattern: i.immediate)
        switch Operation(rawValue: i.operation) {
        case .inc: return moved(i.rm, 1, to: i.rm)
        case .dec: return moved(i.rm, -1, to: i.rm)
        case .add where !i.hasSource: return moved(i.rm, Int64(Int32(truncatingIfNeeded: constant)), to: i.rm)
        case .sub where !i.hasSource: return moved(i.rm, -Int64(Int32(truncatingIfNeeded: constant)), to: i.rm)
        case .mov where i.hasSource: return moved(i.source, 0, to: i.destination)
        default: return nil
        }
    }
}
