// SPDX-License-Identifier: Apache-2.0
// SHA-256 (FIPS 180-4) over bytes, as 32 bytes or 64 lower-case hexadecimal digits.

internal import Crypto

/// SHA-256 over bytes in memory.
enum Digest {
    /// Bytes of a digest.
    static let size = 32

    static func of(_ bytes: [UInt8]) -> [UInt8] {
        // SAFETY: the buffer is only used inside the closure.
        unsafe bytes.withUnsafeBytes { unsafe of($0) }
    }

    static func of(_ bytes: UnsafeRawBufferPointer) -> [UInt8] {
        var hash = SHA256()
        // SAFETY: the caller's buffer is valid for the call.
        unsafe hash.update(bufferPointer: bytes)
        return [UInt8](hash.finalize())
    }

    /// Whether the digest of `bytes` is `expected`, which has `size` bytes.
    static func matches(_ bytes: UnsafeRawBufferPointer, _ expected: UnsafeRawBufferPointer) -> Bool {
        var hash = SHA256()
        // SAFETY: both buffers are the caller's and valid for the call.
        unsafe hash.update(bufferPointer: bytes)
        return unsafe hash.finalize().withUnsafeBytes { unsafe $0.elementsEqual(expected) }
    }
}

/// Lower-case hexadecimal digits of `bytes`.
func hexadecimal(_ bytes: [UInt8]) -> String {
    let digits = Array("0123456789abcdef".utf8)
    var text: [UInt8] = []
    text.reserveCapacity(bytes.count * 2)
    for byte in bytes {
        text.append(digits[Int(byte >> 4)])
        text.append(digits[Int(byte & 15)])
    }
    return String(decoding: text, as: UTF8.self)
}

/// Whether `text` is exactly `count` lower-case hexadecimal digits.
func isHexadecimal(_ text: String, count: Int) -> Bool {
    text.utf8.count == count
        && text.utf8.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x66).contains($0) }
}
