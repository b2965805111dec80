// SPDX-License-Identifier: Apache-2.0
// Small loops in random blocks, in which pointers walk through the data by steps of a constant, or data says what is done.

extension RandomBlock {
    /// A loop with accesses at a pointer, and often at an index beside it, which both move on at some place in it; parts of it
    /// may be jumped over. In blocks that fault it may walk into the page that does.
    mutating func walk() {
        let pointer = register()
        let index = register()
        let usesIndex = index != pointer && chance(2)
        let scale = numbers.next(below: 4)
        let step = [0, 1, 2, 4, 8, 8, 16, 16, 24, 64, 257, 512, 600, -1, -8, -16, -40, -512][numbers.next(below: 18)]
        let indexStep = usesIndex ? [1, 2, 3, 8, -1][numbers.next(below: 5)] : 0
        let reach = abs(step) + abs(indexStep) << scale
        let times = 1 + numbers.next(below: min(200, 0x1c00 / max(reach, 1)))
        let walked = reach * times
        var start = walked - 0x1f00 + numbers.next(below: 0x3d00 - 2 * walked)
        if numbers.next(below: 2) == 0 { start &= ~15 }
        if faults, chance(3) { start += 0x1000 }
        var kept = usesIndex ? [pointer, index] : [pointer]
        // An index of 32 bits with a sign, often below zero, and perhaps a constant subtracted.
        let isHalf = usesIndex && chance(2)
        let (extended, constant) = (isHalf ? other(than: &kept) : index, isHalf ? other(than: &kept) : index)
        let distance = isHalf && chance(2) ? numbers.next(below: 100) : nil
        let first = isHalf && indexStep > 0 && chance(2) ? -indexStep * times : 0
        start -= (first - (distance ?? 0)) << scale
        code.instruction(  // lea pointer, [r15 + start]
            0x8d, width: .quadword, reg: pointer,
            place: .memory(base: Self.data, index: nil, scale: 0, displacement: start))
        if usesIndex { code.load(index, UInt64(bitPattern: Int64(first))) }
        if let distance { code.load(constant, UInt64(distance)) }
        let top = begin(rounds: times)
        let parts = 1 + numbers.next(below: 5)
        let (moves, indexMoves) = (numbers.next(below: parts + 1), numbers.next(below: parts + 1))
        func extend() {
            guard isHalf else { return }
            code.instruction(0x63, width: .quadword, reg: extended, place: .register(index))  // movsxd
            if distance != nil {
                code.instruction(0x29, width: .quadword, reg: constant, place: .register(extended))  // sub
            }
        }
        extend()
        for part in 0...parts {
            if part == moves { advance(pointer, by: step) }
            if part == indexMoves, usesIndex {
                advance(index, by: indexStep, width: isHalf ? .doubleword : .quadword)
                if chance(2) { extend() }
            }
            let isLast = part == parts
            let skip: Int?
            if chance(4), !isLast {
                define()
                skip = code.jump(0x0f, 0x80 | UInt8(numbers.next(below: 16)))
            } else {
                skip = nil
            }
            if !isLast { walkingAccess(pointer, usesIndex ? extended : nil, scale, kept) }
            // What leads back from the midst, when the loop is not over.
            if chance(8), !isLast, part >= max(moves, indexMoves) {
                goBack(to: top)
            }
            if let skip { code.patch(skip, to: code.bytes.count) }
        }
        goBack(to: top)
    }

    /// A loop that reads data as a program for which it jumps through a table. In blocks that fault it may read the page that does.
    mutating func interpret() {
        var kept = [register()]
        let pointer = kept[0]
        let index = other(than: &kept)
        let table = other(than: &kept)
        let step = 1 + numbers.next(below: 40)
        let times = 1 + numbers.next(below: 60)
        let start = numbers.next(below: 0x3c00 - 2 * step * times) - 0x1f00 + (faults && chance(3) ? 0x1000 : 0)
        code.instruction(  // lea pointer, [r15 + start]
            0x8d, width: .quadword, reg: pointer,
            place: .memory(base: Self.data, index: nil, scale: 0, displacement: start))
        code.load(table, 0)
        let tableAddress = code.bytes.count - 8
        let top = begin(rounds: times)
        let operation = Place.memory(base: pointer, index: nil, scale: 0, displacement: 0)
        let opcodes: [UInt8] = chance(2) ? [0x0f, 0xb6] : [0x0f, 0xb7]
        code.instruction(opcodes[0], opcodes[1], reg: index, place: operation)  // movzx
        if chance(2) { advance(pointer, by: step) }
        if chance(3) {
            // 0 or 1, of which one is rare.
            code.instruction(0x81, reg: 7, place: .register(index), immediate: (250, 4))  // cmp
            code.instruction(0x19, reg: index, place: .register(index))  // sbb
            code.instruction(0xff, reg: 0, place: .register(index))  // inc
        } else {
            let mask = [3, 3, 1, 0][numbers.next(below: 4)]
            code.instruction(0x83, reg: 4, place: .register(index), immediate: (mask, 1))  // and
            define()
        }
        if chance(2) { advance(pointer, by: step) }
        let isRelative = chance(2)
        let entry = Place.memory(base: table, index: index, scale: isRelative ? 2 : 3, displacement: 0)
        if isRelative {
            code.instruction(0x63, width: .quadword, reg: index, place: entry)  // movsxd
            code.instruction(0x01, width: .quadword, reg: table, place: .register(index))  // add index, table
            code.instruction(0xff, reg: 4, place: .register(index))  // jmp
        } else {
            code.instruction(0xff, reg: 4, place: entry)  // jmp
        }
        let entrySize = isRelative ? 4 : 8
        let entries = code.table(entrySize * 4)
        code.put(code.address + entries, bytes: 8, at: tableAddress)
        for number in 0..<4 {
            let target = isRelative ? code.bytes.count - entries : code.here
            code.put(target, bytes: entrySize, at: entries + number * entrySize)
            walkingAccess(pointer, nil, 0, kept)
            if chance(2) {
                goBack(to: top)
            }
        }
        goBack(to: top)
    }

