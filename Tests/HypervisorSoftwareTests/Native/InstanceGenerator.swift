// SPDX-License-Identifier: Apache-2.0
// Random instances of instruction forms: bytes, registers and memory with many values on the edges.

import TestSupport
@testable import HypervisorSoftware

/// One instruction with everything it starts from.
struct Instance {
    var form: NativeForm
    var code: [UInt8]
    var state: ProcessorState
    /// Address of the memory operand.
    var target: UInt64?
    /// Bytes of the window that differ between processors.
    var ignoredWindow: Range<Int>?
    var alsoIgnored: Range<Int>?
    /// The operand size is 16 bits.
    var isSmall = false
    /// There are more instructions behind that of `form`.
    var isSequence = false
}

/// Makes instances; the same seed makes the same ones.
struct InstanceGenerator {
    var random: SplitMix64
    /// Percentage of operands that are memory where they can be a register.
    private var memoryChance = 50
    private var background = [UInt8](repeating: 0, count: ProcessorState.windowSize)

    init(seed: UInt64) {
        random = SplitMix64(seed: seed)
        var position = 0
        while position < background.count {
            let value = random.chance(50) ? edgeInteger() : real64()
            for byte in 0..<8 { background[position + byte] = UInt8(truncatingIfNeeded: value >> UInt64(byte * 8)) }
            position += 8
        }
    }

    // MARK: Values

    /// An integer, most often one near a boundary.
    mutating func edgeInteger() -> UInt64 {
        switch random.below(10) {
        case 0: 0
        case 1: .max
        case 2: UInt64(random.below(5))
        case 3: 0 &- UInt64(random.below(5))
        case 4: 1 << UInt64(random.below(64))
        case 5: (1 << UInt64(random.below(64))) &- 1
        case 6: random.pick([0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff])
        case 7: random.pick([0x7fff_ffff_ffff_ffff, 0x8000_0000_0000_0000, 0xffff_ffff_0000_0000])
        case 8: random.next() >> UInt64(random.below(64))
        default: random.next()
        }
    }

    /// Bits of a floating-point number with `exponentBits` and `fractionBits`, many of them special.
    private mutating func real(exponentBits: UInt64, fractionBits: UInt64) -> UInt64 {
        let sign = random.next() & 1 << (exponentBits + fractionBits)
        let special: UInt64 = (1 << exponentBits) - 1
        let bias = special >> 1
        var fraction: UInt64 =
            switch random.below(4) {
            case 0: 0
            case 1: (1 << fractionBits) - 1
            case 2: (1 << UInt64(random.below(Int(fractionBits))))
            default: random.next() & ((1 << fractionBits) - 1)
            }
        let exponent: UInt64
        switch random.below(10) {
        case 0: exponent = 0
        case 1: exponent = special
        case 2:
            exponent = 0
            fraction = 0
        case 3: exponent = special - 1 - UInt64(random.below(3))
        case 4: exponent = 1 + UInt64(random.below(3))
        case 5: exponent = random.next() & special
        default: exponent = (bias - 8 + UInt64(random.below(72))) % special
        }
        return sign | exponent << fractionBits | fraction
    }

    mutating func real32() -> UInt64 { real(exponentBits: 8, fractionBits: 23) }
    mutating func real64() -> UInt64 { real(exponentBits: 11, fractionBits: 52) }

    /// An 80-bit number: significand, then sign and exponent.
    mutating func real80() -> (UInt64, UInt64) {
        let sign = random.next() & 0x8000
        let integerBit: UInt64 = 1 << 63
        var mantissa: UInt64 =
            switch random.below(5) {
            case 0: integerBit
            case 1: .max
            case 2: integerBit | 1 << UInt64(random.below(63))
            case 3: integerBit | random.next() << UInt64(random.below(63))
            default: integerBit | random.next()
            }
        let exponent: UInt64
        switch random.below(16) {
        case 0:
            exponent = 0
            mantissa = 0
        case 1:
            exponent = 0
            mantissa &= ~integerBit
        case 2: exponent = random.chance(20) ? 0 : 1
        case 3: exponent = 0x7fff
        case 4:
            exponent = 0x7fff
            mantissa = integerBit
        case 5: exponent = 0x7ffe - UInt64(random.below(2))
        case 6:
            exponent = random.next() & 0x7fff
            if random.chance(20) { mantissa &= ~integerBit }
        case 7: exponent = random.pick([0x3c00, 0x3c01, 0x3f80, 0x3f81, 0x43fe, 0x43ff, 0x407e, 0x407f, 0x403e])
        case 8: exponent = 0x3fff - UInt64(random.below(3))
        case 9:
            exponent = 0x3fff + UInt64(random.pick([14, 15, 16, 30, 31, 32, 62, 63, 64]))
            mantissa = random.pick([integerBit, .max, .max << 32, .max << 48, integerBit | 1 << 32])
        case 10:
            // An integer, or half of an odd one.
            let magnitude = random.next() >> UInt64(random.below(63)) | 1
            let shift = UInt64(magnitude.leadingZeroBitCount)
            mantissa = magnitude << shift
            exponent = 0x3fff + 63 - shift - UInt64(random.below(2))
        default: exponent = 0x3fff - 40 + UInt64(random.below(110))
        }
        return (mantissa, sign | exponent)
    }

