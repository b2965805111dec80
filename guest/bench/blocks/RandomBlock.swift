// SPDX-License-Identifier: Apache-2.0
// Random code that always ends: a loop of groups of instructions with jumps forward, calls, memory accesses of which some
// fault, self-modification. Whatever an instruction leaves undefined is overwritten before anything can see it.

struct RandomBlock {
    /// All but RSP, and R15, which points to the data.
    static let registers = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    static let data = 15
    static let stackPointer = 4

    var numbers: Numbers
    var code: BlockEncoder
    /// Where groups begin, and jumps with the group that they lead to.
    private var starts: [Int] = []
    private var jumps: [(position: Int, group: Int)] = []
    var calls: [Int] = []
    /// Where the constants are that code changes.
    var constants: [Int] = []
    /// A block either makes system calls or single-steps: kernels do not agree on what both together do.
    let singleSteps: Bool
    let faults: Bool

    /// How often the loop runs.
    let rounds: Int
    /// The address of its code.
    let start: Int

    var bytes: [UInt8] { code.bytes }
    var boundaries: [Int] { code.boundaries }

    init(seed: UInt64) {
        var numbers = Numbers(seed: seed)
        singleSteps = numbers.next(below: 8) == 0
        faults = numbers.next(below: 3) == 0
        rounds = [1, 3, 40, 300][numbers.next(below: 4)]
        let distance = numbers.next(below: 400)
        start = numbers.next(below: 2) == 0 ? BlockLayout.blocks + distance : BlockLayout.pageBoundary - distance
        code = BlockEncoder(address: start)
        self.numbers = numbers
        build()
    }

    /// Numbers that matter more often than others.
    static func value(_ numbers: inout Numbers) -> UInt64 {
        let number = numbers.next()
        switch numbers.next(below: 8) {
        case 0: return number & 0xff
        case 1: return 1 << (number & 63)
        case 2: return (1 << (number & 63)) &- 1
        case 3: return UInt64(bitPattern: Int64(Int8(truncatingIfNeeded: number)))
        case 4: return 0x3ff0_0000_0000_0000 | number >> 12  // a double between 1 and 2
        case 5: return number & 0x7fff_ffff
        default: return number
        }
    }

    private mutating func build() {
        let groups = 4 + numbers.next(below: 28)
        let top = code.bytes.count
        for _ in 0..<groups { group() }
        starts.append(code.bytes.count)
        let last = starts.count - 1
        code.instruction(0xff, reg: 1, place: .absolute(BlockLayout.count))  // dec
        code.patch(code.jump(0x0f, 0x85), to: top)  // jnz
        code.patch(code.jump(0xe9), to: BlockLayout.exit - start)
        for jump in jumps { code.patch(jump.position, to: starts[min(jump.group, last)]) }
        functions()
    }

    private mutating func group() {
        starts.append(code.bytes.count)
        switch numbers.next(below: 41) {
        case 0...7: arithmetic()
        case 8...9: single()
        case 10...11: shift()
        case 12: multiply()
        case 13: divide()
        case 14...15: condition()
        case 16...18: jumpForward()
        case 19...20: move()
        case 21: bits()
        case 22: stack()
        case 23: exchange()
        case 24: string()
        case 25...27: vector()
        case 28: float()
        case 29: call()
        case 30: modify()
        case 31: flags()
        case 32: fault()
        case 33...34: walk()
        case 35...36: interpret()
        case 37...39: callFunction()
        default: special()
        }
    }

    // MARK: Choices

    mutating func register() -> Register { Self.registers[numbers.next(below: Self.registers.count)] }

    mutating func width() -> Width { [.byte, .word, .doubleword, .quadword][numbers.next(below: 4)] }

    mutating func wideWidth() -> Width { [.word, .doubleword, .quadword][numbers.next(below: 3)] }

    mutating func chance(_ count: Int) -> Bool { numbers.next(below: count) == 0 }

