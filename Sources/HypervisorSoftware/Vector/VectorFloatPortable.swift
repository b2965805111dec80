// SPDX-License-Identifier: Apache-2.0
// Floating-point vector operations for hosts that are not x86-64. Intel SDM volume 1, chapter 11.

/// The result of an operation from `addps` to `cvttpd2dq`.
///
/// An approximation of the architecture: arithmetic rounds to nearest, denormals are kept, and no exception is raised.
package func vectorFloatPortable(
    _ operation: VectorOperation, _ d: Vector128, _ s: Vector128, imm: UInt8, control: UInt32
) -> VectorFloatResult {
    VectorFloatResult(portableValue(operation, d, s, imm, control), raised: 0)
}

private func portableValue(
    _ operation: VectorOperation, _ d: Vector128, _ s: Vector128, _ imm: UInt8, _ control: UInt32
) -> Vector128 {
    switch operation {
    case .addps, .addpd, .addss, .addsd: apply(shape(operation, .addps), d, s, { sum($0, $1) }, { sum($0, $1) })
    case .subps, .subpd, .subss, .subsd:
        apply(shape(operation, .subps), d, s, { difference($0, $1) }, { difference($0, $1) })
    case .mulps, .mulpd, .mulss, .mulsd:
        apply(shape(operation, .mulps), d, s, { multiplied($0, $1) }, { multiplied($0, $1) })
    case .divps, .divpd, .divss, .divsd:
        apply(shape(operation, .divps), d, s, { quiet($0 / $1, $0, $1) }, { quiet($0 / $1, $0, $1) })
    case .minps, .minpd, .minss, .minsd:
        apply(shape(operation, .minps), d, s, { $0 < $1 ? $0 : $1 }, { $0 < $1 ? $0 : $1 })
    case .maxps, .maxpd, .maxss, .maxsd:
        apply(shape(operation, .maxps), d, s, { $0 > $1 ? $0 : $1 }, { $0 > $1 ? $0 : $1 })
    case .sqrtps, .sqrtpd, .sqrtss, .sqrtsd:
        apply(
            shape(operation, .sqrtps), d, s, { quiet($1.squareRoot(), $1, $1) }, { quiet($1.squareRoot(), $1, $1) })
    case .roundps, .roundpd, .roundss, .roundsd:
        apply(
            shape(operation, .roundps), d, s, { quiet($1.rounded(rule(imm, control)), $1, $1) },
            { quiet($1.rounded(rule(imm, control)), $1, $1) })
    case .cmpps, .cmppd, .cmpss, .cmpsd:
        apply(
            shape(operation, .cmpps), d, s, { Float(bitPattern: holds(imm, $0, $1) ? .max : 0) },
            { Double(bitPattern: holds(imm, $0, $1) ? .max : 0) })
    case .addsubps:
        singles { $0 & 1 == 0 ? difference(single(d, $0), single(s, $0)) : sum(single(d, $0), single(s, $0)) }
    case .addsubpd: doubles { $0 == 0 ? difference(double(d, 0), double(s, 0)) : sum(double(d, 1), double(s, 1)) }
    case .haddps: singles { n in neighbours(n < 2 ? d : s, n & 1) { sum($0, $1) } }
    case .hsubps: singles { n in neighbours(n < 2 ? d : s, n & 1) { difference($0, $1) } }
    case .haddpd: doubles { $0 == 0 ? sum(double(d, 0), double(d, 1)) : sum(double(s, 0), double(s, 1)) }
    case .hsubpd: doubles { $0 == 0 ? difference(double(d, 0), double(d, 1)) : difference(double(s, 0), double(s, 1)) }
    case .dpps, .dppd: dotProduct(operation, d, s, imm)
    default: converted(operation, d, s, control)
    }
}

