// SPDX-License-Identifier: Apache-2.0
// What the x87 instructions do, as the instruction table names it. Intel SDM volume 1, chapter 8.

/// The eight basic operations, in the order of ModRM.reg in opcode D8.
enum X87Arithmetic: UInt16 {
    case add = 0
    case multiply
    case compare
    case comparePop
    /// Destination minus source.
    case subtract
    /// Source minus destination.
    case subtractReverse
    case divide
    case divideReverse
}

/// One x87 instruction, its operand kind included.
package enum X87Operation: UInt16, CaseIterable, Sendable {
    // The first six groups: bits 0 to 2 are an `X87Arithmetic`, bits 3 to 5 the operands.
    case addReal32 = 0x00
    case multiplyReal32, compareReal32, comparePopReal32
    case subtractReal32, subtractReverseReal32, divideReal32, divideReverseReal32
    case addInteger32 = 0x08
    case multiplyInteger32, compareInteger32, comparePopInteger32
    case subtractInteger32, subtractReverseInteger32, divideInteger32, divideReverseInteger32
    case addReal64 = 0x10
    case multiplyReal64, compareReal64, comparePopReal64
    case subtractReal64, subtractReverseReal64, divideReal64, divideReverseReal64
    case addInteger16 = 0x18
    case multiplyInteger16, compareInteger16, comparePopInteger16
    case subtractInteger16, subtractReverseInteger16, divideInteger16, divideReverseInteger16
    /// ST(0) is the destination, ST(i) the source.
    case add = 0x20
    case multiply, compare, comparePop, subtract, subtractReverse, divide, divideReverse
    /// ST(i) is the destination, ST(0) the source.
    case addTo = 0x28
    case multiplyTo
    case subtractFrom = 0x2c
    case subtractReverseFrom, divideInto, divideReverseInto
    /// The same, and pops.
    case addToPop = 0x30
    case multiplyToPop
    case subtractFromPop = 0x34
    case subtractReverseFromPop, divideIntoPop, divideReverseIntoPop

    // Loads.
    case load = 0x40
    case loadReal32, loadReal64, loadReal80, loadInteger16, loadInteger32, loadInteger64, loadDecimal
    case loadOne, loadLog2Ten, loadLog2E, loadPi, loadLog10Two, loadLnTwo, loadZero

    // Stores.
    case store, storePop, storePopQuietly, exchange
    case storeReal32, storePopReal32, storeReal64, storePopReal64, storePopReal80
    case storeInteger16, storePopInteger16, storeInteger32, storePopInteger32, storePopInteger64
    case storeTruncated16, storeTruncated32, storeTruncated64, storePopDecimal

    // Comparison and classification.
    case comparePopPop, compareUnordered, compareUnorderedPop, compareUnorderedPopPop
    case compareFlags, compareFlagsPop, compareUnorderedFlags, compareUnorderedFlagsPop
    case test, examine
    case moveBelow, moveEqual, moveBelowEqual, moveUnordered
    case moveNotBelow, moveNotEqual, moveNotBelowEqual, moveNotUnordered

    // Unary and transcendental.
    case changeSign, absolute, squareRoot, round, extract, scale, remainder, remainderNearest
    case exponential, logarithm, logarithmPlusOne, arctangent, tangent, sine, cosine, sineCosine

    // Control. Those from `initialize` on do not wait for pending exceptions.
    case noOperation, free, freePop, incrementTop, decrementTop, wait
    case loadControl, loadEnvironment, restore
    case initialize, clearExceptions, ignored
    case storeControl, storeStatus, storeStatusAX, storeEnvironment, save

    /// The instruction works while an unmasked exception is pending.
    var isNonWaiting: Bool { rawValue >= Self.initialize.rawValue }

    /// The instruction is recorded as the last one (FIP, FOP, FDP): control instructions are not.
    var isRecorded: Bool { rawValue <= Self.noOperation.rawValue }
}

/// What an x87 instruction has in memory.
package enum X87Memory: UInt8, Sendable {
    case none
    case real32, real64, real80
    case integer16, integer32, integer64
    /// Packed decimal, ten bytes.
    case decimal
    /// Control or status word.
    case word
    /// 14 or 28 bytes.
    case environment
    /// 94 or 108 bytes.
    case state
}

extension X87Operation {
    /// Whether it reads or sets flags of RFLAGS.
    var usesFlags: Bool {
        switch self {
        case .compareFlags, .compareFlagsPop, .compareUnorderedFlags, .compareUnorderedFlagsPop, .moveBelow, .moveEqual,
            .moveBelowEqual, .moveUnordered, .moveNotBelow, .moveNotEqual, .moveNotBelowEqual, .moveNotUnordered:
            true
        default: false
        }
    }
}
