// SPDX-License-Identifier: Apache-2.0
// Times as the manifest has them: RFC 3339 in UTC, whole seconds, `2026-01-31T23:59:59Z`.

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

enum UTCTime {
    /// The host's wall clock.
    static func now() -> String { text(of: Int(time(nil))) }

    /// `seconds` since 1970-01-01T00:00:00Z; the years 1970 to 9999.
    static func text(of seconds: Int) -> String {
        let second = seconds % 86_400
        var day = seconds / 86_400
        var year = 1970
        while day >= days(in: year) {
            day -= days(in: year)
            year += 1
        }
        var month = 1
        while day >= days(in: month, of: year) {
            day -= days(in: month, of: year)
            month += 1
        }
        return digits(year, 4) + "-" + digits(month, 2) + "-" + digits(day + 1, 2)
            + "T" + digits(second / 3600, 2) + ":" + digits(second / 60 % 60, 2) + ":" + digits(second % 60, 2) + "Z"
    }

    /// Whether `text` has this form; the date itself may be one that no calendar has.
    static func isValid(_ text: String) -> Bool {
        let form = Array("dddd-dd-ddTdd:dd:ddZ".utf8)
        let bytes = Array(text.utf8)
        guard bytes.count == form.count else { return false }
        return zip(bytes, form).allSatisfy { byte, wanted in
            wanted == UInt8(ascii: "d") ? (0x30...0x39).contains(byte) : byte == wanted
        }
    }

    private static func isLeap(_ year: Int) -> Bool {
        year.isMultiple(of: 4) && (!year.isMultiple(of: 100) || year.isMultiple(of: 400))
    }

    private static func days(in year: Int) -> Int { isLeap(year) ? 366 : 365 }

    private static func days(in month: Int, of year: Int) -> Int {
        switch month {
        case 2: isLeap(year) ? 29 : 28
        case 4, 6, 9, 11: 30
        default: 31
        }
    }

    private static func digits(_ value: Int, _ count: Int) -> String {
        let text = String(value)
        return String(repeating: "0", count: max(0, count - text.count)) + text
    }
}