    /// A place in the data, often at the edge of a page; in blocks that fault, now and then in a page that does.
    mutating func memory() -> Place {
        var displacement = numbers.next(below: 0x3fe0) - 0x2000
        if chance(4) { displacement = (numbers.next(below: 3) - 1) * Pages.size - 1 - numbers.next(below: 15) }
        if faults, chance(12) {
            displacement =
                [0x2000 - numbers.next(below: 8), 0x2010, 0x3000 + numbers.next(below: 256)][numbers.next(below: 3)]
        }
        guard chance(3) else { return .memory(base: Self.data, index: nil, scale: 0, displacement: displacement) }
        let index = register()
        // and index, 0xff0: with a scale of up to 2 and a displacement below, inside of the data.
        code.instruction(
            0x81, width: .doubleword, reg: 4, place: .register(index), immediate: (0xff8 - numbers.next(below: 8), 4))
        define()
        return .memory(
            base: Self.data, index: index, scale: numbers.next(below: 2), displacement: -numbers.next(below: 0x1f00))
    }

    mutating func place() -> Place { chance(3) ? memory() : .register(register()) }

    /// An instruction that defines all flags.
    mutating func define() {
        let other = register()
        code.instruction(0x39, width: .quadword, reg: register(), place: .register(other))  // cmp
    }

    // MARK: Integer groups

    /// add, or, adc, sbb, and, sub, xor, cmp, test, in all forms.
    mutating func arithmetic() {
        let operation = UInt8(numbers.next(below: 8))
        let width = width()
        let byte: UInt8 = width == .byte ? 0 : 1
        let place = place()
        let reg = register()
        switch numbers.next(below: 5) {
        case 0: code.instruction(operation << 3 | byte, width: width, reg: reg, place: place)
        case 1: code.instruction(operation << 3 | 2 | byte, width: width, reg: reg, place: place)
        case 2:
            let value = Int(truncatingIfNeeded: Self.value(&numbers))
            code.instruction(
                0x80 | byte, width: width, reg: Int(operation), place: place, immediate: (value, width.immediateBytes))
        case 3 where width != .byte:
            code.instruction(
                0x83, width: width, reg: Int(operation), place: place, immediate: (numbers.next(below: 256), 1))
        default: code.instruction(0x84 | byte, width: width, reg: reg, place: place)  // test
        }
    }

    /// inc, dec, not, neg, lea, bswap.
    private mutating func single() {
        let width = width()
        let byte: UInt8 = width == .byte ? 0 : 1
        let place = place()
        switch numbers.next(below: 6) {
        case 0: code.instruction(0xfe | byte, width: width, reg: 0, place: place)
        case 1: code.instruction(0xfe | byte, width: width, reg: 1, place: place)
        case 2: code.instruction(0xf6 | byte, width: width, reg: 2, place: place)
        case 3: code.instruction(0xf6 | byte, width: width, reg: 3, place: place)
        case 4:
            let (base, index) = (register(), register())
            let displacement = Int(Int32(truncatingIfNeeded: numbers.next()))
            code.instruction(
                0x8d, width: wideWidth(), reg: register(),
                place: .memory(base: base, index: index, scale: numbers.next(below: 4), displacement: displacement))
        default:
            let swapped = register()
            code.raw(swapped >= 8 ? 0x49 : 0x48, 0x0f, 0xc8 | UInt8(swapped & 7))
        }
    }

    /// Shifts and rotations by 1, by a constant, by CL; then what defines the flags that they do not.
    private mutating func shift() {
        let kind = [0, 1, 2, 3, 4, 5, 7][numbers.next(below: 7)]
        let width = kind == 2 || kind == 3 ? wideWidth() : width()
        let byte: UInt8 = width == .byte ? 0 : 1
        // 16-bit and 8-bit rotations through the carry and shifts by more than the width leave more undefined.
        let limit = width == .quadword ? 64 : width == .doubleword ? 32 : 8
        let place = place()
        switch numbers.next(below: 4) {
        case 0: code.instruction(0xd0 | byte, width: width, reg: kind, place: place)
        case 1:
            code.instruction(
                0xc0 | byte, width: width, reg: kind, place: place, immediate: (numbers.next(below: limit), 1))
        case 2 where width.rawValue >= 4: code.instruction(0xd2 | byte, width: width, reg: kind, place: place)
        default:
            let width: Width = chance(2) ? .doubleword : .quadword
            let count = (value: numbers.next(below: 32), bytes: 1)
            code.instruction(
                0x0f, chance(2) ? 0xa4 : 0xac, width: width, reg: register(), place: place, immediate: count)  // shld
        }
        define()
    }

