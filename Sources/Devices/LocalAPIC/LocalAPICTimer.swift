// SPDX-License-Identifier: Apache-2.0
// The timer of the local APIC: one-shot, periodic and TSC-deadline. Spec: Intel SDM volume 3, §11.5.4.

internal import Hypervisor
internal import X86

/// Counts guest nanoseconds: the bus clock is 1 GHz.
struct LocalAPICTimer {
    /// A periodic timer fires at most this often (nanoseconds), so that a guest cannot make the host spin.
    static let shortestPeriod: UInt64 = 20_000
    static let divideWritable: UInt32 = 0xb

    private(set) var mode = LocalAPIC.TimerMode.oneShot
    private(set) var initialCount: UInt32 = 0
    private(set) var divideConfiguration: UInt32 = 0
    /// Guest nanoseconds at which the running count began.
    private(set) var start: UInt64?
    private(set) var tscDeadline: UInt64 = 0
    /// Guest nanoseconds at which the time stamp counter reaches `tscDeadline`.
    private var tscInstant: UInt64 = 0

    init() {}

    /// - Parameter instant: guest nanoseconds at which the time stamp counter reaches `deadline`.
    init(
        mode: LocalAPIC.TimerMode, initialCount: UInt32, divideConfiguration: UInt32, start: UInt64?, deadline: UInt64,
        instant: UInt64
    ) {
        self.mode = mode
        self.initialCount = initialCount
        self.divideConfiguration = divideConfiguration
        self.start = start
        tscDeadline = deadline
        tscInstant = instant
    }

    /// Nanoseconds a count.
    private var divisor: UInt64 { LocalAPICState.timerDivisor(divideConfiguration) }

    private var period: UInt64 { UInt64(initialCount) * divisor }

    /// Guest nanoseconds of the next expiry; nil when nothing is armed.
    var deadline: UInt64? {
        switch mode {
        case .oneShot: start.map { $0 &+ period }
        case .periodic: start.map { $0 &+ max(period, Self.shortestPeriod) }
        case .tscDeadline: tscDeadline == 0 ? nil : tscInstant
        case .reserved: nil
        }
    }

    func currentCount(at now: UInt64) -> UInt32 {
        guard let start, mode != .tscDeadline, initialCount != 0 else { return 0 }
        let elapsed = (now >= start ? now - start : 0) / divisor
        let initial = UInt64(initialCount)
        if mode == .periodic { return UInt32(initial - elapsed % initial) }
        return elapsed < initial ? UInt32(initial - elapsed) : 0
    }

    /// Moves on to `now`. Returns whether the timer expired.
    mutating func advance(to now: UInt64) -> Bool {
        guard let due = deadline, now >= due else { return false }
        switch mode {
        case .oneShot: start = nil
        case .periodic: start = now - (now - (start ?? now)) % max(period, 1)
        case .tscDeadline: tscDeadline = 0
        case .reserved: return false
        }
        return true
    }

    mutating func setInitialCount(_ count: UInt32, now: UInt64) {
        // In TSC-deadline mode the register does nothing.
        guard mode != .tscDeadline else { return }
        initialCount = count
        start = count == 0 ? nil : now
    }

    /// - Parameter instant: guest nanoseconds at which the time stamp counter reaches `value`.
    mutating func setDeadline(_ value: UInt64, instant: UInt64) {
        // In the other modes the register does nothing and reads as 0.
        if mode == .tscDeadline { (tscDeadline, tscInstant) = (value, instant) }
    }

    mutating func setMode(_ new: LocalAPIC.TimerMode) {
        guard new != mode else { return }
        // Going to or from TSC-deadline disarms.
        if new == .tscDeadline || mode == .tscDeadline { (start, tscDeadline) = (nil, 0) }
        mode = new
    }

    /// Goes on with the current count at another rate.
    mutating func setDivideConfiguration(_ value: UInt32, now: UInt64) {
        let remaining = UInt64(currentCount(at: now))
        divideConfiguration = value & Self.divideWritable
        guard start != nil else { return }
        let passed = (UInt64(initialCount) - remaining) * divisor
        start = now >= passed ? now - passed : 0
    }
}
