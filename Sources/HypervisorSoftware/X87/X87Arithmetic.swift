// SPDX-License-Identifier: Apache-2.0
// x87 arithmetic and comparison: stack faults here, the operation itself on the host's x87 unit. SDM volume 1, 8.3.

internal import CHost

/// A source operand, converted to extended precision.
struct X87Source {
    var value: X87Register
    /// The operand in memory was denormal, which `value`, normalised, no longer shows.
    var wasDenormal = false
    /// The register it came from is empty.
    var isEmpty = false
}

extension chost_x87_register {
    @inline(__always)
    init(_ register: X87Register) { self.init(mantissa: register.mantissa, exponent: register.exponent) }
}

extension X87Register {
    @inline(__always)
    init(_ register: chost_x87_register) { self.init(mantissa: register.mantissa, exponent: register.exponent) }
}

/// An instruction with two operands and one result, for the host.
enum X87Binary {
    case remainder, remainderNearest, scale, logarithm, logarithmPlusOne, arctangent

    /// The result goes to ST(1) and ST(0) is popped.
    var pops: Bool {
        switch self {
        case .logarithm, .logarithmPlusOne, .arctangent: true
        case .remainder, .remainderNearest, .scale: false
        }
    }
}

/// An instruction with one operand and one result.
enum X87Unary { case squareRoot, round, exponential, sine, cosine }

/// An instruction with one operand and two results.
enum X87Splitting { case tangent, sineCosine, extract }

extension X87 {
    /// Flags that the host may report again.
    private var sticky: UInt16 { status.rawValue & X87Status.exceptions.rawValue }

    /// ST(`index`) as a source.
    @inline(__always)
    func source(_ index: UInt8) -> X87Source { X87Source(value: self[st: index], isEmpty: !isValid(index)) }

    /// FADD, FSUB, FMUL, FDIV and their kin: ST(`destination`) becomes itself `operation` `source`.
    @inline(__always)
    mutating func arithmetic(
        _ operation: X87Arithmetic, to destination: UInt8, _ source: X87Source, pops: Bool = false
    ) {
        if source.isEmpty || !isValid(destination) {
            guard stackFault() else { return }
            self[st: destination] = .indefinite
        } else {
            let a = self[st: destination]
            var flags: UInt16 = 0
            if source.wasDenormal && !a.isNaN && !a.isUnsupported {
                flags = X87Status.denormal.rawValue
                guard !isBlocked(flags) else { return record(flags) }
            }
            let result = calculate(operation, chost_x87_register(a), chost_x87_register(source.value))
            flags |= result.status
            record(flags)
            guard !isBlocked(flags) else { return }
            self[st: destination] = X87Register(result.st0)
        }
        if pops { pop() }
    }

    @inline(__always)
    private func calculate(
        _ operation: X87Arithmetic, _ a: chost_x87_register, _ b: chost_x87_register
    ) -> chost_x87_result {
        switch operation {
        case .add: chost_x87_add(a, b, control, sticky)
        case .multiply: chost_x87_multiply(a, b, control, sticky)
        case .subtract: chost_x87_subtract(a, b, control, sticky)
        case .subtractReverse: chost_x87_subtract_reverse(a, b, control, sticky)
        case .divide: chost_x87_divide(a, b, control, sticky)
        case .divideReverse: chost_x87_divide_reverse(a, b, control, sticky)
        case .compare, .comparePop: chost_x87_compare(a, b, control, sticky)
        }
    }

    /// Compares ST(0) with `source`; nil when an exception keeps the answer back.
    private mutating func comparison(_ source: X87Source, isUnordered: Bool) -> X87Status? {
        if source.isEmpty || !isValid(0) { return stackFault() ? .comparison : nil }
        let a = self[st: 0]
        var flags: UInt16 = 0
        if source.wasDenormal && !a.isNaN && !a.isUnsupported { flags = X87Status.denormal.rawValue }
        let x = chost_x87_register(a)
        let y = chost_x87_register(source.value)
        let result =
            isUnordered ? chost_x87_compare_unordered(x, y, control, sticky) : chost_x87_compare(x, y, control, sticky)
        flags |= result.status & X87Status.exceptions.rawValue
        record(flags)
        guard !isBlocked(flags) else { return nil }
        return X87Status(rawValue: result.status).intersection(.comparison)
    }

    /// FCOM, FUCOM, FTST and those that pop. The answer is in C3, C2 and C0.
    mutating func compare(_ source: X87Source, isUnordered: Bool = false, pops: Int = 0) {
        guard let answer = comparison(source, isUnordered: isUnordered) else { return }
        status = status.subtracting(.comparison).union(answer)
        for _ in 0..<pops { pop() }
    }

    /// FCOMI and FUCOMI: the answer as ZF (C3), PF (C2) and CF (C0).
    mutating func compareForFlags(_ index: UInt8, isUnordered: Bool, pops: Bool) -> X87Status? {
        guard let answer = comparison(source(index), isUnordered: isUnordered) else { return nil }
        if pops { pop() }
        return answer
    }

