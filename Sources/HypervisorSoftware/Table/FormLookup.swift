// SPDX-License-Identifier: Apache-2.0
// The instruction table arranged for the decoder: rows by map and opcode byte.

/// Rows sorted by opcode, and where each opcode's rows start.
@safe struct FormLookup: @unchecked Sendable {
    /// Built once a process; never changes.
    static let shared = FormLookup(InstructionTable.primary() + InstructionTable.extended())

    private let rows: UnsafeMutablePointer<InstructionForm>
    /// 1024 starts and one end.
    private let starts: UnsafeMutablePointer<UInt16>

    private init(_ forms: [InstructionForm]) {
        unsafe rows = .allocate(capacity: forms.count)
        unsafe starts = .allocate(capacity: 1025)
        unsafe starts.initialize(repeating: 0, count: 1025)
        // A counting sort by map and opcode. SAFETY: keys are below 1024, positions below forms.count.
        for form in forms { unsafe starts[Self.key(form.map, form.opcode) + 1] += 1 }
        for key in 0..<1024 { unsafe starts[key + 1] += unsafe starts[key] }
        var next = [UInt16](repeating: 0, count: 1024)
        for form in forms {
            let key = Self.key(form.map, form.opcode)
            unsafe (rows + Int(starts[key]) + Int(next[key])).initialize(to: form)
            next[key] += 1
        }
    }

    @inline(__always)
    private static func key(_ map: OpcodeMap, _ opcode: UInt8) -> Int { Int(map.rawValue) << 8 | Int(opcode) }

    /// Positions of the rows of an opcode, for `subscript`.
    func positions(_ map: OpcodeMap, _ opcode: UInt8) -> Range<Int> {
        // SAFETY: the key is below 1024.
        let key = Self.key(map, opcode)
        return unsafe Int(starts[key])..<Int(starts[key + 1])
    }

    subscript(position: Int) -> InstructionForm {
        // SAFETY: positions come from `positions`.
        unsafe rows[position]
    }
}
