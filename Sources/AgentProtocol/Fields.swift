// SPDX-License-Identifier: Apache-2.0
// The fields of a frame's payload: little-endian integers, and texts behind their length. Compiled into host and guest.

/// Puts fields one behind the other.
public struct FieldWriter {
    public private(set) var bytes: [UInt8] = []

    public init() {}

    public mutating func add<Value: FixedWidthInteger>(_ value: Value) {
        var shift = 0
        while shift < Value.bitWidth {
            bytes.append(UInt8(truncatingIfNeeded: value >> Value(shift)))
            shift += 8
        }
    }

    /// 32 bits of length, the bytes.
    public mutating func add(_ text: [UInt8]) {
        add(UInt32(truncatingIfNeeded: text.count))
        bytes.append(contentsOf: text)
    }

    /// 32 bits of count, the texts.
    public mutating func add(_ list: [[UInt8]]) {
        add(UInt32(truncatingIfNeeded: list.count))
        for text in list { add(text) }
    }
}

/// Takes fields in their order. What the other side sent is not trusted: nothing is read behind the end.
public struct FieldReader {
    private let bytes: [UInt8]
    private var position = 0

    public init(_ bytes: [UInt8]) { self.bytes = bytes }

    public mutating func read<Value: FixedWidthInteger>(_ type: Value.Type) throws(FrameError) -> Value {
        let size = Value.bitWidth / 8
        guard bytes.count - position >= size else { throw .malformed }
        var value: Value = 0
        for offset in 0..<size { value |= Value(truncatingIfNeeded: bytes[position + offset]) << Value(offset * 8) }
        position += size
        return value
    }

    public mutating func readText() throws(FrameError) -> [UInt8] {
        let count = Int(try read(UInt32.self))
        guard count <= bytes.count - position else { throw .malformed }
        defer { position += count }
        return Array(bytes[position..<position + count])
    }

    /// A text that the C library can take: without NUL.
    public mutating func readName() throws(FrameError) -> [UInt8] {
        let text = try readText()
        guard !text.contains(0) else { throw .malformed }
        return text
    }

    public mutating func readList() throws(FrameError) -> [[UInt8]] {
        let count = Int(try read(UInt32.self))
        // Each takes four bytes at least.
        guard count <= (bytes.count - position) / 4 else { throw .malformed }
        var list: [[UInt8]] = []
        for _ in 0..<count { list.append(try readName()) }
        return list
    }

    /// To be called behind the last field.
    public func finish() throws(FrameError) {
        guard position == bytes.count else { throw .malformed }
    }
}