    private mutating func multiply() {
        let width = width()
        let byte: UInt8 = width == .byte ? 0 : 1
        let place = place()
        let carryConditions: [UInt8] = [0, 1, 2, 3]
        switch numbers.next(below: 3) {
        case 0: code.instruction(0xf6 | byte, width: width, reg: 4 + numbers.next(below: 2), place: place)
        case 1: code.instruction(0x0f, 0xaf, width: wideWidth(), reg: register(), place: place)
        default:
            let width = wideWidth()
            let value = Int(truncatingIfNeeded: Self.value(&numbers))
            code.instruction(
                0x69, width: width, reg: register(), place: place, immediate: (value, width.immediateBytes))
        }
        // Of the flags, carry and overflow are defined.
        consume(carryConditions[numbers.next(below: 4)])
        define()
    }

    /// div and idiv, most of them with a dividend that fits.
    private mutating func divide() {
        let width: Width = chance(2) ? .doubleword : .quadword
        let divisor = [1, 3, 5, 6, 7, 8, 9][numbers.next(below: 7)]
        if !faults || !chance(3) {
            code.instruction(0x83, width: width, reg: 1, place: .register(divisor), immediate: (1, 1))  // or divisor, 1
            code.instruction(0x31, width: .doubleword, reg: 2, place: .register(2))  // xor edx, edx
            code.instruction(0xf7, width: width, reg: 6, place: .register(divisor))
        } else {
            code.instruction(0xf7, width: width, reg: 6 + numbers.next(below: 2), place: .register(divisor))
        }
        define()
    }

    mutating func consume(_ condition: UInt8) {
        if chance(2) {
            code.instruction(0x0f, 0x90 | condition, width: .byte, reg: 0, place: .register(registers8()))  // setcc
        } else {
            let source = register()
            code.instruction(0x0f, 0x40 | condition, width: wideWidth(), reg: register(), place: .register(source))
        }
    }

    /// A register whose low byte needs no REX, or one above that has one: never a part of RSP.
    mutating func registers8() -> Register { [0, 1, 2, 3, 8, 9, 12][numbers.next(below: 7)] }

    private mutating func condition() {
        let condition = UInt8(numbers.next(below: 16))
        if chance(3) {
            let place = memory()
            code.instruction(0x0f, 0x90 | condition, width: .byte, reg: 0, place: place)
        } else {
            consume(condition)
        }
    }

    private mutating func jumpForward() {
        let target = starts.count + numbers.next(below: 4)
        if chance(6) {
            jumps.append((code.jump(0xe9), target))
        } else {
            let position = code.jump(0x0f, 0x80 | UInt8(numbers.next(below: 16)))
            jumps.append((position, target))
        }
    }

    private mutating func move() {
        let place = place()
        let reg = register()
        switch numbers.next(below: 7) {
        case 0: code.instruction(0x89, width: wideWidth(), reg: reg, place: place)
        case 1: code.instruction(0x8b, width: wideWidth(), reg: reg, place: place)
        case 2: code.instruction(0x88, width: .byte, reg: registers8(), place: place)
        case 3:
            code.instruction(
                0x0f, [0xb6, 0xb7, 0xbe, 0xbf][numbers.next(below: 4)], width: wideWidth(), reg: reg, place: place)
        case 4: code.instruction(0x63, width: .quadword, reg: reg, place: place)  // movsxd
        case 5:
            let width = wideWidth()
            let value = Int(truncatingIfNeeded: Self.value(&numbers))
            code.instruction(0xc7, width: width, reg: 0, place: place, immediate: (value, width.immediateBytes))
        default: code.load(reg, Self.value(&numbers))
        }
    }

    /// bt and its relatives, bsf, bsr, popcnt.
    private mutating func bits() {
        let width: Width = chance(2) ? .doubleword : .quadword
        let (reg, other) = (register(), register())
        switch numbers.next(below: 4) {
        case 0:
            code.instruction(
                0x0f, 0xba, width: width, reg: 4 + numbers.next(below: 4), place: place(),
                immediate: (numbers.next(below: 32), 1))
            consume(2)
        case 1:
            code.instruction(
                0x0f, [0xa3, 0xab, 0xb3, 0xbb][numbers.next(below: 4)], width: width, reg: reg, place: .register(other))
            consume(3)
        case 2:
            code.instruction(0x83, width: width, reg: 1, place: .register(other), immediate: (1, 1))  // or other, 1
            code.instruction(0x0f, chance(2) ? 0xbc : 0xbd, width: width, reg: reg, place: .register(other))
            consume(4)
        default: code.instruction(0x0f, 0xb8, prefixes: [0xf3], width: width, reg: reg, place: place())  // popcnt
        }
        define()
    }
}
