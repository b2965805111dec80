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
/// The guest's TSC runs at 1 GHz, so that ticks are nanoseconds, unless the machine was first started on a host whose
/// processors cannot scale theirs.
public final class GuestClock: Snapshottable {
    public struct State: Codable, Equatable, Sendable {
        /// Guest nanoseconds when saved.
        public var nanoseconds: UInt64
        /// Wall clock when saved: nanoseconds since 1970-01-01T00:00:00Z.
        public var wallClock: UInt64
        /// Time stamp counter when saved.
        public var timeStampCounter: UInt64
        /// Ticks a second of the time stamp counter as the guest came to know it.
        public var tscFrequency: UInt64

        public init(
            nanoseconds: UInt64, wallClock: UInt64, timeStampCounter: UInt64,
            tscFrequency: UInt64 = GuestClock.standardFrequency
        ) {
            self.nanoseconds = nanoseconds
            self.wallClock = wallClock
            self.timeStampCounter = timeStampCounter
            self.tscFrequency = tscFrequency
        }
    }

    /// Guest TSC ticks a second, wherever the backend can have it so.
    public static let standardFrequency: UInt64 = 1_000_000_000
    private static let frequencies: ClosedRange<UInt64> = 100_000_000...20_000_000_000

    /// Guest TSC ticks a second of this machine.
    public private(set) var tscFrequency = GuestClock.standardFrequency
    /// Guest nanoseconds at which the TSC was `anchorTicks`.
    private var anchor: UInt64 = 0
    private var anchorTicks: UInt64 = 0
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

    /// The guest's time stamp counter now.
    public var timeStampCounter: UInt64 { timeStampCounter(at: now) }

    /// The guest's time stamp counter at `instant`, guest nanoseconds.
    public func timeStampCounter(at instant: UInt64) -> UInt64 {
        let passed = instant &- anchor
        guard tscFrequency != Self.standardFrequency else { return anchorTicks &+ passed }
        let product = passed.multipliedFullWidth(by: tscFrequency)
        guard product.high < Self.standardFrequency else { return .max }
        return anchorTicks &+ Self.standardFrequency.dividingFullWidth(product).quotient
    }

    /// Guest nanoseconds at which the time stamp counter reaches `ticks`; the present instant or earlier when it has.
    public func nanoseconds(ofTimeStamp ticks: UInt64) -> UInt64 {
        guard ticks >= anchorTicks else { return anchor }
        let left = ticks - anchorTicks
        let passed: UInt64
        if tscFrequency == Self.standardFrequency {
            passed = left
        } else {
            let product = left.multipliedFullWidth(by: Self.standardFrequency)
            guard product.high < tscFrequency else { return .max }
            let (quotient, remainder) = tscFrequency.dividingFullWidth(product)
            passed = remainder == 0 ? quotient : quotient &+ 1
        }
        let (sum, overflow) = anchor.addingReportingOverflow(passed)
        return overflow ? .max : sum
    }

    /// The backend keeps the guest's time: it is `nanoseconds` now, with the time stamp counter at `timeStampCounter`.
    public func set(nanoseconds: UInt64, timeStampCounter: UInt64) {
        let shift = nanoseconds &- now
        if let paused = pausedAt { pausedAt = paused &+ shift } else { offset &+= shift }
        wallOffset &-= shift
        anchor = nanoseconds
        anchorTicks = timeStampCounter
    }

    /// The time stamp counter of a machine that has not run yet has another frequency, in ticks a second.
    public func setFrequency(_ frequency: UInt64) {
        anchorTicks = timeStampCounter
        anchor = now
        tscFrequency = frequency
    }

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

    public func saveState() -> State {
        let now = now
        return State(
            nanoseconds: now, wallClock: now &+ wallOffset, timeStampCounter: timeStampCounter(at: now),
            tscFrequency: tscFrequency)
    }

    /// The clock is paused afterwards, at the saved instant.
    public func restoreState(_ state: State) throws(SnapshotError) {
        try require(
            state.nanoseconds < 1 << 62, layer: "clock", field: "nanoseconds", value: state.nanoseconds,
            allowed: "below 2^62")
        try require(
            state.wallClock < 1 << 62, layer: "clock", field: "wallClock", value: state.wallClock,
            allowed: "below 2^62")
        try require(
            Self.frequencies.contains(state.tscFrequency), layer: "clock", field: "tscFrequency",
            value: state.tscFrequency, allowed: "\(Self.frequencies.lowerBound) to \(Self.frequencies.upperBound)")
        pausedAt = state.nanoseconds
        anchor = state.nanoseconds
        anchorTicks = state.timeStampCounter
        tscFrequency = state.tscFrequency
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