    /// Sixteen bytes of one kind.
    private mutating func packed() -> (UInt64, UInt64) {
        switch random.below(4) {
        case 0: (real32() | real32() << 32, real32() | real32() << 32)
        case 1: (real64(), real64())
        case 2: (edgeInteger(), edgeInteger())
        default: (random.next(), random.next())
        }
    }

    // MARK: Registers

    private mutating func control() -> UInt64 {
        switch random.below(10) {
        case 0...4: 0x037f
        case 5...7: 0x007f | random.next() & 0x0f00
        default: 0x0040 | random.next() & 0x0f3f
        }
    }

    private mutating func fillFloatingPoint(_ state: inout ProcessorState) {
        let control = control()
        var status = random.next() & 0x7f00
        if random.chance(50) { status |= random.next() & 0x7f & (control | 0x40) }
        if random.chance(2) { status |= random.next() & 0x3f }
        if status & ~control & 0x3f != 0 { status |= 0x8080 }
        state.fxsave(control, at: 0, bytes: 2)
        state.fxsave(status, at: 2, bytes: 2)
        state.fxsave(random.chance(60) ? 0xff : random.next() & 0xff, at: 4, bytes: 1)
        // An empty ST(7) lets instructions push.
        if random.chance(60) {
            let top = status >> 11 & 7
            let cleared: UInt64 = 1 << ((top + 7) & 7)
            let tag = state[fx: 0] >> 32 & 0xff & ~cleared
            state.fxsave(tag, at: 4, bytes: 1)
        }
        for index in 0..<8 {
            let (mantissa, exponent) = real80()
            state[fx: 4 + index * 2] = mantissa
            state[fx: 5 + index * 2] = exponent
        }
        var mxcsr: UInt64 = 0x1f80
        if random.chance(40) { mxcsr = 0x1f80 | random.next() & 0xe07f }
        if random.chance(10) { mxcsr = random.next() & 0xffff }
        state.fxsave(mxcsr, at: 24, bytes: 4)
        for number in 0..<16 { (state[fx: 20 + number * 2], state[fx: 21 + number * 2]) = packed() }
    }

    private mutating func registers() -> ProcessorState {
        var state = ProcessorState()
        state.window = background
        for number in 0..<16 where number != 4 { state[number] = edgeInteger() }
        state[4] = ProcessorState.windowStart + 0x800 + UInt64(random.below(0x200)) * 8
        state.flags = 0x202 | random.next() & 0x8d5
        if random.chance(10) { state.flags |= 0x400 }
        fillFloatingPoint(&state)
        return state
    }

    /// Where a memory operand goes: mostly aligned, sometimes across pages, sometimes out of the window.
    private mutating func place(_ form: NativeForm) -> UInt64 {
        let start = ProcessorState.windowStart
        let alignment = form.memoryBytes >= 16 || form.isAligned ? 15 : 7
        switch random.below(20) {
        case 5 where random.chance(10) && form.memoryBytes <= 16 && form.memoryBytes != 10 && form.treatment != .string:
            return (1 << 47) - UInt64(random.below(form.memoryBytes + 1))
        case 6 where random.chance(10): return random.next() & ~(3 << 62) | 1 << 62
        case 0: return start + 0x1000 - UInt64(random.below(form.memoryBytes + 1))
        case 1: return start + 0x2000 - UInt64(random.below(form.memoryBytes + 1))
        case 2...4 where !form.isAligned || random.chance(20): return start + 0x200 + UInt64(random.below(0x1c00))
        default: return (start + 0x200 + UInt64(random.below(0x1c00))) & ~UInt64(alignment)
        }
    }

