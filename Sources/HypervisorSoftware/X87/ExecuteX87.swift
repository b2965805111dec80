// SPDX-License-Identifier: Apache-2.0
// Executes the x87 instructions: operands from registers and memory, faults, the result to `X87`. SDM volume 1, 8.3.

import X86

extension Core {
    /// Runs the x87 instruction `i`; its operation is an `X87Operation`, its immediate the 11-bit opcode (FOP).
    ///
    /// A fault changes nothing. #MF is raised whatever CR0.NE says: there is no FERR# pin here.
    mutating func executeX87(_ i: DecodedInstruction) throws(Fault) {
        guard let operation = X87Operation(rawValue: i.operation) else { throw .invalidOpcode }
        let unavailable =
            operation == .wait
            ? cr0 & (ControlRegister0.monitorCoprocessor | ControlRegister0.taskSwitched)
                == ControlRegister0.monitorCoprocessor | ControlRegister0.taskSwitched
            : cr0 & (ControlRegister0.emulation | ControlRegister0.taskSwitched) != 0
        if unavailable { throw .deviceNotAvailable }
        if x87.hasPendingException && !operation.isNonWaiting { throw .x87Error }

        if operation.rawValue < X87Operation.load.rawValue {
            try executeArithmetic(operation, i)
        } else if operation.rawValue < X87Operation.comparePopPop.rawValue {
            try executeMove(operation, i)
        } else if operation.rawValue < X87Operation.noOperation.rawValue {
            executeOnStack(operation, i)
        } else {
            try executeControl(operation, i)
        }
        if operation.isRecorded {
            x87.lastOpcode = UInt16(truncatingIfNeeded: i.immediate) & 0x7ff
            x87.lastInstruction = self[gpr: RegisterIndex.pageBase] &+ UInt64(i.pageOffset)
            if i.isMemory { x87.lastData = effectiveAddress(i) }
        }
    }

    /// The source operand of an instruction of the first six groups.
    @inline(__always)
    private mutating func source(_ operation: X87Operation, _ i: DecodedInstruction) throws(Fault) -> X87Source {
        switch operation.rawValue &>> 3 {
        case 0: return X87Source(real32: try load(UInt32.self, at: effectiveAddress(i)))
        case 1: return X87Source(Int64(Int32(bitPattern: try load(UInt32.self, at: effectiveAddress(i)))))
        case 2: return X87Source(real64: try load(UInt64.self, at: effectiveAddress(i)))
        case 3: return X87Source(Int64(Int16(bitPattern: try load(UInt16.self, at: effectiveAddress(i)))))
        case 4: return x87.source(i.rm & 7)
        default: return x87.source(0)
        }
    }

    /// FADD to FDIVR in all their forms, FCOM and FCOMP.
    private mutating func executeArithmetic(_ operation: X87Operation, _ i: DecodedInstruction) throws(Fault) {
        guard let arithmetic = X87Arithmetic(rawValue: operation.rawValue & 7) else { return }
        let source = try source(operation, i)
        let group = operation.rawValue &>> 3
        switch arithmetic {
        case .compare: x87.compare(source)
        case .comparePop: x87.compare(source, pops: 1)
        default: x87.arithmetic(arithmetic, to: group < 5 ? 0 : i.rm & 7, source, pops: group == 6)
        }
    }

    /// Loads and stores.
    private mutating func executeMove(_ operation: X87Operation, _ i: DecodedInstruction) throws(Fault) {
        switch operation {
        case .load: x87.load(register: i.rm & 7)
        case .loadReal32: x87.load(X87Source(real32: try load(UInt32.self, at: effectiveAddress(i))))
        case .loadReal64: x87.load(X87Source(real64: try load(UInt64.self, at: effectiveAddress(i))))
        case .loadReal80:
            let (low, high) = try load80(i)
            x87.load(X87Source(value: X87Register(mantissa: low, exponent: high)), raisesConversion: false)
        case .loadInteger16:
            x87.load(X87Source(Int64(Int16(bitPattern: try load(UInt16.self, at: effectiveAddress(i))))))
        case .loadInteger32:
            x87.load(X87Source(Int64(Int32(bitPattern: try load(UInt32.self, at: effectiveAddress(i))))))
        case .loadInteger64: x87.load(X87Source(Int64(bitPattern: try load(UInt64.self, at: effectiveAddress(i)))))
        case .loadDecimal:
            let (low, high) = try load80(i)
            x87.load(X87Source(decimal: low, high))
        case .loadOne: loadConstant(.one)
        case .loadLog2Ten: loadConstant(.log2Ten)
        case .loadLog2E: loadConstant(.log2E)
        case .loadPi: loadConstant(.pi)
        case .loadLog10Two: loadConstant(.log10Two)
        case .loadLnTwo: loadConstant(.lnTwo)
        case .loadZero: loadConstant(.zero)
        case .store: x87.store(register: i.rm & 7, pops: false)
        case .storePop: x87.store(register: i.rm & 7, pops: true)
        case .storePopQuietly: x87.storeQuietly(register: i.rm & 7)
        case .exchange: x87.exchange(i.rm & 7)
        case .storeReal32: try store(.real32, i, pops: false)
        case .storePopReal32: try store(.real32, i)
        case .storeReal64: try store(.real64, i, pops: false)
        case .storePopReal64: try store(.real64, i)
        case .storePopReal80: try store(.real80, i)
        case .storeInteger16: try store(.integer16, i, pops: false)
        case .storePopInteger16: try store(.integer16, i)
        case .storeInteger32: try store(.integer32, i, pops: false)
        case .storePopInteger32: try store(.integer32, i)
        case .storePopInteger64: try store(.integer64, i)
        case .storeTruncated16: try store(.truncated16, i)
        case .storeTruncated32: try store(.truncated32, i)
        case .storeTruncated64: try store(.truncated64, i)
        default: try store(.decimal, i)
        }
    }

