// SPDX-License-Identifier: Apache-2.0
// Guest time: it stands when it is paused, never goes back, and the wall clock follows it.

import Hypervisor
import Snapshot
import Testing

struct GuestClockTests {
    private func paused(at nanoseconds: UInt64, wallClock: UInt64) throws -> GuestClock {
        let clock = GuestClock()
        clock.pause()
        try clock.restoreState(
            GuestClock.State(nanoseconds: nanoseconds, wallClock: wallClock, timeStampCounter: nanoseconds))
        return clock
    }

    @Test func `save, restore elsewhere, equal`() throws {
        let clock = try paused(at: 5_000_000_000, wallClock: 1_800_000_000_000_000_000)
        let state = clock.saveState()
        #expect(
            state
                == GuestClock.State(
                    nanoseconds: 5_000_000_000, wallClock: 1_800_000_000_000_000_000,
                    timeStampCounter: 5_000_000_000))
        let other = GuestClock()
        other.pause()
        try other.restoreState(state)
        #expect(other.saveState() == state)
    }

    @Test func `a paused clock stands, and goes on from there`() throws {
        let clock = try paused(at: 1_000_000, wallClock: 2_000_000)
        #expect(clock.now == 1_000_000)
        #expect(clock.now == 1_000_000)
        clock.resume()
        let first = clock.now
        let second = clock.now
        #expect(first >= 1_000_000 && second >= first)
        clock.pause()
        let stopped = clock.now
        #expect(clock.now == stopped && stopped >= second)
    }

    @Test func `a wall clock in the future moves guest time with it`() throws {
        let clock = try paused(at: 100, wallClock: 1000)
        clock.advance(toWallClock: 5000)
        #expect(clock.now == 4100)
        #expect(clock.wallClock == 5000)
    }

    @Test func `a wall clock in the past leaves guest time alone`() throws {
        let clock = try paused(at: 100, wallClock: 1000)
        clock.advance(toWallClock: 10)
        #expect(clock.now == 100)
        #expect(clock.wallClock == 10)
    }

    @Test func `a time stamp counter of another frequency counts as many ticks a second`() throws {
        let clock = GuestClock()
        clock.pause()
        clock.setFrequency(2_600_000_000)
        clock.set(nanoseconds: 1000, timeStampCounter: 7)
        #expect(clock.timeStampCounter(at: 1_000_001_000) == 2_600_000_007)
        #expect(clock.nanoseconds(ofTimeStamp: 2_600_000_007) == 1_000_001_000)
        // Not before the tick is there.
        #expect(clock.timeStampCounter(at: clock.nanoseconds(ofTimeStamp: 1_234_567)) >= 1_234_567)
        let other = GuestClock()
        try other.restoreState(clock.saveState())
        #expect(other.timeStampCounter(at: 1_000_001_000) == 2_600_000_007)
    }

    @Test func `a counter that no guest can have is refused`() throws {
        let clock = try paused(at: 100, wallClock: 1000)
        for frequency in [0, 1, .max] as [UInt64] {
            #expect(throws: SnapshotError.self) {
                try clock.restoreState(
                    GuestClock.State(
                        nanoseconds: 1, wallClock: 1, timeStampCounter: .max, tscFrequency: frequency))
            }
        }
        // Any count is possible, and no deadline overflows.
        try clock.restoreState(
            GuestClock.State(
                nanoseconds: 1, wallClock: 1, timeStampCounter: .max, tscFrequency: 20_000_000_000))
        #expect(clock.nanoseconds(ofTimeStamp: 0) == 1)
        _ = clock.timeStampCounter(at: .max)
    }

    @Test func `a time that the backend keeps leaves the wall clock alone`() throws {
        let clock = try paused(at: 100, wallClock: 1000)
        clock.set(nanoseconds: 500, timeStampCounter: 20)
        #expect(clock.now == 500 && clock.wallClock == 1000 && clock.timeStampCounter == 20)
    }

    private static let hostile: [(UInt64, UInt64)] = [(.max, 0), (1 << 62, 0), (0, .max), (0, 1 << 62)]

    @Test(arguments: hostile)
    func `a hostile state is refused and changes nothing`(nanoseconds: UInt64, wallClock: UInt64) throws {
        let clock = try paused(at: 100, wallClock: 1000)
        #expect(throws: SnapshotError.self) {
            try clock.restoreState(
                GuestClock.State(nanoseconds: nanoseconds, wallClock: wallClock, timeStampCounter: nanoseconds))
        }
        #expect(clock.saveState() == GuestClock.State(nanoseconds: 100, wallClock: 1000, timeStampCounter: 100))
    }
}
