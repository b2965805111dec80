// SPDX-License-Identifier: Apache-2.0
// The interval timer as an operating system programs it. Spec: Intel 8254 data sheet.

import Bus
import Hypervisor
import Testing

@testable import Devices

struct Timer8254Tests {
    private let lines = RecordingLines()
    private let clock: GuestClock
    private let timer: Timer8254

    init() throws {
        clock = try GuestClock.standing()
        timer = Timer8254(clock: clock, interrupt: InterruptLine(lines, 0))
    }

    /// Lets `ticks` of 1.193182 MHz pass.
    private func pass(ticks: UInt64) { clock.pass(Timer8254.nanoseconds(ticks)) }

    private func program(_ channel: UInt64, mode: UInt8, count: UInt16) {
        timer[0x43] = UInt8(channel) << 6 | 0x30 | mode << 1
        timer[0x40 + channel] = UInt8(truncatingIfNeeded: count)
        timer[0x40 + channel] = UInt8(count >> 8)
    }

    private func latchedCount(_ channel: UInt64) -> UInt16 {
        timer[0x43] = UInt8(channel) << 6
        let low = UInt16(timer[0x40 + channel])
        return UInt16(timer[0x40 + channel]) << 8 | low
    }

    @Test func `a second has 1193182 ticks`() {
        #expect(Timer8254.ticks(1_000_000_000) == 1_193_182)
        #expect(Timer8254.nanoseconds(1_193_182) == 1_000_000_000)
    }

    @Test func `a count goes down with guest time`() {
        program(0, mode: 2, count: 1000)
        #expect(latchedCount(0) == 1000)
        pass(ticks: 400)
        #expect(latchedCount(0) == 600)
        pass(ticks: 700)
        #expect(latchedCount(0) == 900)
    }

    @Test func `a latched count stays until it is read`() {
        program(0, mode: 2, count: 1000)
        timer[0x43] = 0x00
        pass(ticks: 100)
        timer[0x43] = 0x00
        #expect(timer[0x40] == UInt8(1000 & 0xff))
        #expect(timer[0x40] == UInt8(1000 >> 8))
        #expect(timer[0x40] == UInt8(900 & 0xff))
    }

    @Test func `one-byte access writes and reads one byte`() {
        timer[0x43] = 0x14
        timer[0x40] = 200
        pass(ticks: 50)
        #expect(timer[0x40] == 150)
        #expect(timer[0x40] == 150)
    }

    @Test func `a rate generator interrupts every period`() throws {
        program(0, mode: 2, count: 11932)
        let first = try #require(timer.nextDeadline)
        #expect(first == clock.now + Timer8254.nanoseconds(11932))
        let before = lines.edges.count
        timer.expire(now: first - 1)
        #expect(lines.edges.count == before)
        clock.pass(first - clock.now)
        timer.expire(now: first)
        #expect(lines.edges.count == before + 1)
        let second = try #require(timer.nextDeadline)
        #expect((9_999_000...10_001_000).contains(second - first))
        // After a long sleep there is one interrupt, not one for each missed period.
        clock.pass(60_000_000_000)
        timer.expire(now: clock.now)
        #expect(lines.edges.count == before + 2)
        #expect(try #require(timer.nextDeadline) > clock.now)
    }

    @Test func `a terminal count interrupts once and the output stays`() throws {
        program(0, mode: 0, count: 100)
        #expect(lines.asserted.isEmpty)
        let due = try #require(timer.nextDeadline)
        clock.pass(due - clock.now)
        timer.expire(now: due)
        #expect(lines.asserted == [0])
        #expect(timer.nextDeadline == nil)
    }

    @Test func `a guest cannot ask for interrupts faster than the host can give`() throws {
        program(0, mode: 2, count: 2)
        let due = try #require(timer.nextDeadline)
        clock.pass(due - clock.now)
        timer.expire(now: due)
        #expect(try #require(timer.nextDeadline) >= due + 20_000)
    }

    @Test func `the speaker port gates channel 2 and shows its output`() {
        timer[0x61] = 0
        program(2, mode: 0, count: 1000)
        pass(ticks: 2000)
        #expect(timer[0x61] & 0x20 == 0)
        #expect(latchedCount(2) == 1000)
        timer[0x61] = 1
        pass(ticks: 999)
        #expect(timer[0x61] & 0x21 == 0x01)
        pass(ticks: 2)
        #expect(timer[0x61] & 0x21 == 0x21)
    }

    @Test func `a hardware one-shot starts when the gate rises`() {
        timer[0x61] = 0
        program(2, mode: 1, count: 100)
        #expect(timer[0x61] & 0x20 == 0x20)
        pass(ticks: 200)
        timer[0x61] = 1
        #expect(timer[0x61] & 0x20 == 0)
        pass(ticks: 101)
        #expect(timer[0x61] & 0x20 == 0x20)
    }

    @Test func `a square wave is high for half of its period`() {
        timer[0x61] = 1
        program(2, mode: 3, count: 1000)
        pass(ticks: 250)
        #expect(timer[0x61] & 0x20 == 0x20)
        #expect(latchedCount(2) == 500)
        pass(ticks: 500)
        #expect(timer[0x61] & 0x20 == 0)
    }

    @Test func `read-back gives status before count`() {
        timer[0x43] = 0x34
        timer[0x43] = 0xe2
        // Two-byte access, mode 2, no count yet.
        #expect(timer[0x40] == 0xf4)
        program(0, mode: 2, count: 500)
        timer[0x43] = 0xc2
        #expect(timer[0x40] & 0x7f == 0x34)
        #expect(timer[0x40] == UInt8(500 & 0xff))
        #expect(timer[0x40] == UInt8(500 >> 8))
    }

    @Test func `a decimal counter counts in decimal`() {
        timer[0x43] = 0x35
        timer[0x40] = 0x00
        timer[0x40] = 0x10
        pass(ticks: 1)
        #expect(latchedCount(0) == 0x0999)
    }
}
