// SPDX-License-Identifier: Apache-2.0
// The x87 state in memory: FSTENV and FSAVE images, FXSAVE's legacy part, MMX aliasing, and the neutral state.
// Intel SDM volume 1, 8.1.10, 9.2 and 10.5. The selectors of the last instruction and operand are kept by no
// processor that deprecates them (CPUID.7.EBX[13]), nor here: they are saved as zero.

package import Snapshot
package import X86

/// How FSTENV and FSAVE lay out the seven words of the environment.
struct X87EnvironmentFormat {
    /// Words of four bytes, not two.
    var is32Bit: Bool
    /// Real and virtual-8086 mode: pointers are linear addresses and share words with the opcode.
    var isReal: Bool

    var wordSize: Int { is32Bit ? 4 : 2 }
    /// Bytes of the environment; registers follow in an FSAVE image.
    var size: Int { wordSize * 7 }
}

extension X87 {
    /// The environment as FSTENV writes it; in a 16-bit format the low half of each word counts.
    func environment(_ format: X87EnvironmentFormat) -> InlineArray<7, UInt32> {
        let upper: UInt32 = format.is32Bit ? 0xffff_0000 : 0
        let instruction = UInt32(truncatingIfNeeded: lastInstruction)
        let data = UInt32(truncatingIfNeeded: lastData)
        let opcode = UInt32(lastOpcode)
        var words: InlineArray<7, UInt32> = [
            upper | UInt32(control), upper | UInt32(status.rawValue), upper | UInt32(fullTag), 0, 0, 0, 0,
        ]
        switch (format.isReal, format.is32Bit) {
        case (false, true):
            words[3] = instruction
            words[4] = opcode << 16
            words[5] = data
            words[6] = upper
        case (false, false):
            words[3] = instruction
            words[5] = data
        case (true, true):
            words[3] = upper | instruction & 0xffff
            words[4] = (instruction & 0xffff_0000) >> 4 | opcode
            words[5] = upper | data & 0xffff
            words[6] = (data & 0xffff_0000) >> 4
        case (true, false):
            words[3] = instruction
            words[4] = instruction >> 4 & 0xf000 | opcode
            words[5] = data
            words[6] = data >> 4 & 0xf000
        }
        return words
    }

    /// Takes an environment that FLDENV read.
    mutating func setEnvironment(_ words: InlineArray<7, UInt32>, _ format: X87EnvironmentFormat) {
        status = X87Status(rawValue: UInt16(truncatingIfNeeded: words[1]))
        setFullTag(UInt16(truncatingIfNeeded: words[2]))
        setControl(UInt16(truncatingIfNeeded: words[0]))
        let instruction = words[3]
        let data = words[5]
        switch (format.isReal, format.is32Bit) {
        case (false, true):
            lastInstruction = UInt64(instruction)
            lastOpcode = UInt16(words[4] >> 16 & 0x7ff)
            lastData = UInt64(data)
        case (false, false):
            lastInstruction = UInt64(instruction & 0xffff)
            lastOpcode = 0
            lastData = UInt64(data & 0xffff)
        case (true, true):
            lastInstruction = UInt64(instruction & 0xffff | (words[4] & 0x0fff_f000) << 4)
            lastOpcode = UInt16(words[4] & 0x7ff)
            lastData = UInt64(data & 0xffff | (words[6] & 0x0fff_f000) << 4)
        case (true, false):
            lastInstruction = UInt64(instruction & 0xffff | (words[4] & 0xf000) << 4)
            lastOpcode = UInt16(words[4] & 0x7ff)
            lastData = UInt64(data & 0xffff | (words[6] & 0xf000) << 4)
        }
    }

    /// FSTENV masks all exceptions once the environment is stored.
    mutating func maskExceptions() { setControl(control | X87Status.exceptions.rawValue) }

    // MARK: FXSAVE

