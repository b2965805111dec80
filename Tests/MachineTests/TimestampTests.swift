// SPDX-License-Identifier: Apache-2.0
// Instants of `--reset-clock`.

import Machine
import Testing

struct TimestampTests {
    @Test(arguments: [
        ("1970-01-01T00:00:00Z", UInt64(0)),
        ("2000-02-29T12:34:56Z", 951_827_696_000_000_000),
        ("2026-01-31T12:00:00Z", 1_769_860_800_000_000_000),
        ("2026-01-31T12:00:00+02:00", 1_769_853_600_000_000_000),
        ("2026-01-31t12:00:00.25-00:30", 1_769_862_600_250_000_000),
        ("2026-01-31 12:00:00.123456789z", 1_769_860_800_123_456_789),
        ("2100-03-01T00:00:00Z", 4_107_542_400_000_000_000),
    ])
    func `RFC 3339 times are understood`(_ text: String, _ nanoseconds: UInt64) {
        #expect(Timestamp(text)?.nanoseconds == nanoseconds)
    }

    @Test(arguments: [
        "", "now", "2026-01-31", "2026-01-31T12:00:00", "2026-02-29T12:00:00Z", "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z", "2026-01-31T24:00:00Z", "2026-01-31T12:60:00Z", "2026-01-31T12:00:00.Z",
        "2026-01-31T12:00:00Zx", "1969-12-31T23:59:59Z", "1970-01-01T00:00:00+01:00", "2026-01-31T12:00:00+99:00",
        "２０２６-01-31T12:00:00Z",
    ])
    func `what is no time is refused`(_ text: String) {
        #expect(Timestamp(text) == nil)
    }
}
