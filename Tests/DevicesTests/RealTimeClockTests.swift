// SPDX-License-Identifier: Apache-2.0
// The real-time clock as an operating system reads and sets it. Spec: MC146818A data sheet.

import Bus
import Hypervisor
import Testing

@testable import Devices

struct RealTimeClockTests {
    private let lines = RecordingLines()
    private let clock: GuestClock
    private let rtc: RealTimeClock

    init() throws {
        // Thursday, 2024-02-29, 23:59:58 UTC.
        clock = try GuestClock.standing(at: 1_709_251_198)
        rtc = RealTimeClock(clock: clock, interrupt: InterruptLine(lines, 8))
    }

    private func read(_ cell: UInt8) -> UInt8 {
        rtc[0] = cell
        return rtc[1]
    }

    private func write(_ cell: UInt8, _ value: UInt8) {
        rtc[0] = cell
        rtc[1] = value
    }

    /// Century, year, month, day, weekday, hour, minute, second.
    private var time: [UInt8] { [50, 9, 8, 7, 6, 4, 2, 0].map(read) }

    @Test func `the time is the wall clock in UTC and decimal digits`() {
        #expect(time == [0x20, 0x24, 0x02, 0x29, 0x05, 0x23, 0x59, 0x58])
        clock.pass(2_000_000_000)
        #expect(time == [0x20, 0x24, 0x03, 0x01, 0x06, 0x00, 0x00, 0x00])
    }

    @Test(
        arguments: [
            (0, [0x19, 0x70, 0x01, 0x01, 0x05]), (951_782_400, [0x20, 0x00, 0x02, 0x29, 0x03]),
            (4_107_542_400, [0x21, 0x00, 0x03, 0x01, 0x02]), (1_735_689_599, [0x20, 0x24, 0x12, 0x31, 0x03]),
        ] as [(UInt64, [UInt8])])
    func `dates are right around leap days and centuries`(second: UInt64, date: [UInt8]) throws {
        let clock = try GuestClock.standing(at: second)
        let rtc = RealTimeClock(clock: clock, interrupt: InterruptLine(lines, 8))
        let shown = [50, 9, 8, 7, 6].map { (cell: UInt8) -> UInt8 in
            rtc[0] = cell
            return rtc[1]
        }
        #expect(shown == date)
    }

    @Test func `binary and twelve-hour modes are honoured`() {
        write(11, 0x06)
        #expect(time == [20, 24, 2, 29, 5, 23, 59, 58])
        write(11, 0x00)
        #expect(read(4) == 0x91)
        clock.pass(3_600_000_000_000)
        #expect(read(4) == 0x12)
    }

    @Test func `a time that is set goes on from there`() {
        write(11, 0x82)
        for (cell, value) in [(50, 0x19), (9, 0x99), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59), (0, 0x59)] {
            write(UInt8(cell), UInt8(value))
        }
        clock.pass(5_000_000_000)
        #expect(time == [0x19, 0x99, 0x12, 0x31, 0x05, 0x23, 0x59, 0x59])
        write(11, 0x02)
        clock.pass(1_000_000_000)
        #expect(time == [0x20, 0x00, 0x01, 0x01, 0x07, 0x00, 0x00, 0x00])
    }

    @Test func `an impossible time is taken as the nearest possible one`() {
        write(11, 0x82)
        for cell: UInt8 in [50, 9, 8, 7, 4, 2, 0] { write(cell, 0xff) }
        write(11, 0x02)
        #expect(time == [0x99, 0x99, 0x12, 0x31, 0x06, 0x23, 0x59, 0x59])
    }

    @Test func `an update is announced just before the second changes`() {
        #expect(read(10) == 0x26)
        clock.pass(999_900_000)
        #expect(read(10) == 0xa6)
        clock.pass(100_000)
        #expect(read(10) == 0x26)
    }

    @Test func `CMOS RAM keeps what is written and status D says that power is good`() {
        write(0x40, 0xa5)
        #expect(read(0x40) == 0xa5)
        #expect(read(13) == 0x80)
    }

    @Test func `the update interrupt comes at the next second and is cleared by reading status C`() throws {
        #expect(rtc.nextDeadline == nil)
        clock.pass(300_000_000)
        write(11, 0x12)
        let due = try #require(rtc.nextDeadline)
        #expect(due - clock.now == 700_000_000)
        clock.pass(700_000_000)
        rtc.expire(now: clock.now)
        #expect(lines.asserted == [8])
        #expect(read(12) & 0x90 == 0x90)
        #expect(lines.asserted.isEmpty)
        #expect(read(12) == 0)
        #expect(rtc.nextDeadline == clock.now + 1_000_000_000)
    }

    @Test func `the alarm comes when hour, minute and second match`() {
        write(5, 0xc0)
        write(3, 0x00)
        write(1, 0x05)
        write(11, 0x22)
        clock.pass(6_000_000_000)
        rtc.expire(now: clock.now)
        #expect(lines.asserted.isEmpty)
        clock.pass(1_000_000_000)
        rtc.expire(now: clock.now)
        #expect(lines.asserted == [8])
        #expect(read(12) & 0xb0 == 0xb0)
    }

    @Test func `an alarm is not missed over a long sleep`() {
        write(5, 0x12)
        write(3, 0x34)
        write(1, 0x56)
        write(11, 0x22)
        clock.pass(30 * 86_400 * 1_000_000_000)
        rtc.expire(now: clock.now)
        #expect(read(12) & 0x20 == 0x20)
    }

    @Test func `the periodic interrupt has the rate of status A`() throws {
        write(11, 0x42)
        _ = read(12)
        let due = try #require(rtc.nextDeadline)
        #expect(due - clock.now <= 976_563)
        clock.pass(due - clock.now)
        rtc.expire(now: clock.now)
        #expect(lines.asserted == [8])
        #expect(read(12) == 0xc0)
        clock.pass(500_000)
        #expect(read(12) == 0)
        write(10, 0x20)
        #expect(rtc.nextDeadline == nil)
    }

    @Test func `reset keeps time and RAM and disables interrupts`() {
        write(0x40, 0xa5)
        write(11, 0x72)
        rtc.reset()
        #expect(read(11) == 0x02)
        #expect(read(0x40) == 0xa5)
    }
}