private func converted(_ operation: VectorOperation, _ d: Vector128, _ s: Vector128, _ control: UInt32) -> Vector128 {
    switch operation {
    case .cvtps2pd: return doubles { Double(single(s, $0)) }
    case .cvtpd2ps: return Vector128(low: bits(Float(double(s, 0))) | bits(Float(double(s, 1))) << 32)
    case .cvtss2sd: return Vector128(low: Double(single(s, 0)).bitPattern, high: d.high)
    case .cvtsd2ss: return d.replacingLow32(bits(Float(double(s, 0))))
    case .cvtdq2ps: return singles { Float(s.lane($0, as: Int32.self)) }
    case .cvtdq2pd: return doubles { Double(s.lane($0, as: Int32.self)) }
    case .cvtps2dq, .cvttps2dq:
        let rule = operation == .cvtps2dq ? rule(4, control) : .towardZero
        var result = Vector128.zero
        for n in 0..<4 { result.setLane(n, integer32(Double(single(s, n)), rule)) }
        return result
    case .cvtpd2dq, .cvttpd2dq:
        let rule = operation == .cvtpd2dq ? rule(4, control) : .towardZero
        var result = Vector128.zero
        for n in 0..<2 { result.setLane(n, integer32(double(s, n), rule)) }
        return result
    default: return d
    }
}

/// Which lanes an operation works on.
private enum LaneShape: UInt16 {
    case packedSingle
    case packedDouble
    case scalarSingle
    case scalarDouble
}

/// The shape of one of the four operations from `first` on.
private func shape(_ operation: VectorOperation, _ first: VectorOperation) -> LaneShape {
    LaneShape(rawValue: operation.rawValue - first.rawValue) ?? .packedSingle
}

private func apply(
    _ shape: LaneShape, _ d: Vector128, _ s: Vector128, _ onSingle: (Float, Float) -> Float,
    _ onDouble: (Double, Double) -> Double
) -> Vector128 {
    switch shape {
    case .packedSingle: singles { onSingle(single(d, $0), single(s, $0)) }
    case .packedDouble: doubles { onDouble(double(d, $0), double(s, $0)) }
    case .scalarSingle: d.replacingLow32(bits(onSingle(single(d, 0), single(s, 0))))
    case .scalarDouble: Vector128(low: onDouble(double(d, 0), double(s, 0)).bitPattern, high: d.high)
    }
}

private func single(_ value: Vector128, _ n: Int) -> Float { Float(bitPattern: value.lane(n)) }
private func double(_ value: Vector128, _ n: Int) -> Double { Double(bitPattern: value.lane(n)) }
private func bits(_ value: Float) -> UInt64 { UInt64(value.bitPattern) }

private func singles(_ body: (Int) -> Float) -> Vector128 {
    var result = Vector128.zero
    for n in 0..<4 { result.setLane(n, body(n).bitPattern) }
    return result
}

private func doubles(_ body: (Int) -> Double) -> Vector128 {
    Vector128(low: body(0).bitPattern, high: body(1).bitPattern)
}

private func neighbours(_ value: Vector128, _ pair: Int, _ body: (Float, Float) -> Float) -> Float {
    body(single(value, pair * 2), single(value, pair * 2 + 1))
}

private func sum<F: BinaryFloatingPoint>(_ a: F, _ b: F) -> F { quiet(a + b, a, b) }
private func difference<F: BinaryFloatingPoint>(_ a: F, _ b: F) -> F { quiet(a - b, a, b) }

private func multiplied<F: BinaryFloatingPoint>(_ a: F, _ b: F) -> F { quiet(a * b, a, b) }

/// A NaN operand wins, made quiet, the first before the second; a NaN out of numbers is the negative default.
private func quiet<F: BinaryFloatingPoint>(_ result: F, _ a: F, _ b: F) -> F {
    guard result.isNaN else { return result }
    if a.isNaN { return a.isSignalingNaN ? a + a : a }
    if b.isNaN { return b.isSignalingNaN ? b + b : b }
    return -F.nan
}

/// The rounding of a ROUND immediate.
private func rule(_ imm: UInt8, _ control: UInt32) -> FloatingPointRoundingRule {
    let mode = imm & 4 != 0 ? UInt8(truncatingIfNeeded: control >> MXCSR.roundingShift) & 3 : imm & 3
    switch mode {
    case 0: return .toNearestOrEven
    case 1: return .down
    case 2: return .up
    default: return .towardZero
    }
}

private func holds<F: BinaryFloatingPoint>(_ predicate: UInt8, _ a: F, _ b: F) -> Bool {
    let value =
        switch predicate & 3 {
        case 0: a == b
        case 1: a < b
        case 2: a <= b
        default: a.isNaN || b.isNaN
        }
    return value != (predicate & 4 != 0)
}

