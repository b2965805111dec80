// SPDX-License-Identifier: Apache-2.0
// Compares what the host's processor and the software CPU made of one instance, and says how they differ.

#if canImport(Glibc)
    import Glibc
#endif

/// One instance on which the two processors disagree.
struct Difference: CustomStringConvertible {
    let instance: Instance
    let expected: (ProcessorState, Outcome)
    let actual: (ProcessorState, Outcome)
    /// What is different, one line each.
    let lines: [String]

    /// Compares; nil when both agree in everything that is defined.
    init?(_ instance: Instance, expected: (ProcessorState, Outcome), actual: (ProcessorState, Outcome)) {
        var lines: [String] = []
        let (wanted, got) = (expected.1.comparable(instance.form), actual.1.comparable(instance.form))
        if wanted != got { lines.append("outcome: expected \(expected.1.text), got \(actual.1.text)") }
        let (want, have) = (expected.0, actual.0)
        for number in 0..<16 where want[number] != have[number] {
            lines.append("\(Self.names[number]): expected \(hex(want[number])), got \(hex(have[number]))")
        }
        if want.rip != have.rip { lines.append("rip: expected \(hex(want.rip)), got \(hex(have.rip))") }
        let flags = 0xcd5 & ~(expected.1.vector < 0 || instance.isSequence ? instance.form.undefinedFlags : 0)
        if (want.flags ^ have.flags) & flags != 0 {
            lines.append("rflags: expected \(hex(want.flags & flags)), got \(hex(have.flags & flags))")
        }
        for word in 0..<52 {
            var mask = Self.mask(word)
            // With an unmasked overflow or underflow, PE says whether a result that nobody sees would be exact.
            // Whether the products of DPPS underflow or overflow counts before a sum faults differs.
            if word == 3, expected.1.vector == 19 { mask &= instance.form.name.hasPrefix("dpp") ? ~0x38 : ~0x20 }
            if (want[fx: word] ^ have[fx: word]) & mask != 0 {
                lines.append(
                    "\(Self.name(word)): expected \(hex(want[fx: word] & mask)), got \(hex(have[fx: word] & mask))")
            }
        }
        if want.window != have.window {
            for offset in want.window.indices where want.window[offset] != have.window[offset] {
                if instance.ignoredWindow?.contains(offset) ?? false { continue }
                if instance.alsoIgnored?.contains(offset) ?? false { continue }
                lines.append(
                    "memory \(hex(ProcessorState.windowStart + UInt64(offset))): expected "
                        + "\(hex(UInt64(want.window[offset]))), got \(hex(UInt64(have.window[offset])))")
                if lines.count > 24 { break }
            }
        }
        guard !lines.isEmpty else { return nil }
        self.instance = instance
        self.expected = expected
        self.actual = actual
        self.lines = lines
    }

    private static let names = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
    ]

    /// What is compared of a word of the FXSAVE image. Processors differ in when they keep the x87 pointers.
    private static func mask(_ word: Int) -> UInt64 {
        switch word {
        case 0: 0x0000_00ff_ffff_ffff
        case 1, 2: 0
        case 3: 0xffff_ffff
        case 4..<20: word % 2 == 0 ? .max : 0xffff
        default: .max
        }
    }

    private static func name(_ word: Int) -> String {
        switch word {
        case 0: "x87 tag, status, control"
        case 3: "mxcsr"
        case 4..<20: "st(\((word - 4) / 2)) \(word % 2 == 0 ? "significand" : "exponent")"
        default: "xmm\((word - 20) / 2) \(word % 2 == 0 ? "low" : "high")"
        }
    }

    var description: String {
        let state = instance.state
        var text =
            "\(instance.form)\(instance.isSequence ? " and more" : ""): \(instance.code.map { hex(UInt64($0)) }.joined(separator: " "))\n"
        if let listing = disassembly(instance.code) { text += "  \(listing)\n" }
        text += "  from:"
        for number in 0..<16 { text += " \(Self.names[number])=\(hex(state[number]))" }
        text +=
            " rflags=\(hex(state.flags))\n  x87 tag, status, control \(hex(state[fx: 0])) mxcsr \(hex(state[fx: 3]))"
        for index in 0..<8 { text += " st\(index)=\(hex(state[fx: 5 + index * 2]))'\(hex(state[fx: 4 + index * 2]))" }
        text += "\n "
        for number in 0..<16 { text += " xmm\(number)=\(hex(state.xmm(number).1))'\(hex(state.xmm(number).0))" }
        if let target = instance.target {
            text += "\n  memory \(hex(target)):"
            let offset = Int(target &- ProcessorState.windowStart)
            for position in offset..<offset + 16 where state.window.indices.contains(position) {
                text += " \(hex(UInt64(state.window[position])))"
            }
        }
        return text + "\n" + lines.map { "  \($0)" }.joined(separator: "\n")
    }
}

extension Outcome {
    /// Without what differs between processors and systems.
    func comparable(_ form: NativeForm) -> Outcome {
        var result = self
        // Which byte of a large operand faults first, and which operand of a string instruction.
        if form.memoryBytes > 16 || form.treatment == .string || form.treatment == .maskMove { result.address &= ~4095 }
        // Whether there is something at an address that user code must not see: the kernel, and the page before the gap.
        if address >= (1 << 47) - 4096 { result.errorCode &= ~1 }
        return result
    }

    var text: String {
        vector < 0 ? "no exception" : "vector \(vector), error code \(errorCode), address \(hex(address))"
    }
}

func hex(_ value: UInt64) -> String { String(value, radix: 16) }

/// What llvm-mc makes of `code`, when it is installed and SMOLVMM_DISASSEMBLE is set.
private func disassembly(_ code: [UInt8]) -> String? {
    #if canImport(Glibc)
        guard unsafe getenv("SMOLVMM_DISASSEMBLE") != nil else { return nil }
        let bytes = code.map { "0x" + hex(UInt64($0)) }.joined(separator: " ")
        let command = "echo '\(bytes)' | llvm-mc --disassemble --triple=x86_64 2>/dev/null | tail -n +2"
        guard let pipe = unsafe popen(command, "r") else { return nil }
        defer { unsafe pclose(pipe) }
        var text: [UInt8] = []
        while case let byte = unsafe getc(pipe), byte >= 0 { text.append(byte == 10 ? 59 : UInt8(byte)) }
        return String(decoding: text, as: UTF8.self)
    #else
        return nil
    #endif
}