    // MARK: Instances

    /// One random instance of `form`.
    mutating func instance(_ form: NativeForm) -> Instance {
        while true {
            let result = anyInstance(form)
            // A 16-bit double shift by more than 16 is undefined; an address may have taken CL.
            if form.treatment == .doubleShift, case .none = form.immediate, result.isSmall, result.state[1] & 31 > 16 {
                continue
            }
            return result
        }
    }

    /// An instance of `form` followed by up to seven instructions of `forms` that start from what it leaves: what lazy
    /// flags, jumps and the decoder's view of a whole block could get wrong.
    mutating func sequence(_ form: NativeForm, of forms: [NativeForm]) -> Instance {
        memoryChance = 10
        defer { memoryChance = 50 }
        var result = instance(form)
        for _ in 0...random.below(7) { result.code += instance(random.pick(forms)).code }
        result.form.undefinedFlags |= Flags.auxiliary.rawValue
        result.isSequence = true
        return result
    }

    private mutating func anyInstance(_ form: NativeForm) -> Instance {
        var state = registers()
        var encoder = InstructionEncoder(form: form)
        let isMemory = form.hasModRM && form.allowsMemory && (!form.allowsRegister || random.chance(memoryChance))
        if random.chance(5) { encoder.idlePrefix = random.pick([0x2e, 0x36, 0x3e, 0x26]) }
        if isMemory, random.chance(4) { encoder.idlePrefix = 0x65 }  // GS, whose base is 0
        if form.allowsOperandPrefix, random.chance(25) { encoder.operandPrefix = true }
        if form.allowsWide, random.chance(40) { encoder.rex |= 8 }
        if random.chance(30) { encoder.rex |= 0x40 }
        if form.isLockable, isMemory, random.chance(25) { encoder.lock = true }
        if form.isLockable, random.chance(2) { encoder.lock = true }
        if form.treatment == .string { prepareString(&state, &encoder, form) }

        let immediateBytes = encoder.immediateBytes
        var immediate = edgeInteger()
        if form.treatment == .relative { immediate = 4 }
        var target: UInt64?
        switch form.treatment {
        case .doubleShift:
            // A 16-bit shift by more than 16 is undefined.
            if encoder.operandPrefix, encoder.rex & 8 == 0 {
                immediate = UInt64(random.below(17))
                state[1] = edgeInteger() & ~31 | UInt64(random.below(17))
            }
        case .interrupt: immediate = UInt64(random.pick([0, 1, 2, 3, 4, 5, 8, 13, 14, 31, 32, 0x81, 0xff]))
        case .enter:
            immediate = UInt64(random.below(0x400) | (random.chance(50) ? 0 : random.below(4) << 16))
            state[5] = place(form) & ~7
        case .table: state[3] = place(form) &- state[0] & 0xff
        case .maskMove:
            // Whether bytes that are not selected can fault is up to the processor.
            state[7] = min(place(form), ProcessorState.windowStart + 0x1ff0)
        case .absolute:
            immediate = place(form)
            target = immediate
        default: break
        }
        if form.hasModRM {
            var reg = form.reg ?? UInt8(random.below(16))
            // Not FS: it is the host's thread pointer.
            if form.treatment == .loadsSegment { reg = random.pick([0, 1, 2, 3, 5, 6, 7]) }
            if isMemory {
                let place = place(form)
                target = place
                memoryOperand(&encoder, &state, reg: reg, place: place, trailing: immediateBytes)
            } else {
                let rm = form.rm ?? UInt8(random.below(16))
                encoder.setRegister(reg: reg, rm: rm)
            }
        } else {
            encoder.rex |= UInt8(random.below(2))
        }
        let code = encoder.finish(immediate: immediate, bytes: immediateBytes)
        var result = Instance(form: form, code: code, state: state, target: target)
        result.isSmall = encoder.operandPrefix && encoder.rex & 8 == 0
        if let target { fill(&result, at: target) }
        finish(&result, isMemory: isMemory, encoder)
        return result
    }

    /// RSI and RDI in the window, a short count, sometimes repeated.
    private mutating func prepareString(
        _ state: inout ProcessorState, _ encoder: inout InstructionEncoder, _ form: NativeForm
    ) {
        state[6] = place(form)
        state[7] = random.chance(30) ? state[6] &+ UInt64(random.below(16)) : place(form)
        state[1] = UInt64(random.below(20))
        if random.chance(60) { encoder.repeatPrefix = random.pick([0xf2, 0xf3]) }
    }

