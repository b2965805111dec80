// SPDX-License-Identifier: Apache-2.0
// Assembles one instruction from its parts. Intel SDM volume 2, chapter 2.

struct InstructionEncoder {
    let form: NativeForm
    var operandPrefix = false
    var addressPrefix = false
    var lock = false
    /// A prefix without effect, or GS.
    var idlePrefix: UInt8 = 0
    /// F2 or F3 of a string instruction.
    var repeatPrefix: UInt8 = 0
    /// REX, with 40 set when it must be there even if no bit is.
    var rex: UInt8 = 0
    /// ModRM, SIB, displacement.
    private var operand: [UInt8] = []
    /// Target of a RIP-relative operand, whose displacement is not known before the end.
    private var relativeTarget: UInt64?
    /// The register that r/m names in a register form.
    private(set) var rmRegister: UInt8 = 0

    init(form: NativeForm) { self.form = form }

    /// Bytes of immediate for the prefixes set now.
    var immediateBytes: Int {
        let small = operandPrefix && rex & 8 == 0
        switch form.immediate {
        case .none: return 0
        case .bytes(let count): return count
        case .word: return small ? 2 : 4
        case .full: return rex & 8 != 0 ? 8 : small ? 2 : 4
        }
    }

    mutating func setRegister(reg: UInt8, rm: UInt8) {
        rmRegister = rm
        rex |= (reg & 8) >> 1 | rm >> 3
        operand = [0xc0 | (reg & 7) << 3 | rm & 7]
    }

    mutating func setRelative(reg: UInt8, target: UInt64, trailing: Int) {
        rex |= (reg & 8) >> 1
        operand = [(reg & 7) << 3 | 5, 0, 0, 0, 0]
        relativeTarget = target
    }

    mutating func setBase(reg: UInt8, base: UInt8, displacement: UInt64) {
        if base & 7 == 4 { return setScaled(reg: reg, base: base, index: 4, scale: 0, displacement: displacement) }
        rex |= (reg & 8) >> 1 | base >> 3
        let (mode, bytes) = encoded(displacement, base: base)
        operand = [mode | (reg & 7) << 3 | base & 7] + bytes
    }

    mutating func setScaled(reg: UInt8, base: UInt8?, index: UInt8, scale: UInt8, displacement: UInt64) {
        rex |= (reg & 8) >> 1 | (index & 8) >> 2
        guard let base else {
            operand = [(reg & 7) << 3 | 4, scale << 6 | (index & 7) << 3 | 5] + little(displacement, 4)
            return
        }
        rex |= base >> 3
        let (mode, bytes) = encoded(displacement, base: base)
        operand = [mode | (reg & 7) << 3 | 4, scale << 6 | (index & 7) << 3 | base & 7] + bytes
    }

    /// The shortest displacement, and ModRM.mod for it.
    private func encoded(_ displacement: UInt64, base: UInt8) -> (UInt8, [UInt8]) {
        if displacement == 0, base & 7 != 5 { return (0, []) }
        let value = Int64(bitPattern: displacement)
        return value == Int64(Int8(truncatingIfNeeded: value))
            ? (0x40, little(displacement, 1)) : (0x80, little(displacement, 4))
    }

    private func little(_ value: UInt64, _ count: Int) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
    }

    func finish(immediate: UInt64, bytes: Int) -> [UInt8] {
        var code: [UInt8] = []
        if lock { code.append(0xf0) }
        if idlePrefix != 0 { code.append(idlePrefix) }
        if addressPrefix { code.append(0x67) }
        if operandPrefix { code.append(0x66) }
        if repeatPrefix != 0 { code.append(repeatPrefix) }
        if form.prefix != 0 { code.append(form.prefix) }
        if rex != 0 { code.append(0x40 | rex) }
        code += form.escape + [form.opcode]
        var operand = operand
        if let relativeTarget {
            let end = ProcessorState.codeStart &+ UInt64(code.count + operand.count + bytes)
            operand.replaceSubrange(1..<5, with: little(relativeTarget &- end, 4))
        }
        return code + operand + little(immediate, bytes)
    }
}