    private mutating func loadConstant(_ constant: X87Constant) {
        x87.load(X87Source(value: constant.value(control: x87.control)), raisesConversion: false)
    }

    private mutating func load80(_ i: DecodedInstruction) throws(Fault) -> (UInt64, UInt16) {
        let address = effectiveAddress(i)
        return (try load(UInt64.self, at: address), try load(UInt16.self, at: address &+ 8))
    }

    /// Converts ST(0), writes it, and only then changes the x87 unit. The address is checked even if nothing is written.
    @inline(__always)
    private mutating func store(_ format: X87StoreFormat, _ i: DecodedInstruction, pops: Bool = true) throws(Fault) {
        let result = x87.prepareStore(format)
        let address = effectiveAddress(i)
        if result.isBlocked {
            try checkWritable(address, format.size, accessSet)
        } else {
            switch format {
            case .integer16, .truncated16: try store(UInt16(truncatingIfNeeded: result.low), at: address)
            case .real32, .integer32, .truncated32: try store(UInt32(truncatingIfNeeded: result.low), at: address)
            case .real64, .integer64, .truncated64: try store(result.low, at: address)
            case .real80, .decimal:
                try checkWritable(address, 10, accessSet)
                try store(result.low, at: address)
                try store(result.high, at: address &+ 8)
            }
        }
        x87.finish(result, pops: pops)
    }

    /// Instructions on registers alone.
    private mutating func executeOnStack(_ operation: X87Operation, _ i: DecodedInstruction) {
        let index = i.rm & 7
        switch operation {
        case .comparePopPop: x87.compare(x87.source(1), pops: 2)
        case .compareUnordered: x87.compare(x87.source(index), isUnordered: true)
        case .compareUnorderedPop: x87.compare(x87.source(index), isUnordered: true, pops: 1)
        case .compareUnorderedPopPop: x87.compare(x87.source(1), isUnordered: true, pops: 2)
        case .compareFlags: compareForFlags(index, isUnordered: false, pops: false)
        case .compareFlagsPop: compareForFlags(index, isUnordered: false, pops: true)
        case .compareUnorderedFlags: compareForFlags(index, isUnordered: true, pops: false)
        case .compareUnorderedFlagsPop: compareForFlags(index, isUnordered: true, pops: true)
        case .test: x87.compare(X87Source(value: .zero))
        case .examine: x87.examine()
        case .moveBelow: x87.move(from: index, if: flags.carry)
        case .moveEqual: x87.move(from: index, if: flags.zero)
        case .moveBelowEqual: x87.move(from: index, if: flags.carry || flags.zero)
        case .moveUnordered: x87.move(from: index, if: flags.parity)
        case .moveNotBelow: x87.move(from: index, if: !flags.carry)
        case .moveNotEqual: x87.move(from: index, if: !flags.zero)
        case .moveNotBelowEqual: x87.move(from: index, if: !flags.carry && !flags.zero)
        case .moveNotUnordered: x87.move(from: index, if: !flags.parity)
        case .changeSign: x87.changeSign { $0 ^ 0x8000 }
        case .absolute: x87.changeSign { $0 & 0x7fff }
        case .squareRoot: x87.unary(.squareRoot)
        case .round: x87.unary(.round)
        case .exponential: x87.unary(.exponential)
        case .sine: x87.unary(.sine)
        case .cosine: x87.unary(.cosine)
        case .scale: x87.binary(.scale)
        case .remainder: x87.remainder(isNearest: false)
        case .remainderNearest: x87.remainder(isNearest: true)
        case .logarithm: x87.binary(.logarithm)
        case .logarithmPlusOne: x87.binary(.logarithmPlusOne)
        case .arctangent: x87.binary(.arctangent)
        case .extract: x87.split(.extract)
        case .tangent: x87.split(.tangent)
        default: x87.split(.sineCosine)
        }
    }

