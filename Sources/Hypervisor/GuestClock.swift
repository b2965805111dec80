// SPDX-License-Identifier: Apache-2.0
// The guest's time: nanoseconds that stop while the machine is paused, and the wall clock they stand for.

public import Snapshot

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// Guest time in nanoseconds since power-on, and the time stamp counter and wall clock derived from it.
///
/// The guest's TSC runs at exactly 1 GHz on backends that emulate it, so ticks are nanoseconds.
public final class GuestClock: Snapshottable {
    public struct State: Codable, Equatable, Sendable {
        /// Guest nanoseconds when saved.
        public var nanoseconds: UInt64
        /// Wall clock when saved: nanoseconds since 1970-01-01T00:00:00Z.
        public var wallClock: UInt64

        public init(nanoseconds: UInt64, wallClock: UInt64) {
            self.nanoseconds = nanoseconds
            self.wallClock = wallClock
        }
    }

    /// Guest TSC ticks a second.
    public static let tscFrequency: UInt64 = 1_000_000_000

    /// Added to the host's monotonic clock; wraps.
    private var offset: UInt64
    /// Added to guest nanoseconds to get nanoseconds since 1970; wraps.
    private var wallOffset: UInt64
    private var pausedAt: UInt64?

    public init() {
        offset = 0 &- Self.hostMonotonic()
        wallOffset = Self.hostRealtime()
    }

    /// Guest nanoseconds now.
    public var now: UInt64 { pausedAt ?? (Self.hostMonotonic() &+ offset) }

    /// Nanoseconds since 1970-01-01T00:00:00Z now.
    public var wallClock: UInt64 { now &+ wallOffset }

    /// Stops guest time. Idempotent.
    public func pause() { pausedAt = now }

    /// Lets guest time go on from where it stopped. Idempotent.
    public func resume() {
        guard let paused = pausedAt else { return }
        offset = paused &- Self.hostMonotonic()
        pausedAt = nil
    }

    /// Moves guest time forward so that the wall clock reads `target`; a `target` in the guest's past only moves the
    /// wall clock, because guest time never goes back.
    public func advance(toWallClock target: UInt64) {
        let current = wallClock
        if target >= current {
            if let paused = pausedAt { pausedAt = paused &+ (target - current) } else { offset &+= target - current }
        } else {
            wallOffset &-= current - target
        }
    }

    public func saveState() -> State { State(nanoseconds: now, wallClock: wallClock) }

    /// The clock is paused afterwards, at the saved instant.
    public func restoreState(_ state: State) throws(SnapshotError) {
        try require(
            state.nanoseconds < 1 << 62, layer: "clock", field: "nanoseconds", value: state.nanoseconds,
            allowed: "below 2^62")
        try require(
            state.wallClock < 1 << 62, layer: "clock", field: "wallClock", value: state.wallClock,
            allowed: "below 2^62")
        pausedAt = state.nanoseconds
        wallOffset = state.wallClock &- state.nanoseconds
    }

    /// The host's monotonic clock in nanoseconds.
    public static func hostMonotonic() -> UInt64 { read(CLOCK_MONOTONIC) }

    /// The host's wall clock: nanoseconds since 1970-01-01T00:00:00Z.
    public static func hostRealtime() -> UInt64 { read(CLOCK_REALTIME) }

    private static func read(_ clock: clockid_t) -> UInt64 {
        var time = timespec()
        // SAFETY: `time` outlives the call.
        unsafe clock_gettime(clock, &time)
        return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
    }
}

/// A device with a timer. The machine calls `expire` at or after `nextDeadline`, holding the device lock.
public protocol TimedDevice: AnyObject {
    /// Guest nanoseconds of the next event; nil when nothing is armed.
    var nextDeadline: UInt64? { get }
    /// Handles everything due at guest time `now`.
    func expire(now: UInt64)
}
