// SPDX-License-Identifier: Apache-2.0
// Groups of instructions of random blocks beyond plain integer ones: the stack, locked and string instructions, SSE, x87,
// calls, code that changes, flags, exceptions.

extension RandomBlock {
    mutating func stack() {
        let (first, second) = (register(), register())
        push(first)
        switch numbers.next(below: 4) {
        case 0: code.instruction(0xff, reg: 6, place: memoryOnStack())  // push [rsp]
        case 1: code.instruction(0xff, reg: 6, place: memory())
        case 2: code.raw(0x6a, UInt8(numbers.next(below: 256)))  // push constant
        default: push(second)
        }
        pop(second)
        pop(register())
    }

    private func memoryOnStack() -> Place { .memory(base: Self.stackPointer, index: nil, scale: 0, displacement: 0) }

    mutating func push(_ register: Register) {
        if register >= 8 { code.raw(0x41, 0x50 | UInt8(register & 7)) } else { code.raw(0x50 | UInt8(register)) }
    }

    mutating func pop(_ register: Register) {
        if register >= 8 { code.raw(0x41, 0x58 | UInt8(register & 7)) } else { code.raw(0x58 | UInt8(register)) }
    }

    /// xchg, xadd, cmpxchg, with and without LOCK, cmpxchg8b and cmpxchg16b.
    mutating func exchange() {
        let width = wideWidth()
        let place = memory()
        let lock: [UInt8] = chance(2) ? [0xf0] : []
        switch numbers.next(below: 5) {
        case 0: code.instruction(0x87, width: width, reg: register(), place: place)
        case 1: code.instruction(0x0f, 0xc1, prefixes: lock, width: width, reg: register(), place: place)
        case 2: code.instruction(0x0f, 0xb1, prefixes: lock, width: width, reg: register(), place: place)
        case 3: code.instruction(0x01, prefixes: [0xf0], width: width, reg: register(), place: place)  // lock add
        default:
            // Of 16 bytes, and aligned; only one in many compares equal.
            let aligned = Place.memory(
                base: Self.data, index: nil, scale: 0, displacement: (numbers.next(below: 0x300) - 0x180) * 16)
            if chance(2) {
                code.instruction(0x8b, width: .quadword, reg: 0, place: aligned)
            }
            code.instruction(
                0x0f, 0xc7, prefixes: lock, width: chance(2) ? .doubleword : .quadword, reg: 1, place: aligned)
        }
        define()
    }

    /// movs, stos, lods, scas, cmps with and without repetition; some run into the page that faults.
    mutating func string() {
        let reach = faults && chance(3) ? 0x1fe0 : 0x1d00
        for pointer in [6, 7] {  // lea rsi and rdi
            code.instruction(
                0x8d, width: .quadword, reg: pointer,
                place: .memory(base: Self.data, index: nil, scale: 0, displacement: reach - numbers.next(below: 0x100)))
        }
        code.raw(0xb9)  // mov ecx, count
        code.number(numbers.next(below: 80), bytes: 4)
        let operation: UInt8 = [0xa4, 0xaa, 0xac, 0xae, 0xa6][numbers.next(below: 5)]
        let size: UInt8 = UInt8(numbers.next(below: 2))
        let compares = operation == 0xae || operation == 0xa6
        // scas and cmps without iterations leave flags as they are.
        let prefix: UInt8 = compares && chance(2) ? 0xf2 : 0xf3
        switch numbers.next(below: 3) {
        case 0: code.raw(operation | size)
        case 1: code.raw(prefix, operation | size)
        default: code.raw(prefix, 0x48, operation | 1)
        }
    }

