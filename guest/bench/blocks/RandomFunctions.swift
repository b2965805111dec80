// SPDX-License-Identifier: Apache-2.0
// The functions of random blocks: they save registers and restore them, change what they saved in all ways, return early,
// call each other and themselves, and return elsewhere.

extension RandomBlock {
    /// NOPs behind each call, of which a function may skip one each time that it changes where it returns to.
    private static let landing = 6

    /// A call of one of the functions behind the block.
    mutating func callFunction() {
        calls.append(landingCall())
    }

    /// A call with NOPs behind it; returns where its distance is.
    private mutating func landingCall() -> Int {
        let call = code.jump(0xe8)
        for _ in 0..<Self.landing { code.raw(0x90) }
        return call
    }

    /// Writes the functions, each of which may call itself and those behind it, and makes calls lead there.
    mutating func functions() {
        for remaining in (0..<1 + numbers.next(below: 3)).reversed() {
            let start = code.bytes.count
            let open = calls
            calls = []
            function(start, isLast: remaining == 0)
            for call in open {
                if remaining == 0 || chance(2) { code.patch(call, to: start) } else { calls.append(call) }
            }
        }
    }

    private mutating func function(_ start: Int, isLast: Bool) {
        var saved: [Register] = []
        for _ in 0..<numbers.next(below: 5) { saved.append(register()) }
        for register in saved { push(register) }
        var exits: [Int] = []
        var hasCalledItself = false
        for _ in 0..<1 + numbers.next(below: 6) {
            switch numbers.next(below: 13) {
            case 0...2: arithmetic()
            case 3...4:
                define()
                exits.append(code.jump(0x0f, 0x80 | UInt8(numbers.next(below: 16))))
            case 5:
                code.instruction(
                    0x8b, width: .quadword, reg: register(), place: slot(numbers.next(below: saved.count + 1)))
            case 6: change(saved.count)
            case 7 where !hasCalledItself:
                hasCalledItself = true
                callItself(start)
            case 8 where !isLast: callFunction()
            case 9: returnElsewhere(saved.count)
            // A function whose stack is not what it takes it for after a fault would return to data.
            case 10 where !faults: interpret()
            default: stack()
            }
        }
        for exit in exits { code.patch(exit, to: code.bytes.count) }
        if chance(3) {
            for (number, register) in saved.reversed().enumerated() {
                code.instruction(0x8b, width: .quadword, reg: register, place: slot(number))
            }
            if chance(2) {
                code.instruction(
                    0x83, width: .quadword, reg: 0, place: .register(Self.stackPointer),
                    immediate: (saved.count * 8, 1))  // add
            } else {
                code.instruction(0x8d, width: .quadword, reg: Self.stackPointer, place: slot(saved.count))
            }
        } else {
            for register in saved.reversed() { pop(register) }
        }
        if chance(4) { code.raw(0xc2, 0, 0) } else { code.raw(0xc3) }
    }

    /// What lies on the stack: saved registers, the last one first, then the return address.
    private func slot(_ number: Int, from base: Register = stackPointer, plus distance: Int = 0) -> Place {
        .memory(base: base, index: nil, scale: 0, displacement: number * 8 + distance)
    }

    /// Writes to one of `count` saved registers, or a part of it, also through a copy of the stack pointer.
    private mutating func change(_ count: Int) {
        guard count > 0 else { return }
        let number = numbers.next(below: count)
        switch numbers.next(below: 4) {
        case 0: code.instruction(0x89, width: .quadword, reg: register(), place: slot(number))
        case 1:
            code.instruction(
                0x89, width: .doubleword, reg: register(), place: slot(number, plus: 4 * numbers.next(below: 2)))
        case 2:
            code.instruction(0x0f, 0x7f, prefixes: [0xf3], reg: numbers.next(below: 16), place: slot(number, plus: -8))
        default:
            let copy = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11][numbers.next(below: 11)]
            code.instruction(0x8d, width: .quadword, reg: copy, place: slot(number))
            if chance(2) { code.instruction(0x21, width: .quadword, reg: copy, place: .register(copy)) }  // and
            code.instruction(0x89, width: .quadword, reg: register(), place: slot(0, from: copy))
        }
    }

    /// The address to return to moves on by some NOPs, or is stored again.
    private mutating func returnElsewhere(_ count: Int) {
        let address = slot(count)
        if chance(3) {
            let register = register()
            code.instruction(0x8b, width: .quadword, reg: register, place: address)
            code.instruction(0x89, width: .quadword, reg: register, place: address)
        } else {
            // A byte of it is written as it was (and), then all of it (add).
            code.instruction(0x80, width: .byte, reg: 4, place: address, immediate: (0xff, 1))
            code.instruction(
                0x83, width: .quadword, reg: 0, place: address, immediate: (numbers.next(below: 2), 1))
        }
        define()
    }

    /// Ends after a few times: a bit of the stack pointer says whether.
    private mutating func callItself(_ start: Int) {
        code.instruction(
            0xf7, width: .quadword, reg: 0, place: .register(Self.stackPointer), immediate: (0x40, 4))  // test
        let skip = code.jump(0x0f, 0x84)
        code.patch(landingCall(), to: start)
        code.patch(skip, to: code.bytes.count)
        define()
    }
}