    private mutating func compareForFlags(_ index: UInt8, isUnordered: Bool, pops: Bool) {
        let answer = x87.compareForFlags(index, isUnordered: isUnordered, pops: pops)
        setFlags(
            cf: answer.contains(.condition0), pf: answer.contains(.condition2), af: false,
            zf: answer.contains(.condition3), sf: false, of: false)
    }

    /// Instructions on the unit's control state.
    private mutating func executeControl(_ operation: X87Operation, _ i: DecodedInstruction) throws(Fault) {
        switch operation {
        case .free: x87.free(i.rm & 7)
        case .freePop:
            x87.free(i.rm & 7)
            x87.pop()
        case .incrementTop: x87.rotate(by: 1)
        case .decrementTop: x87.rotate(by: 7)
        case .loadControl: x87.setControl(try load(UInt16.self, at: effectiveAddress(i)))
        case .loadEnvironment: try loadEnvironment(at: effectiveAddress(i), environmentFormat(i))
        case .restore: try restoreX87(i)
        case .initialize: x87.initialize()
        case .clearExceptions: x87.clearExceptions()
        case .storeControl: try store(x87.control, at: effectiveAddress(i))
        case .storeStatus: try store(x87.status.rawValue, at: effectiveAddress(i))
        case .storeStatusAX:
            self[gpr: RegisterIndex.rax] = self[gpr: RegisterIndex.rax] & ~0xffff | UInt64(x87.status.rawValue)
        case .storeEnvironment:
            let format = environmentFormat(i)
            let address = effectiveAddress(i)
            try checkWritable(address, format.size, accessSet)
            try storeEnvironment(at: address, format)
            x87.maskExceptions()
        case .save: try saveX87(i)
        default: break  // FNOP, FWAIT, and what the 8087 and 80287 needed
        }
    }

    private mutating func environmentFormat(_ i: DecodedInstruction) -> X87EnvironmentFormat {
        X87EnvironmentFormat(is32Bit: i.operandSize != 2, isReal: !isProtected || isVirtual8086)
    }

    private mutating func loadEnvironment(at address: UInt64, _ format: X87EnvironmentFormat) throws(Fault) {
        var words = InlineArray<7, UInt32>(repeating: 0)
        for number in 0..<7 {
            let place = address &+ UInt64(number * format.wordSize)
            words[number] =
                format.is32Bit ? try load(UInt32.self, at: place) : UInt32(try load(UInt16.self, at: place))
        }
        x87.setEnvironment(words, format)
    }

    private mutating func storeEnvironment(at address: UInt64, _ format: X87EnvironmentFormat) throws(Fault) {
        let words = x87.environment(format)
        for number in 0..<7 {
            let place = address &+ UInt64(number * format.wordSize)
            if format.is32Bit {
                try store(words[number], at: place)
            } else {
                try store(UInt16(truncatingIfNeeded: words[number]), at: place)
            }
        }
    }

    /// FNSAVE: the environment and the stack, then FNINIT.
    private mutating func saveX87(_ i: DecodedInstruction) throws(Fault) {
        let format = environmentFormat(i)
        let address = effectiveAddress(i)
        try checkWritable(address, format.size + 80, accessSet)
        try storeEnvironment(at: address, format)
        for index in UInt8(0)..<8 {
            let place = address &+ UInt64(format.size) &+ UInt64(index) * 10
            try store(x87[st: index].mantissa, at: place)
            try store(x87[st: index].exponent, at: place &+ 8)
        }
        x87.initialize()
    }

    /// FRSTOR.
    private mutating func restoreX87(_ i: DecodedInstruction) throws(Fault) {
        let format = environmentFormat(i)
        let address = effectiveAddress(i)
        var stack = InlineArray<8, X87Register>(repeating: .zero)
        for index in 0..<8 {
            let place = address &+ UInt64(format.size + index * 10)
            stack[index] = X87Register(
                mantissa: try load(UInt64.self, at: place), exponent: try load(UInt16.self, at: place &+ 8))
        }
        try loadEnvironment(at: address, format)
        let valid = x87.valid
        for index in UInt8(0)..<8 { x87[st: index] = stack[Int(index)] }
        x87.valid = valid
    }
}