    /// Packed integers, scalar and packed floating point, conversions, comparisons, moves.
    mutating func vector() {
        let first = numbers.next(below: 16)
        let second = vectorPlace()
        let general = register()
        switch numbers.next(below: 13) {
        case 0: code.instruction(0x0f, 0x6f, prefixes: [0xf3], reg: first, place: memory())  // movdqu
        case 1: code.instruction(0x0f, 0x7f, prefixes: [0xf3], reg: first, place: memory())
        case 2:
            let operations: [UInt8] = [
                0xfc, 0xfe, 0xd4, 0xfb, 0xef, 0xdb, 0xeb, 0xf4, 0xf5, 0xf6, 0xe0, 0x74, 0x66, 0x61,
            ]
            code.instruction(
                0x0f, operations[numbers.next(below: operations.count)], prefixes: [0x66], reg: first, place: second)
        case 3:
            code.instruction(
                0x0f, 0x70, prefixes: [0x66], reg: first, place: second, immediate: (numbers.next(below: 256), 1))
        case 4:
            let operations: [UInt8] = [0x58, 0x59, 0x5c, 0x5e, 0x51, 0x5d, 0x5f]
            let prefixes: [UInt8] = [0, 0x66, 0xf2, 0xf3]
            let prefix = prefixes[numbers.next(below: 4)]
            code.instruction(
                0x0f, operations[numbers.next(below: operations.count)], prefixes: prefix == 0 ? [] : [prefix],
                reg: first, place: second)
        case 5: code.instruction(0x0f, 0x2a, prefixes: [0xf2], width: .quadword, reg: first, place: .register(general))
        case 6: code.instruction(0x0f, 0x2c, prefixes: [0xf2], width: .quadword, reg: general, place: second)
        case 7: code.instruction(0x0f, 0x2e, prefixes: [0x66], reg: first, place: second)  // ucomisd
        case 8:  // pmovmskb
            code.instruction(
                0x0f, 0xd7, prefixes: [0x66], reg: general, place: .register(numbers.next(below: 16)))
        case 9: code.instruction(0x0f, 0x6e, prefixes: [0x66], width: .quadword, reg: first, place: .register(general))
        case 10:  // pshufb, phaddd, pabsd, pmulld, pminsd, pmovzxbw, ptest
            let operations: [UInt8] = [0x00, 0x02, 0x1e, 0x40, 0x39, 0x30, 0x17]
            code.instruction(
                0x0f, 0x38, operations[numbers.next(below: operations.count)], prefixes: [0x66], reg: first,
                place: second)
        case 11:  // crc32
            code.instruction(
                0x0f, 0x38, 0xf1, prefixes: [0xf2], width: chance(2) ? .quadword : .doubleword, reg: general,
                place: place())
        default: code.instruction(0x0f, 0x10, prefixes: [0xf2], reg: first, place: memory())  // movsd
        }
    }

    /// An SSE register, or memory that is aligned, but for now and then in blocks that fault.
    private mutating func vectorPlace() -> Place {
        guard chance(3) else { return .register(numbers.next(below: 16)) }
        let displacement = (numbers.next(below: 0x300) - 0x180) * 16 + (faults && chance(8) ? 8 : 0)
        return .memory(base: Self.data, index: nil, scale: 0, displacement: displacement)
    }

    /// x87: two doubles of memory, added, subtracted, multiplied or divided.
    mutating func float() {
        let (first, second, third) = (memory(), memory(), memory())
        code.raw(0xdb, 0xe3)  // fninit
        code.instruction(0xdd, reg: 0, place: first)  // fld
        code.instruction(0xdc, reg: [0, 1, 4, 5, 6, 7][numbers.next(below: 6)], place: second)
        code.instruction(0xdd, reg: 3, place: third)  // fstp
    }

    /// A call of the function after the block, or through a register to the next instruction, which drops the address.
    mutating func call() {
        if chance(3) {
            let through = register()
            let kept = register()
            // A load of 10 bytes and a call of 3.
            code.load(through, UInt64(code.here + 13))
            code.raw(through >= 8 ? 0x41 : 0x40, 0xff, 0xd0 | UInt8(through & 7))
            pop(kept)
        } else {
            callFunction()
        }
    }