    /// Chooses an addressing form and makes registers and displacement lead to `place`.
    private mutating func memoryOperand(
        _ encoder: inout InstructionEncoder, _ state: inout ProcessorState, reg: UInt8, place: UInt64, trailing: Int
    ) {
        let isFar = place >> 31 != 0
        if !isFar, random.chance(12) { encoder.addressPrefix = true }
        let upper = encoder.addressPrefix ? random.next() & 0xffff_ffff_0000_0000 : 0
        switch isFar ? 2 + random.below(8) : random.below(10) {
        case 0:
            encoder.setRelative(reg: reg, target: place, trailing: trailing)
        case 1:
            // No base: an index of small value and a 32-bit displacement.
            let index = UInt8(random.below(16))
            let scale = UInt64(random.below(4))
            var offset: UInt64 = 0
            if index != 4 {
                offset = UInt64(random.below(64))
                state[Int(index)] = offset | upper
                offset <<= scale
            }
            encoder.setScaled(reg: reg, base: nil, index: index, scale: UInt8(scale), displacement: place &- offset)
        case 2...5:
            let base = UInt8(random.below(16))
            let displacement = displacement()
            state[Int(base)] = (place &- displacement) & (encoder.addressPrefix ? 0xffff_ffff : .max) | upper
            encoder.setBase(reg: reg, base: base, displacement: displacement)
        default:
            let base = UInt8(random.below(16))
            var index = UInt8(random.below(16))
            if index == base { index ^= 1 }
            let scale = UInt64(random.below(4))
            let displacement = displacement()
            var offset: UInt64 = 0
            if index != 4 {
                offset = UInt64(bitPattern: Int64(random.below(128)) - 64)
                state[Int(index)] = encoder.addressPrefix ? offset & 0xffff_ffff | upper : offset
                offset <<= scale
            }
            state[Int(base)] = (place &- displacement &- offset) & (encoder.addressPrefix ? 0xffff_ffff : .max) | upper
            encoder.setScaled(reg: reg, base: base, index: index, scale: UInt8(scale), displacement: displacement)
        }
    }

    private mutating func displacement() -> UInt64 {
        switch random.below(3) {
        case 0: 0
        case 1: UInt64(bitPattern: Int64(Int8(truncatingIfNeeded: random.next())))
        default: UInt64(bitPattern: Int64(Int32(truncatingIfNeeded: random.next()) >> 4))
        }
    }

    /// Gives the memory operand contents of its kind.
    private mutating func fill(_ instance: inout Instance, at target: UInt64) {
        switch instance.form.content {
        case .integer: instance.state.poke(edgeInteger(), at: target, bytes: 8)
        case .real32: instance.state.poke(real32(), at: target, bytes: 4)
        case .real64: instance.state.poke(real64(), at: target, bytes: 8)
        case .real80:
            let (mantissa, exponent) = real80()
            instance.state.poke(mantissa, at: target, bytes: 8)
            instance.state.poke(exponent, at: target &+ 8, bytes: 2)
        case .decimal:
            for position in 0..<9 {
                let digits = UInt64(random.below(10) << 4 | random.below(10))
                instance.state.poke(digits, at: target &+ UInt64(position), bytes: 1)
            }
            instance.state.poke(random.next() & 0x80, at: target &+ 9, bytes: 1)
        case .packed:
            let (low, high) = packed()
            instance.state.poke(low, at: target, bytes: 8)
            instance.state.poke(high, at: target &+ 8, bytes: 8)
        case .x87Control: instance.state.poke(random.next(), at: target, bytes: 2)
        case .mxcsr:
            instance.state.poke(random.next() & (random.chance(90) ? 0xffff : 0xfffc_ffff), at: target, bytes: 4)
        case .environment: fillEnvironment(&instance, at: target)
        case .fxsave: fillImage(&instance, at: target)
        }
    }

    private mutating func fillEnvironment(_ instance: inout Instance, at target: UInt64) {
        let size: UInt64 = instance.code.contains(0x66) ? 2 : 4
        instance.state.poke(control(), at: target, bytes: Int(size))
        instance.state.poke(random.next() & 0x7f7f, at: target &+ size, bytes: Int(size))
        instance.state.poke(random.next(), at: target &+ size * 2, bytes: Int(size))
        for index in UInt64(0)..<8 {
            let (mantissa, exponent) = real80()
            instance.state.poke(mantissa, at: target &+ size * 7 &+ index * 10, bytes: 8)
            instance.state.poke(exponent, at: target &+ size * 7 &+ index * 10 &+ 8, bytes: 2)
        }
    }

