// SPDX-License-Identifier: Apache-2.0
// qcow2 stores every number with its most significant byte first.

extension [UInt8] {
    /// The integer at `offset`; 0 when it reaches behind the end.
    func bigEndian<Value: FixedWidthInteger>(_ type: Value.Type, at offset: Int) -> Value {
        let size = Value.bitWidth / 8
        guard offset >= 0, size <= count, offset <= count - size else { return 0 }
        var value: Value = 0
        for index in offset..<offset + size { value = (value << 8) | Value(truncatingIfNeeded: self[index]) }
        return value
    }

    mutating func append<Value: FixedWidthInteger>(bigEndian value: Value) {
        for shift in stride(from: Value.bitWidth - 8, through: 0, by: -8) {
            append(UInt8(truncatingIfNeeded: value >> Value(shift)))
        }
    }

    /// The 64-bit numbers of a table.
    var bigEndianTable: [UInt64] { stride(from: 0, to: count - 7, by: 8).map { bigEndian(UInt64.self, at: $0) } }
}

/// A table's bytes.
func bigEndianBytes(_ table: some Collection<UInt64>) -> [UInt8] {
    let size = table.count * 8
    return unsafe [UInt8](unsafeUninitializedCapacity: size) { buffer, filled in
        let bytes = UnsafeMutableRawBufferPointer(buffer)
        // SAFETY: the buffer has eight bytes for each entry.
        for (index, entry) in table.enumerated() {
            unsafe bytes.storeBytes(of: entry.bigEndian, toByteOffset: index * 8, as: UInt64.self)
        }
        filled = size
    }
}
