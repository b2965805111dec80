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
