// SPDX-License-Identifier: Apache-2.0
// The MMX and SSE rows of the instruction table, and how the decoder finds them. Intel SDM volume 2, appendix A.

/// The prefix that selects between instructions of one opcode.
package enum MandatoryPrefix: UInt8, CaseIterable, Sendable {
    case none
    case x66
    case xF3
    case xF2
}

/// One row: an encoding and what it means.
package struct VectorForm: Sendable {
    package var prefix: MandatoryPrefix
    package var map: OpcodeMap
    package var opcode: UInt8
    /// ModRM.reg that selects this row, or -1.
    package var group: Int8
    package var operation: VectorOperation
    package var operands: VectorOperands

    @inline(__always)
    init(
        _ prefix: MandatoryPrefix, _ map: OpcodeMap, _ opcode: UInt8, _ operation: VectorOperation,
        _ operands: VectorOperands, group: Int8 = -1
    ) {
        self.prefix = prefix
        self.map = map
        self.opcode = opcode
        self.group = group
        self.operation = operation
        self.operands = operands
    }

    /// Whether r/m may be memory (`isMemory`) or a register: if not, #UD.
    package func allows(isMemory: Bool) -> Bool {
        switch operands.layout.encodings {
        case .any: true
        case .registerOnly: !isMemory
        case .memoryOnly: isMemory
        }
    }
}

/// All rows by encoding: a flat table, filled in one pass.
package struct VectorTable: Sendable {
    package static let shared = VectorTable()

    package let forms: [VectorForm]
    /// 1 + the index of the first row of (map, opcode, prefix), or 0. Rows of one group follow each other.
    private let first: [UInt16]

    init() {
        let forms = vectorForms0F + vectorFormsPacked + vectorForms0F38 + vectorForms0F3A
        var first = [UInt16](repeating: 0, count: 4 * 256 * MandatoryPrefix.allCases.count)
        for index in forms.indices.reversed() {
            let form = forms[index]
            first[Self.slot(form.map, form.opcode, form.prefix)] = UInt16(index + 1)
        }
        self.forms = forms
        self.first = first
    }

    private static func slot(_ map: OpcodeMap, _ opcode: UInt8, _ prefix: MandatoryPrefix) -> Int {
        Int(map.rawValue) << 10 | Int(opcode) << 2 | Int(prefix.rawValue)
    }

    /// The row of an encoding; `reg` is ModRM.reg without REX.R.
    package func form(_ map: OpcodeMap, _ opcode: UInt8, _ prefix: MandatoryPrefix, reg: UInt8) -> VectorForm? {
        var index = Int(first[Self.slot(map, opcode, prefix)])
        guard index > 0 else { return nil }
        while index <= forms.count {
            let form = forms[index - 1]
            guard form.map == map, form.opcode == opcode, form.prefix == prefix else { return nil }
            if form.group < 0 || form.group == Int8(reg & 7) { return form }
            index += 1
        }
        return nil
    }
}
