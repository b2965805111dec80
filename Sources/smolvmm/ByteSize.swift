// SPDX-License-Identifier: Apache-2.0
// Amounts of memory as people write them: 256M, 1G, 1.5GiB. Units are powers of 1024.

import ArgumentParser

/// A number of bytes.
struct ByteSize: Equatable, ExpressibleByArgument, CustomStringConvertible {
    var bytes: UInt64

    init(bytes: UInt64) { self.bytes = bytes }

    private static let units: [(letter: Character, shift: UInt64)] = [("K", 10), ("M", 20), ("G", 30), ("T", 40)]

    /// A number with an optional fraction, and a unit K, M, G or T, in either case, with or without `B` or `iB` behind.
    init?(argument: String) {
        let text = argument.uppercased()
        guard let unit = Self.units.first(where: { unit in text.contains(unit.letter) }),
            let position = text.firstIndex(of: unit.letter),
            ["", "B", "IB"].contains(text[text.index(after: position)...])
        else { return nil }
        let parts = text[..<position].split(separator: ".", omittingEmptySubsequences: false)
        guard (1...2).contains(parts.count), let whole = Self.number(parts[0]), whole < 1 << 20 else { return nil }
        var total = whole << unit.shift
        if parts.count == 2 {
            guard parts[1].utf8.count <= 6, let fraction = Self.number(parts[1]) else { return nil }
            var scale: UInt64 = 1
            for _ in parts[1].utf8 { scale *= 10 }
            let scaled = fraction << unit.shift
            guard scaled.isMultiple(of: scale) else { return nil }
            total += scaled / scale
        }
        bytes = total
    }

    private static func number(_ text: Substring) -> UInt64? {
        guard !text.isEmpty, text.utf8.allSatisfy({ (0x30...0x39).contains($0) }) else { return nil }
        return UInt64(text)
    }

    /// With the largest unit that leaves a whole number: `256M`.
    var defaultValueDescription: String {
        for unit in Self.units.reversed() where bytes > 0 && bytes.isMultiple(of: 1 << unit.shift) {
            return "\(bytes >> unit.shift)\(unit.letter)"
        }
        return "\(bytes)"
    }

    /// For people: `256 MiB`, `24.1 MiB`, `17 bytes`.
    var description: String {
        guard let unit = Self.units.last(where: { bytes >= 1 << $0.shift }) else {
            return bytes == 1 ? "1 byte" : "\(bytes) bytes"
        }
        // Rounded to tenths without overflow: bytes are below 2^64, the unit at least 2^10.
        let tenths = (bytes >> (unit.shift - 5)) * 10 + 16
        let whole = tenths >> 5
        let digit = whole % 10
        return "\(whole / 10)\(digit == 0 ? "" : ".\(digit)") \(unit.letter)iB"
    }
}