    private mutating func fillImage(_ instance: inout Instance, at target: UInt64) {
        let other = registers()
        for number in 0..<52 { instance.state.poke(other[fx: number], at: target &+ UInt64(number * 8), bytes: 8) }
    }

    /// A selector: of user code and data, null, of the kernel, of nothing.
    private mutating func selector() -> UInt64 {
        random.pick([0, 3, 0x23, 0x28, 0x2a, 0x2b, 0x2b, 0x33, 0x30, 0x10, 0x13, 0x1b, 0x08, 0x83, 0x2f, 0x204, 0xfffb])
    }

    /// Mostly the selector of 64-bit user code.
    private mutating func codeSelector() -> UInt64 {
        random.chance(85) ? 0x33 : random.pick([0, 3, 0x30, 0x2b, 0x10, 0x13])
    }

    /// Makes `value` the low 16 bits of the r/m operand.
    private func put(_ value: UInt64, in instance: inout Instance, isMemory: Bool, _ encoder: InstructionEncoder) {
        if isMemory, let target = instance.target {
            instance.state.poke(value, at: target, bytes: 2)
        } else {
            let number = Int(encoder.rmRegister)
            instance.state[number] = instance.state[number] & ~0xffff | value
        }
    }

    /// What depends on the finished code.
    private mutating func finish(_ instance: inout Instance, isMemory: Bool, _ encoder: InstructionEncoder) {
        let filler: [UInt8] = [0x4d, 0x8d, 0x7f, 0x01]  // LEA R15, [R15 + 1]
        let end = ProcessorState.codeStart &+ UInt64(instance.code.count)
        switch instance.form.treatment {
        case .plain, .string, .doubleShift, .enter, .absolute, .maskMove, .interrupt, .table: break
        case .loadsSegment, .inspectsSelector:
            put(selector(), in: &instance, isMemory: isMemory, encoder)
        case .popsSegment: instance.state.poke(selector(), at: instance.state[4], bytes: 8)
        case .loadsPointer:
            if let target = instance.target { instance.state.poke(selector(), at: target &+ 4, bytes: 2) }
        case .farIndirect:
            instance.code += filler
            if let target = instance.target {
                instance.state.poke(end + 4, at: target, bytes: 4)
                instance.state.poke(codeSelector(), at: target &+ 4, bytes: 2)
            }
        case .farReturn, .interruptReturn:
            instance.code += filler
            let size: UInt64 = encoder.rex & 8 != 0 ? 8 : 4
            let stack = instance.state[4]
            // Processors differ in what they read before they see that RPL is less than CPL.
            let isReturn = instance.form.treatment == .farReturn
            let frame: [UInt64] = [
                end + 4, codeSelector() | (isReturn ? 3 : 0), random.next() & 0x0020_3ed5 | 2,
                ProcessorState.windowStart + UInt64(random.below(0x2000)), random.chance(90) ? 0x2b : selector(),
            ]
            for (position, value) in frame.enumerated() {
                instance.state.poke(value, at: stack &+ UInt64(position) * size, bytes: Int(size))
            }
        case .relative: instance.code += filler
        case .indirect:
            instance.code += filler
            let goal = random.chance(70) ? end + 4 : end
            if let target = instance.target, isMemory {
                instance.state.poke(goal, at: target, bytes: 8)
            } else {
                instance.state[Int(encoder.rmRegister)] = goal
            }
        case .returns:
            instance.code += filler
            instance.state.poke(end + 4, at: instance.state[4], bytes: 8)
        case .popFlags:
            instance.state.poke(random.next() & 0x0020_0cd5 | 2, at: instance.state[4], bytes: 8)
        case .storesEnvironment:
            if let target = instance.target {
                let offset = Int(target &- ProcessorState.windowStart)
                let word = encoder.operandPrefix ? 2 : 4
                instance.ignoredWindow = offset + word * 3..<offset + word * 7
            }
        case .storesImage:
            if let target = instance.target {
                // FOP, FIP and FDP; the mask behind MXCSR.
                let offset = Int(target &- ProcessorState.windowStart)
                instance.ignoredWindow = offset + 6..<offset + 24
                instance.alsoIgnored = offset + 28..<offset + 32
            }
        }
    }
}
