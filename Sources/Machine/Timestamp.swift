// SPDX-License-Identifier: Apache-2.0
// Instants as text. RFC 3339, with the civil calendar's arithmetic done here: no time zone data is needed.

/// A point in time: nanoseconds since 1970-01-01T00:00:00Z.
public struct Timestamp: Equatable, Sendable {
    public var nanoseconds: UInt64

    public init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }

    /// Parses `2026-01-31T12:00:00Z`, `2026-01-31T12:00:00.5+02:00` and the like, from 1970 to 2105; nil for others.
    public init?(_ text: String) {
        var rest = Array(text.utf8)[...]

        func number(_ digits: Int) -> Int? {
            guard rest.count >= digits else { return nil }
            var value = 0
            for byte in rest.prefix(digits) {
                guard (0x30...0x39).contains(byte) else { return nil }
                value = value * 10 + Int(byte - 0x30)
            }
            rest = rest.dropFirst(digits)
            return value
        }
        func skip(_ allowed: String) -> UInt8? {
            guard let first = rest.first, allowed.utf8.contains(first) else { return nil }
            rest = rest.dropFirst()
            return first
        }

        guard let year = number(4), skip("-") != nil, let month = number(2), skip("-") != nil, let day = number(2),
            skip("Tt ") != nil, let hour = number(2), skip(":") != nil, let minute = number(2), skip(":") != nil,
            let second = number(2)
        else { return nil }
        var fraction: UInt64 = 0
        if skip(".") != nil {
            var scale: UInt64 = 100_000_000
            var digits = 0
            while let digit = number(1) {
                fraction += UInt64(digit) * scale
                scale /= 10
                digits += 1
            }
            guard digits > 0 else { return nil }
        }
        guard let zone = skip("Zz+-") else { return nil }
        var offset = 0
        if zone == UInt8(ascii: "+") || zone == UInt8(ascii: "-") {
            guard let hours = number(2), skip(":") != nil, let minutes = number(2), hours < 24, minutes < 60 else {
                return nil
            }
            offset = (hours * 60 + minutes) * (zone == UInt8(ascii: "-") ? -60 : 60)
        }
        guard rest.isEmpty, (1970...2105).contains(year), (1...12).contains(month), day >= 1,
            day <= Self.days(inMonth: month, of: year), hour < 24, minute < 60, second <= 60
        else { return nil }
        let seconds = Self.days(before: year, month) + day - 1
        let total = seconds * 86_400 + hour * 3600 + minute * 60 + second - offset
        guard total >= 0 else { return nil }
        nanoseconds = UInt64(total) * 1_000_000_000 + fraction
    }

    private static func isLeap(_ year: Int) -> Bool {
        year.isMultiple(of: 4) && (!year.isMultiple(of: 100) || year.isMultiple(of: 400))
    }

    private static func days(inMonth month: Int, of year: Int) -> Int {
        switch month {
        case 2: isLeap(year) ? 29 : 28
        case 4, 6, 9, 11: 30
        default: 31
        }
    }

    /// Days from 1970-01-01 to the first of the month.
    private static func days(before year: Int, _ month: Int) -> Int {
        let years = (1970..<year).reduce(0) { $0 + (isLeap($1) ? 366 : 365) }
        return (1..<month).reduce(years) { $0 + days(inMonth: $1, of: year) }
    }
}
