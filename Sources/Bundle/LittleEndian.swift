// SPDX-License-Identifier: Apache-2.0
// Little-endian integers in byte arrays: how ZIP and the memory index store numbers.

extension [UInt8] {
    /// Appends `value`, lowest byte first.
    mutating func append(littleEndian value: some FixedWidthInteger & UnsignedInteger) {
        var rest = value
        for _ in 0..<(value.bitWidth / 8) {
            append(UInt8(truncatingIfNeeded: rest))
            rest = rest >> 8
        }
    }

    /// The integer at `offset`; nil when it would pass the end.
    func integer<T: FixedWidthInteger & UnsignedInteger>(_ type: T.Type, at offset: Int) -> T? {
        let size = T.bitWidth / 8
        guard offset >= 0, size <= count, offset <= count - size else { return nil }
        var value: T = 0
        for index in (0..<size).reversed() { value = value << 8 | T(self[offset + index]) }
        return value
    }
}
