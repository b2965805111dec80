// SPDX-License-Identifier: Apache-2.0
// Encodes instructions for random blocks: prefixes, REX, ModRM, SIB, displacements, immediates (AMD APM volume 3, 1).

/// A general-purpose register by its number in an instruction; 4 is RSP.
typealias Register = Int

enum Place {
    case register(Register)
    case memory(base: Register, index: Register?, scale: Int, displacement: Int)
    case absolute(Int)
}

enum Width: Int {
    case byte = 1
    case word = 2
    case doubleword = 4
    case quadword = 8

    var immediateBytes: Int { min(rawValue, 4) }
}

struct BlockEncoder {
    private(set) var bytes: [UInt8] = []
    /// Where each instruction begins.
    private(set) var boundaries: [Int] = []
    let address: Int

    init(address: Int) { self.address = address }

    /// The address of the next instruction.
    var here: Int { address + bytes.count }

    /// An instruction in bytes.
    mutating func raw(_ instruction: UInt8...) {
        boundaries.append(bytes.count)
        bytes.append(contentsOf: instruction)
    }

    /// An instruction with a ModRM byte and, after it, an immediate; `prefixes` come before REX.
    mutating func instruction(
        _ opcode: UInt8..., prefixes: [UInt8] = [], width: Width = .doubleword, reg: Int, place: Place,
        immediate: (value: Int, bytes: Int)? = nil
    ) {
        boundaries.append(bytes.count)
        if width == .word { bytes.append(0x66) }
        bytes.append(contentsOf: prefixes)
        var rex: UInt8 = width == .quadword ? 0x48 : 0
        if reg >= 8 { rex |= 0x44 }
        switch place {
        case .register(let register): if register >= 8 { rex |= 0x41 }
        case .memory(let base, let index, _, _):
            if base >= 8 { rex |= 0x41 }
            if let index, index >= 8 { rex |= 0x42 }
        case .absolute: break
        }
        if rex != 0 { bytes.append(rex) }
        bytes.append(contentsOf: opcode)
        modRM(reg, place)
        if let immediate { number(immediate.value, bytes: immediate.bytes) }
    }

    private mutating func modRM(_ reg: Int, _ place: Place) {
        let middle = UInt8(reg & 7) << 3
        switch place {
        case .register(let register):
            bytes.append(0xc0 | middle | UInt8(register & 7))
        case .memory(let base, let index, let scale, let displacement):
            let isShort = (-128...127).contains(displacement)
            let mode: UInt8 = isShort ? 0x40 : 0x80
            if let index {
                bytes.append(mode | middle | 4)
                bytes.append(UInt8(scale) << 6 | UInt8(index & 7) << 3 | UInt8(base & 7))
            } else {
                bytes.append(mode | middle | UInt8(base & 7))
                if base & 7 == 4 { bytes.append(0x24) }
            }
            number(displacement, bytes: isShort ? 1 : 4)
        case .absolute(let address):
            bytes.append(middle | 4)
            bytes.append(0x25)
            number(address, bytes: 4)
        }
    }

    mutating func number(_ value: Int, bytes count: Int) {
        for byte in 0..<count { bytes.append(UInt8(truncatingIfNeeded: value >> (byte * 8))) }
    }

    /// Bytes that are no instruction, from the next multiple of 8 on.
    mutating func table(_ size: Int) -> Int {
        while here & 7 != 0 { bytes.append(0xcc) }
        bytes.append(contentsOf: repeatElement(0, count: size))
        return bytes.count - size
    }

    /// Makes `count` bytes at `position` those of `value`.
    mutating func put(_ value: Int, bytes count: Int, at position: Int) {
        for byte in 0..<count { bytes[position + byte] = UInt8(truncatingIfNeeded: value >> (byte * 8)) }
    }

    /// mov register, the whole value.
    mutating func load(_ register: Register, _ value: UInt64) {
        boundaries.append(bytes.count)
        bytes.append(register >= 8 ? 0x49 : 0x48)
        bytes.append(0xb8 | UInt8(register & 7))
        number(Int(truncatingIfNeeded: value), bytes: 8)
    }

    /// A jump or call with a 32-bit distance that `patch` fills in; returns where the distance is.
    mutating func jump(_ opcode: UInt8...) -> Int {
        boundaries.append(bytes.count)
        bytes.append(contentsOf: opcode)
        number(0, bytes: 4)
        return bytes.count - 4
    }

    /// Makes the jump whose distance is at `position` lead to `target`, an offset into the block.
    mutating func patch(_ position: Int, to target: Int) { put(target - position - 4, bytes: 4, at: position) }
}