    /// Begins a loop of `times` rounds. Returns where it does.
    private mutating func begin(rounds times: Int) -> Int {
        code.instruction(0xc7, reg: 0, place: .absolute(BlockLayout.innerCount), immediate: (times, 4))
        return code.bytes.count
    }

    /// Goes back to `top` if the loop is not over.
    private mutating func goBack(to top: Int) {
        code.instruction(0xff, reg: 1, place: .absolute(BlockLayout.innerCount))  // dec
        code.patch(code.jump(0x0f, 0x8f), to: top)  // jg
    }

    /// A register that is none of `kept`, and one of them then.
    private mutating func other(than kept: inout [Register]) -> Register {
        var register = register()
        while kept.contains(register) { register = self.register() }
        kept.append(register)
        return register
    }

    /// Adds a constant to a register, in one of several ways.
    private mutating func advance(_ register: Register, by step: Int, width: Width = .quadword) {
        let place = Place.register(register)
        switch numbers.next(below: 4) {
        case 0 where abs(step) == 1: code.instruction(0xff, width: width, reg: step > 0 ? 0 : 1, place: place)
        case 1:
            code.instruction(0x81, width: width, reg: 5, place: place, immediate: (-step, 4))  // sub
        case 2:  // lea
            code.instruction(
                0x8d, width: width, reg: register,
                place: .memory(base: register, index: nil, scale: 0, displacement: step))
        default: code.instruction(0x81, width: width, reg: 0, place: place, immediate: (step, 4))
        }
    }

    /// One access that leaves the registers in `kept` as they are.
    private mutating func walkingAccess(_ pointer: Register, _ index: Register?, _ scale: Int, _ kept: [Register]) {
        var kept = kept
        let other = other(than: &kept)
        let displacement = numbers.next(below: 6) * 8 + (chance(5) ? numbers.next(below: 8) : 0)
        let usesIndex = index != nil && chance(2)
        let place = Place.memory(
            base: pointer, index: usesIndex ? index : nil, scale: usesIndex ? scale : 0, displacement: displacement)
        let width = width()
        let byte: UInt8 = width == .byte ? 0 : 1
        let operation = UInt8(numbers.next(below: 8)) << 3
        let wholeByte = width == .byte && (4...7).contains(other)
        let reg = wholeByte ? (kept.contains(0) ? 9 : 0) : other
        if wholeByte, kept.contains(reg) { return }
        let vector = numbers.next(below: 16)
        switch numbers.next(below: 9) {
        case 0: code.instruction(operation | byte, width: width, reg: reg, place: place)
        case 1: code.instruction(operation | 2 | byte, width: width, reg: reg, place: place)
        case 2: code.instruction(0x88 | byte, width: width, reg: reg, place: place)  // mov
        case 3: code.instruction(0x8a | byte, width: width, reg: reg, place: place)
        case 4: code.instruction(0x0f, 0x6f, prefixes: [0xf3], reg: vector, place: place)  // movdqu
        case 5: code.instruction(0x0f, 0x7f, prefixes: [0xf3], reg: vector, place: place)
        case 6 where displacement % 16 == 0 && !usesIndex:
            // paddq, which wants it aligned
            if faults || chance(4) { code.instruction(0x0f, 0xd4, prefixes: [0x66], reg: vector, place: place) }
        case 7: code.instruction(0x0f, 0xb6, width: .quadword, reg: other, place: place)  // movzx
        default: code.instruction(0xf6 | byte, width: width, reg: 2 + numbers.next(below: 2), place: place)  // not, neg
        }
    }
}