private func dotProduct(_ operation: VectorOperation, _ d: Vector128, _ s: Vector128, _ imm: UInt8) -> Vector128 {
    if operation == .dpps {
        func product(_ n: Int) -> Float { imm >> UInt8(4 + n) & 1 == 0 ? 0 : multiplied(single(d, n), single(s, n)) }
        let total = sum(sum(product(0), product(1)), sum(product(2), product(3)))
        return singles { imm >> UInt8($0) & 1 == 0 ? 0 : total }
    }
    func product(_ n: Int) -> Double { imm >> UInt8(4 + n) & 1 == 0 ? 0 : multiplied(double(d, n), double(s, n)) }
    let total = sum(product(0), product(1))
    return doubles { imm >> UInt8($0) & 1 == 0 ? 0 : total }
}

/// Out of range is the integer indefinite.
private func integer32(_ value: Double, _ rule: FloatingPointRoundingRule) -> Int32 {
    Int32(exactly: value.rounded(rule)) ?? .min
}

private func integer64(_ value: Double, _ rule: FloatingPointRoundingRule) -> Int64 {
    Int64(exactly: value.rounded(rule)) ?? .min
}

/// CVTSI2SS and CVTSI2SD.
package func vectorFromIntegerPortable(
    _ operation: VectorOperation, isWide: Bool, _ d: Vector128, _ value: UInt64
) -> VectorFloatResult {
    let number = isWide ? Int64(bitPattern: value) : Int64(Int32(truncatingIfNeeded: value))
    let result =
        operation == .cvtsi2ss
        ? d.replacingLow32(bits(Float(number))) : Vector128(low: Double(number).bitPattern, high: d.high)
    return VectorFloatResult(result, raised: 0)
}

/// CVTSS2SI, CVTSD2SI and the truncating forms.
package func vectorToIntegerPortable(
    _ operation: VectorOperation, isWide: Bool, _ s: Vector128, control: UInt32
) -> VectorFloatResult {
    let isSingle = operation == .cvtss2si || operation == .cvttss2si
    let isTruncating = operation == .cvttss2si || operation == .cvttsd2si
    let number = isSingle ? Double(single(s, 0)) : double(s, 0)
    let rule = isTruncating ? .towardZero : rule(4, control)
    let value =
        isWide
        ? UInt64(bitPattern: integer64(number, rule)) : UInt64(UInt32(bitPattern: integer32(number, rule)))
    return VectorFloatResult(Vector128(low: value), raised: 0)
}

/// COMISS and its like.
package func vectorCompareFlagsPortable(
    _ operation: VectorOperation, _ d: Vector128, _ s: Vector128
) -> (zero: Bool, parity: Bool, carry: Bool, raised: UInt32) {
    let isSingle = operation == .comiss || operation == .ucomiss
    let a = isSingle ? Double(single(d, 0)) : double(d, 0)
    let b = isSingle ? Double(single(s, 0)) : double(s, 0)
    let isUnordered = a.isNaN || b.isNaN
    return (isUnordered || a == b, isUnordered, isUnordered || a < b, 0)
}

#if !arch(x86_64)
    package func vectorFloat(
        _ operation: VectorOperation, _ d: Vector128, _ s: Vector128, imm: UInt8, control: UInt32
    ) -> VectorFloatResult {
        vectorFloatPortable(operation, d, s, imm: imm, control: control)
    }

    package func vectorFromInteger(
        _ operation: VectorOperation, isWide: Bool, _ d: Vector128, _ value: UInt64, control: UInt32
    ) -> VectorFloatResult {
        vectorFromIntegerPortable(operation, isWide: isWide, d, value)
    }

    package func vectorToInteger(
        _ operation: VectorOperation, isWide: Bool, _ s: Vector128, control: UInt32
    ) -> VectorFloatResult {
        vectorToIntegerPortable(operation, isWide: isWide, s, control: control)
    }

    package func vectorCompareFlags(
        _ operation: VectorOperation, _ d: Vector128, _ s: Vector128, control: UInt32
    ) -> (zero: Bool, parity: Bool, carry: Bool, raised: UInt32) {
        vectorCompareFlagsPortable(operation, d, s)
    }
#endif
