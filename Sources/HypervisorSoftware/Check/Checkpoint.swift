// SPDX-License-Identifier: Apache-2.0
// What instructions outside the system group can change in a processor: taken, put back and compared by `--cpu-engine check`.

/// A processor's registers at one instruction boundary.
struct Checkpoint {
    fileprivate var general = InlineArray<32, UInt64>(repeating: 0)
    fileprivate var xmm = InlineArray<32, UInt64>(repeating: 0)
    fileprivate var flags = LazyFlags()
    fileprivate var systemFlags: UInt64 = 0
    fileprivate(set) var rip: UInt64 = 0
    fileprivate var mxcsr: UInt32 = 0
    fileprivate var x87 = X87()
    fileprivate var cr2: UInt64 = 0
    fileprivate var watchHits: UInt64 = 0
    /// Whether the guest asked for something that this processor does not have.
    fileprivate(set) var hasFailed = false

    private static let names = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
    ]

    /// Whether both are the same but for status flags in `ignoring`.
    func isSame(as other: Checkpoint, ignoring: Flags) -> Bool {
        guard rip == other.rip, mxcsr == other.mxcsr, cr2 == other.cr2, systemFlags == other.systemFlags,
            (flags.bits ^ other.flags.bits) & ~ignoring.rawValue == 0, hasFailed == other.hasFailed,
            watchHits == other.watchHits
        else { return false }
        for number in 0..<16 where general[number] != other.general[number] { return false }
        for number in 0..<32 where xmm[number] != other.xmm[number] { return false }
        return x87.isSame(as: other.x87)
    }

    /// Names and values of everything, for a report; XMM registers in two halves.
    var fields: [(name: String, value: UInt64)] {
        var fields = Self.names.enumerated().map { ($1, general[$0]) }
        fields += [("rip", rip), ("rflags", systemFlags | flags.bits), ("cr2", cr2), ("mxcsr", UInt64(mxcsr))]
        for number in 0..<16 {
            fields += [("xmm\(number)", xmm[number * 2]), ("xmm\(number) high", xmm[number * 2 + 1])]
        }
        for number in 0..<8 {
            fields += [
                ("x87 \(number)", x87.registers[number].mantissa),
                ("x87 \(number) exponent", UInt64(x87.registers[number].exponent)),
            ]
        }
        return fields + [
            ("x87 control", UInt64(x87.control)), ("x87 status", UInt64(x87.status.rawValue)),
            ("x87 valid", UInt64(x87.valid)), ("x87 opcode", UInt64(x87.lastOpcode)),
            ("x87 instruction", x87.lastInstruction), ("x87 data", x87.lastData),
        ]
    }
}

extension Core {
    mutating func checkpoint() -> Checkpoint {
        var point = Checkpoint()
        point.general = general
        point.xmm = xmm
        point.flags = flags
        point.systemFlags = systemFlags
        point.rip = rip
        point.mxcsr = mxcsr
        point.x87 = x87
        point.cr2 = cr2
        point.watchHits = watchHits
        point.hasFailed = failure != nil
        return point
    }

    mutating func goBack(to point: Checkpoint) {
        general = point.general
        xmm = point.xmm
        flags = point.flags
        systemFlags = point.systemFlags
        rip = point.rip
        mxcsr = point.mxcsr
        x87 = point.x87
        cr2 = point.cr2
        watchHits = point.watchHits
        failure = nil
    }
}

extension X87 {
    fileprivate func isSame(as other: X87) -> Bool {
        for number in 0..<8 where registers[number] != other.registers[number] { return false }
        return control == other.control && status == other.status && valid == other.valid
            && lastOpcode == other.lastOpcode && lastInstruction == other.lastInstruction && lastData == other.lastData
    }
}
