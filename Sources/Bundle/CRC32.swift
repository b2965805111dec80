// SPDX-License-Identifier: Apache-2.0
// CRC-32 as ZIP uses it (APPNOTE 4.4.7: reflected polynomial 0xedb88320), eight bytes at a time, and its combination.

/// A CRC-32 over bytes seen so far.
struct CRC32: Equatable, Sendable {
    private(set) var value: UInt32 = 0

    init() {}

    init(_ bytes: [UInt8]) {
        // SAFETY: the buffer is only used inside the closure.
        unsafe bytes.withUnsafeBytes { unsafe update($0) }
    }

    init(_ bytes: UnsafeRawBufferPointer) { unsafe update(bytes) }

    /// Eight tables of 256: table k has the CRC of one byte followed by k zero bytes.
    private static let tables: [UInt32] = {
        var tables = [UInt32](repeating: 0, count: 8 * 256)
        for byte in 0..<256 {
            var crc = UInt32(byte)
            for _ in 0..<8 { crc = crc & 1 != 0 ? (crc >> 1) ^ polynomial : crc >> 1 }
            tables[byte] = crc
        }
        for index in 256..<tables.count {
            let crc = tables[index - 256]
            tables[index] = (crc >> 8) ^ tables[Int(crc & 0xff)]
        }
        return tables
    }()

    private static let polynomial: UInt32 = 0xedb8_8320

    mutating func update(_ bytes: UnsafeRawBufferPointer) {
        var crc = ~value
        // SAFETY: table indices are below 8 * 256; loads stay below `bytes.count`.
        unsafe Self.tables.withUnsafeBufferPointer { tables in
            var index = 0
            while index + 8 <= bytes.count {
                let word = unsafe UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: index, as: UInt64.self))
                let low = UInt32(truncatingIfNeeded: word) ^ crc
                let high = UInt32(truncatingIfNeeded: word >> 32)
                let first =
                    unsafe tables[7 * 256 + Int(low & 0xff)] ^ tables[6 * 256 + Int(low >> 8 & 0xff)]
                    ^ tables[5 * 256 + Int(low >> 16 & 0xff)] ^ tables[4 * 256 + Int(low >> 24)]
                let second =
                    unsafe tables[3 * 256 + Int(high & 0xff)] ^ tables[2 * 256 + Int(high >> 8 & 0xff)]
                    ^ tables[256 + Int(high >> 16 & 0xff)] ^ tables[Int(high >> 24)]
                crc = first ^ second
                index += 8
            }
            while index < bytes.count {
                crc = unsafe (crc >> 8) ^ tables[Int((crc ^ UInt32(bytes[index])) & 0xff)]
                index += 1
            }
        }
        value = ~crc
    }

    /// Appends `count` bytes whose own CRC is `next`, without seeing them.
    mutating func append(_ next: CRC32, count: UInt64) {
        value = Self.multiply(Self.power(8, count), value) ^ next.value
    }

    /// Product of two polynomials modulo the CRC's; bit 31 is x^0.
    private static func multiply(_ left: UInt32, _ right: UInt32) -> UInt32 {
        var product: UInt32 = 0
        var shifted = right
        var bit: UInt32 = 1 << 31
        while bit != 0 {
            if left & bit != 0 { product ^= shifted }
            shifted = shifted & 1 != 0 ? (shifted >> 1) ^ polynomial : shifted >> 1
            bit >>= 1
        }
        return product
    }

    /// x^(bits * count) modulo the CRC's polynomial; `bits` is 8.
    private static func power(_ bits: Int, _ count: UInt64) -> UInt32 {
        var square: UInt32 = 1 << (31 - UInt32(bits))
        var result: UInt32 = 1 << 31
        var rest = count
        while rest != 0 {
            if rest & 1 != 0 { result = multiply(square, result) }
            square = multiply(square, square)
            rest >>= 1
        }
        return result
    }
}