    /// The first 160 bytes of an FXSAVE image as 64-bit words. Word 3, MXCSR and its mask, is left zero.
    /// `hasWidePointers`: REX.W in 64-bit mode.
    package func fxsaveImage(hasWidePointers: Bool) -> InlineArray<20, UInt64> {
        var image = InlineArray<20, UInt64>(repeating: 0)
        image[0] =
            UInt64(control) | UInt64(status.rawValue) << 16 | UInt64(valid) << 32 | UInt64(lastOpcode) << 48
        let mask: UInt64 = hasWidePointers ? .max : 0xffff_ffff
        image[1] = lastInstruction & mask
        image[2] = lastData & mask
        for index in UInt8(0)..<8 {
            image[4 + Int(index) * 2] = self[st: index].mantissa
            image[5 + Int(index) * 2] = UInt64(self[st: index].exponent)
        }
        return image
    }

    /// Takes the x87 part of an FXRSTOR image; word 3 is not looked at.
    package mutating func restore(fxsaveImage image: InlineArray<20, UInt64>, hasWidePointers: Bool) {
        status = X87Status(rawValue: UInt16(truncatingIfNeeded: image[0] >> 16))
        for index in UInt8(0)..<8 {
            self[st: index] = X87Register(
                mantissa: image[4 + Int(index) * 2], exponent: UInt16(truncatingIfNeeded: image[5 + Int(index) * 2]))
        }
        valid = UInt8(truncatingIfNeeded: image[0] >> 32)
        lastOpcode = UInt16(truncatingIfNeeded: image[0] >> 48) & 0x7ff
        let mask: UInt64 = hasWidePointers ? .max : 0xffff_ffff
        lastInstruction = image[1] & mask
        lastData = image[2] & mask
        setControl(UInt16(truncatingIfNeeded: image[0]))
    }

    // MARK: MMX

    /// What every MMX instruction but EMMS does first: TOP is 0 and no register is empty.
    package mutating func enterMMX() {
        top = 0
        valid = 0xff
    }

    /// MM0 to MM7. Setting one fills the exponent with ones.
    package subscript(mmx number: UInt8) -> UInt64 {
        get { registers[Int(number & 7)].mantissa }
        set { registers[Int(number & 7)] = X87Register(mantissa: newValue, exponent: 0xffff) }
    }

    /// EMMS.
    package mutating func leaveMMX() {
        top = 0
        valid = 0
    }

    /// An unmasked exception waits to be reported: an MMX or waiting x87 instruction raises #MF.
    package var hasPendingException: Bool { status.contains(.errorSummary) }

    // MARK: Neutral state

    /// Copies the x87 part of `state`; its SSE part belongs to someone else.
    package init(_ state: FloatingPointState) throws(SnapshotError) {
        let layer = "x87"
        try require(
            state.control & ~0x1f7f == 0, layer: layer, field: "control", value: state.control,
            allowed: "a control word without reserved bits")
        try require(
            state.lastOpcode < 0x800, layer: layer, field: "lastOpcode", value: state.lastOpcode, allowed: "0 to 2047")
        try require(
            state.stack.count == 8, layer: layer, field: "stack.count", value: state.stack.count, allowed: "8")
        for bytes in state.stack {
            try require(
                bytes.count == 10, layer: layer, field: "stack register", value: bytes.count, allowed: "10 bytes")
        }
        status = X87Status(rawValue: state.status)
        for (index, bytes) in state.stack.enumerated() {
            var mantissa: UInt64 = 0
            for position in 0..<8 { mantissa |= UInt64(bytes[position]) << UInt64(position * 8) }
            self[st: UInt8(index)] = X87Register(
                mantissa: mantissa, exponent: UInt16(bytes[8]) | UInt16(bytes[9]) << 8)
        }
        valid = state.abridgedTag
        lastOpcode = state.lastOpcode
        lastInstruction = state.lastInstruction
        lastData = state.lastData
        setControl(state.control)
    }

    /// Writes the x87 part of `state`.
    package func save(to state: inout FloatingPointState) {
        state.control = control
        state.status = status.rawValue
        state.abridgedTag = valid
        state.lastOpcode = lastOpcode
        state.lastInstruction = lastInstruction
        state.lastData = lastData
        state.stack = (UInt8(0)..<8).map { index in
            let register = self[st: index]
            return (0..<8).map { UInt8(truncatingIfNeeded: register.mantissa >> UInt64($0 * 8)) } + [
                UInt8(truncatingIfNeeded: register.exponent), UInt8(register.exponent >> 8),
            ]
        }
    }
}