    /// FXAM.
    mutating func examine() {
        let value = self[st: 0]
        var answer = isValid(0) ? value.examination : [.condition3, .condition0]
        if value.isNegative { answer.insert(.condition1) }
        status = status.subtracting(.conditions).union(answer)
    }

    /// FCHS and FABS, which raise nothing but a stack fault.
    mutating func changeSign(_ change: (UInt16) -> UInt16) {
        if isValid(0) {
            record(0)
            let number = Int(top)
            registers[number].exponent = change(registers[number].exponent)
        } else if stackFault() {
            self[st: 0] = .indefinite
        }
    }

    mutating func unary(_ operation: X87Unary) {
        guard isValid(0) else {
            if stackFault() { self[st: 0] = .indefinite }
            return
        }
        let a = chost_x87_register(self[st: 0])
        let b = chost_x87_register(.zero)
        let result: chost_x87_result
        var conditions = X87Status.condition1
        switch operation {
        case .squareRoot: result = chost_x87_square_root(a, b, control, sticky)
        case .round: result = chost_x87_round(a, b, control, sticky)
        case .exponential: result = chost_x87_exponential(a, b, control, sticky)
        case .sine:
            result = chost_x87_sine(a, b, control, sticky)
            conditions.insert(.condition2)
        case .cosine:
            result = chost_x87_cosine(a, b, control, sticky)
            conditions.insert(.condition2)
        }
        record(result.status, conditions)
        if !isBlocked(result.status) { self[st: 0] = X87Register(result.st0) }
    }

    mutating func binary(_ operation: X87Binary) {
        let destination: UInt8 = operation.pops ? 1 : 0
        if areValid(1) {
            let a = chost_x87_register(self[st: 0])
            let b = chost_x87_register(self[st: 1])
            let result: chost_x87_result
            var conditions = X87Status.condition1
            switch operation {
            case .remainder:
                result = chost_x87_remainder(a, b, control, sticky)
                conditions = .conditions
            case .remainderNearest:
                result = chost_x87_remainder_nearest(a, b, control, sticky)
                conditions = .conditions
            case .scale: result = chost_x87_scale(a, b, control, sticky)
            case .logarithm: result = chost_x87_logarithm(a, b, control, sticky)
            case .logarithmPlusOne: result = chost_x87_logarithm_plus_one(a, b, control, sticky)
            case .arctangent: result = chost_x87_arctangent(a, b, control, sticky)
            }
            record(result.status, conditions)
            guard !isBlocked(result.status) else { return }
            self[st: destination] = X87Register(result.st0)
        } else {
            guard stackFault() else { return }
            self[st: destination] = .indefinite
        }
        if operation.pops { pop() }
    }

    /// FPTAN, FSINCOS and FXTRACT: ST(0) becomes two registers.
    mutating func split(_ operation: X87Splitting) {
        let isOverflow = isValid(0) && isValid(7)
        guard isValid(0), !isOverflow else {
            guard stackFault(isOverflow: isOverflow) else { return }
            self[st: 0] = .indefinite
            push(.indefinite)
            return
        }
        let a = chost_x87_register(self[st: 0])
        let result: chost_x87_result
        var conditions: X87Status = [.condition1, .condition2]
        switch operation {
        case .tangent: result = chost_x87_tangent(a, control)
        case .sineCosine: result = chost_x87_sine_cosine(a, control)
        case .extract:
            result = chost_x87_extract(a, control)
            conditions = .condition1
        }
        record(result.status, conditions)
        let isIncomplete = X87Status(rawValue: result.status & conditions.rawValue).contains(.condition2)
        guard !isBlocked(result.status), !isIncomplete else { return }
        self[st: 0] = X87Register(result.st1)
        push(X87Register(result.st0))
    }

    /// FCMOVcc.
    mutating func move(from index: UInt8, if condition: Bool) {
        if areValid(index) {
            record(0)
            if condition { self[st: 0] = self[st: index] }
        } else if stackFault() {
            self[st: 0] = .indefinite
        }
    }

    /// FXCH. An empty register is exchanged as the indefinite value.
    mutating func exchange(_ index: UInt8) {
        if areValid(index) {
            record(0)
        } else {
            guard stackFault() else { return }
            if !isValid(0) { self[st: 0] = .indefinite }
            if !isValid(index) { self[st: index] = .indefinite }
        }
        let value = self[st: 0]
        self[st: 0] = self[st: index]
        self[st: index] = value
    }

    /// FFREE.
    mutating func free(_ index: UInt8) { valid &= ~(1 &<< physical(index)) }

    /// FINCSTP and FDECSTP.
    mutating func rotate(by step: UInt8) {
        record(0)
        top &+= step
    }
}