    /// A constant in code, before or after which code changes it.
    mutating func modify() {
        if let constant = constants.last, chance(2) {
            code.instruction(0x89, width: .doubleword, reg: register(), place: .absolute(constant))
            return
        }
        let loaded = numbers.next(below: 4)
        if chance(2) {
            // The store is 7 bytes long, and the constant comes after one byte more.
            let source = [0, 1, 2, 3, 5, 6, 7][numbers.next(below: 7)]
            code.instruction(0x89, width: .doubleword, reg: source, place: .absolute(code.here + 8))
        }
        code.raw(0xb8 | UInt8(loaded))  // mov loaded, constant
        constants.append(code.here)
        code.number(numbers.next(below: 1 << 30), bytes: 4)
    }

    /// pushfq and popfq, lahf and sahf, stc, clc, cmc, and what runs downwards.
    mutating func flags() {
        define()
        switch numbers.next(below: 5) {
        case 0:
            code.raw(0x9c)  // pushfq
            pop(register())
        case 1:
            code.raw(0x68)  // push constant
            code.number(numbers.next(below: 0x1000) & 0x8d5 | 0x202, bytes: 4)
            code.raw(0x9d)  // popfq
        case 2: code.raw(0x9f)  // lahf
        case 3: code.raw([0xf8, 0xf9, 0xf5][numbers.next(below: 3)])
        default:
            code.raw(0xfd)  // std
            string()
            code.raw(0xfc)  // cld
        }
    }

    mutating func fault() {
        guard faults else { return arithmetic() }
        switch numbers.next(below: 6) {
        case 0: code.raw(0x0f, 0x0b)  // ud2
        case 1: code.raw(0xcc)  // int3
        case 2: code.raw(0xf4)  // hlt
        case 3:
            let base = register()
            code.load(base, 0x8000_0000_0000_0000 | Self.value(&numbers))
            code.instruction(
                0x8b, width: .quadword, reg: register(),
                place: .memory(base: base, index: nil, scale: 0, displacement: 0))
        case 4:
            // movaps of an address that is not aligned
            code.instruction(
                0x0f, 0x28, reg: numbers.next(below: 8),
                place: .memory(base: Self.data, index: nil, scale: 0, displacement: numbers.next(below: 256)))
        default:
            guard chance(3) else { return arithmetic() }
            // A jump to a page without code, which ends the block.
            let through = register()
            code.load(through, UInt64(chance(2) ? BlockLayout.guardPage : BlockLayout.data))
            code.raw(through >= 8 ? 0x41 : 0x40, 0xff, 0xe0 | UInt8(through & 7))
        }
    }

    /// Single steps, or a system call.
    mutating func special() {
        if singleSteps {
            code.raw(0x68)  // push flags with TF
            code.number(0x302, bytes: 4)
            code.raw(0x9d)  // popfq: the first trap comes after the next instruction
            return
        }
        // Not the first page of the data, which blocks jump to for an exception.
        let page = BlockLayout.data + (1 + numbers.next(below: 3)) * Pages.size
        switch numbers.next(below: 4) {
        case 0: systemCall(24)  // sched_yield
        case 1:  // mmap: another page, of zeros, in place of one of the data
            load([7: UInt64(page), 6: UInt64(Pages.size), 2: 3, 10: 0x32, 8: .max, 9: 0])
            systemCall(9)
        default:  // mprotect: executable every second round, so that translations of the address are forgotten
            load([7: UInt64(page), 6: UInt64(Pages.size)])
            code.instruction(0x8b, width: .doubleword, reg: 2, place: .absolute(BlockLayout.count))
            code.raw(0x83, 0xe2, 0x01)  // and edx, 1
            code.raw(0xc1, 0xe2, 0x02)  // shl edx, 2
            code.raw(0x83, 0xca, 0x03)  // or edx, 3
            systemCall(10)
        }
    }

    private mutating func load(_ values: KeyValuePairs<Register, UInt64>) {
        for (register, value) in values { code.load(register, value) }
    }

    private mutating func systemCall(_ number: Int) {
        code.raw(0xb8)  // mov eax
        code.number(number, bytes: 4)
        code.raw(0x0f, 0x05)  // syscall: leaves its address in RCX and the flags in R11
        code.load(11, 0)
        define()
    }
}
