// SPDX-License-Identifier: Apache-2.0
// The interval timer of a PC and the speaker port that gates its channel 2. Spec: Intel 8254 data sheet.

public import Bus
public import Hypervisor
public import Snapshot

/// A three-channel 8254 whose counts follow from guest time. Offsets are port numbers.
public final class Timer8254: ByteDevice, PlatformDevice, TimedDevice {
    // MARK: Register map

    private enum Register: UInt64 {
        case channel0 = 0x40
        case channel1 = 0x41
        case channel2 = 0x42
        case control = 0x43
        case speaker = 0x61  // NMI status and control on a PC
    }

    private enum Control {
        static let readBack: UInt8 = 3
        static let keepCount: UInt8 = 0x20  // in a read-back command
        static let keepStatus: UInt8 = 0x10
        static let binaryCodedDecimal: UInt8 = 0x01
    }

    private struct Speaker: OptionSet {
        var rawValue: UInt8
        static let gate = Speaker(rawValue: 1 << 0)
        static let data = Speaker(rawValue: 1 << 1)
        static let refresh = Speaker(rawValue: 1 << 4)
        static let output = Speaker(rawValue: 1 << 5)
        static let writable: UInt8 = 0x0f
    }

    private enum Status {
        static let output: UInt8 = 0x80
        static let nullCount: UInt8 = 0x40
    }

    /// Ticks a second.
    static let frequency: UInt64 = 1_193_182
    /// Nanoseconds between toggles of the DRAM refresh bit.
    private static let refreshPeriod: UInt64 = 15_085
    /// Interrupts closer than this (nanoseconds) come later: a guest cannot make the host spin.
    private static let shortestPeriod: UInt64 = 20_000

    // MARK: State

    public enum Access: UInt8, Codable, Sendable {
        case low = 1
        case high = 2
        case both = 3
    }

    public enum Mode: UInt8, Codable, Sendable {
        case interruptOnTerminalCount = 0
        case oneShot = 1
        case rateGenerator = 2
        case squareWave = 3
        case softwareStrobe = 4
        case hardwareStrobe = 5

        var isPeriodic: Bool { self == .rateGenerator || self == .squareWave }
        var startsByGate: Bool { self == .oneShot || self == .hardwareStrobe }
    }

    public struct Channel: Codable, Equatable, Sendable {
        public var access = Access.both
        public var mode = Mode.squareWave
        public var countsInDecimal = false
        /// The count register as written; 0 stands for the largest count.
        public var reload: UInt16 = 0
        /// The low byte of a count of which the high byte is still to come.
        public var writtenLow: UInt8?
        /// The next read of an unlatched two-byte count gives the high byte.
        public var readsHighNext = false
        /// Latched bytes of the count that are still to be read, in order.
        public var latchedCount: [UInt8] = []
        public var latchedStatus: UInt8?
        public var gate = true
        /// Guest nanoseconds at which the count began; nil before a count is written, or waits for the gate.
        public var start: UInt64?
        /// Ticks that had passed when the gate stopped the count.
        public var stoppedAfter: UInt64?

        public init() {}

        var period: UInt64 {
            let largest: UInt64 = countsInDecimal ? 10_000 : 0x10000
            let value = countsInDecimal ? UInt64(Self.decimalValue(reload)) : UInt64(reload)
            return value == 0 ? largest : min(value, largest)
        }

        func ticks(at now: UInt64) -> UInt64? {
            if let stoppedAfter { return stoppedAfter }
            guard let start else { return nil }
            return Timer8254.ticks(now >= start ? now - start : 0)
        }

        /// OUT.
        func output(at now: UInt64) -> Bool {
            guard let ticks = ticks(at: now) else { return mode != .interruptOnTerminalCount }
            switch mode {
            case .interruptOnTerminalCount, .oneShot: return ticks >= period
            case .rateGenerator: return !gate || ticks % period != period - 1
            case .squareWave: return !gate || ticks % period < (period + 1) / 2
            case .softwareStrobe, .hardwareStrobe: return ticks != period
            }
        }

        /// The counting element, in the channel's number system.
        func count(at now: UInt64) -> UInt16 {
            guard let ticks = ticks(at: now) else { return reload }
            let range: UInt64 = countsInDecimal ? 10_000 : 0x10000
            let value: UInt64
            switch mode {
            case .rateGenerator: value = period - ticks % period
            case .squareWave: value = period - (ticks % period) * 2 % period
            case .interruptOnTerminalCount, .oneShot, .softwareStrobe, .hardwareStrobe:
                value = (period % range + range - ticks % range) % range
            }
            let wrapped = UInt16(value % range)
            return countsInDecimal ? Self.decimalDigits(wrapped) : wrapped
        }

        private static func decimalValue(_ digits: UInt16) -> UInt16 {
            (0..<4).reversed().reduce(0) { $0 * 10 + min(digits >> (UInt16($1) * 4) & 0xf, 9) }
        }

        private static func decimalDigits(_ value: UInt16) -> UInt16 {
            (value / 1000 % 10) << 12 | (value / 100 % 10) << 8 | (value / 10 % 10) << 4 | value % 10
        }
    }

    public struct State: Codable, Equatable, Sendable {
        public var channels = [Channel(), Channel(), Channel()]
        /// The writable bits of the speaker port.
        public var speaker: UInt8 = 0
        /// Guest nanoseconds at which channel 0 raises its interrupt next.
        public var nextInterrupt: UInt64?

        public init() { channels[2].gate = false }
    }

    public let layerName = "pit"
    private let clock: GuestClock
    private let interrupt: InterruptLine
    private var state = State()

    /// `interrupt` is driven by the output of channel 0.
    public init(clock: GuestClock, interrupt: InterruptLine) {
        self.clock = clock
        self.interrupt = interrupt
    }

    /// Whole ticks in `nanoseconds`.
    static func ticks(_ nanoseconds: UInt64) -> UInt64 {
        let product = nanoseconds.multipliedFullWidth(by: frequency)
        // Below 2^64 because the frequency is below a gigahertz.
        return UInt64(1_000_000_000).dividingFullWidth(product).quotient
    }

    /// The first nanosecond at which `ticks` have passed; saturates far beyond the life of any guest.
    static func nanoseconds(_ ticks: UInt64) -> UInt64 {
        let product = min(ticks, 1 << 50).multipliedFullWidth(by: 1_000_000_000)
        let (quotient, remainder) = frequency.dividingFullWidth(product)
        return remainder == 0 ? quotient : quotient + 1
    }

    // MARK: Guest access

    public func readByte(offset: UInt64) -> UInt8 {
        switch Register(rawValue: offset) {
        case .channel0: return readChannel(0)
        case .channel1: return readChannel(1)
        case .channel2: return readChannel(2)
        case .speaker: return readSpeaker()
        case .control, nil: return openBusByte  // The control register cannot be read.
        }
    }

    public func writeByte(_ value: UInt8, offset: UInt64) {
        switch Register(rawValue: offset) {
        case .channel0: writeChannel(0, value)
        case .channel1: writeChannel(1, value)
        case .channel2: writeChannel(2, value)
        case .control: writeControl(value)
        case .speaker:
            state.speaker = value & Speaker.writable
            setGate(2, Speaker(rawValue: value).contains(.gate))
        case nil: break
        }
    }

    private func readSpeaker() -> UInt8 {
        let now = clock.now
        var value = Speaker(rawValue: state.speaker)
        if now / Self.refreshPeriod % 2 == 1 { value.insert(.refresh) }
        if state.channels[2].output(at: now) { value.insert(.output) }
        return value.rawValue
    }

    private func readChannel(_ index: Int) -> UInt8 {
        if let status = state.channels[index].latchedStatus {
            state.channels[index].latchedStatus = nil
            return status
        }
        if !state.channels[index].latchedCount.isEmpty { return state.channels[index].latchedCount.removeFirst() }
        let channel = state.channels[index]
        let count = channel.count(at: clock.now)
        let readsHigh = channel.access == .high || channel.access == .both && channel.readsHighNext
        if channel.access == .both { state.channels[index].readsHighNext.toggle() }
        return UInt8(truncatingIfNeeded: readsHigh ? count >> 8 : count)
    }

    private func latchCount(_ index: Int, at now: UInt64) {
        // A count that is latched stays until it is read.
        guard state.channels[index].latchedCount.isEmpty else { return }
        let count = state.channels[index].count(at: now)
        let low = UInt8(truncatingIfNeeded: count)
        let high = UInt8(count >> 8)
        switch state.channels[index].access {
        case .low: state.channels[index].latchedCount = [low]
        case .high: state.channels[index].latchedCount = [high]
        case .both: state.channels[index].latchedCount = [low, high]
        }
    }

    private func latchStatus(_ index: Int, at now: UInt64) {
        let channel = state.channels[index]
        guard channel.latchedStatus == nil else { return }
        var status = channel.access.rawValue << 4 | channel.mode.rawValue << 1
        if channel.countsInDecimal { status |= Control.binaryCodedDecimal }
        if channel.output(at: now) { status |= Status.output }
        if channel.ticks(at: now) == nil { status |= Status.nullCount }
        state.channels[index].latchedStatus = status
    }

    private func writeControl(_ value: UInt8) {
        let now = clock.now
        let index = Int(value >> 6)
        if index == Control.readBack {
            for channel in 0..<3 where value & (2 << UInt8(channel)) != 0 {
                if value & Control.keepCount == 0 { latchCount(channel, at: now) }
                if value & Control.keepStatus == 0 { latchStatus(channel, at: now) }
            }
            return
        }
        guard let access = Access(rawValue: value >> 4 & 3) else { return latchCount(index, at: now) }
        var channel = Channel()
        channel.access = access
        // Modes 6 and 7 are 2 and 3.
        let mode = value >> 1 & 7
        channel.mode = Mode(rawValue: mode) ?? (mode == 6 ? .rateGenerator : .squareWave)
        channel.countsInDecimal = value & Control.binaryCodedDecimal != 0
        channel.gate = state.channels[index].gate
        state.channels[index] = channel
        if index == 0 { scheduleInterrupt(now: now) }
    }

    private func writeChannel(_ index: Int, _ value: UInt8) {
        let loaded: UInt16
        switch state.channels[index].access {
        case .low: loaded = UInt16(value)
        case .high: loaded = UInt16(value) << 8
        case .both:
            guard let low = state.channels[index].writtenLow else {
                state.channels[index].writtenLow = value
                return
            }
            state.channels[index].writtenLow = nil
            loaded = UInt16(value) << 8 | UInt16(low)
        }
        state.channels[index].reload = loaded
        let now = clock.now
        if !state.channels[index].mode.startsByGate {
            state.channels[index].start = now
            state.channels[index].stoppedAfter = state.channels[index].gate ? nil : 0
        }
        if index == 0 { scheduleInterrupt(now: now) }
    }

    private func setGate(_ index: Int, _ gate: Bool) {
        guard gate != state.channels[index].gate else { return }
        let now = clock.now
        let ticks = state.channels[index].ticks(at: now)
        state.channels[index].gate = gate
        if state.channels[index].mode.startsByGate {
            if gate { state.channels[index].start = now }
        } else if let ticks {
            if !gate {
                state.channels[index].stoppedAfter = ticks
            } else {
                // Periodic modes start again from the top, the others go on.
                let passed = state.channels[index].mode.isPeriodic ? 0 : Self.nanoseconds(ticks)
                state.channels[index].start = now >= passed ? now - passed : 0
                state.channels[index].stoppedAfter = nil
            }
        }
    }

    // MARK: Host events

    public var nextDeadline: UInt64? { state.nextInterrupt }

    public func expire(now: UInt64) {
        guard let due = state.nextInterrupt, now >= due else { return }
        // The output falls before it rises again, and then stays high but for the short pulse of modes 2 and 4.
        interrupt.set(false)
        interrupt.set(true)
        state.nextInterrupt = nil
        if state.channels[0].mode.isPeriodic {
            state.nextInterrupt = max(nextPeriod(after: now), due &+ Self.shortestPeriod)
        }
    }

    private func nextPeriod(after now: UInt64) -> UInt64 {
        let channel = state.channels[0]
        guard let start = channel.start, let ticks = channel.ticks(at: now) else { return now }
        return start &+ Self.nanoseconds((ticks / channel.period + 1) * channel.period)
    }

    /// After a new mode or count of channel 0: sets the line to the output, and finds the next rising edge.
    private func scheduleInterrupt(now: UInt64) {
        let channel = state.channels[0]
        interrupt.set(channel.output(at: now))
        state.nextInterrupt = channel.ticks(at: now) == nil ? nil : nextPeriod(after: now)
    }

    // MARK: Save and restore

    public func reset() {
        state = State()
        interrupt.set(false)
    }

    public func saveState() -> State { state }

    public func validate(_ state: State) throws(SnapshotError) {
        try check(state.channels.count == 3, "channels", state.channels.count, "three")
        try check("speaker", state.speaker, within: Speaker.writable)
        for channel in state.channels {
            try check(channel.latchedCount.count <= 2, "latchedCount", channel.latchedCount.count, "at most 2 bytes")
            if let start = channel.start { try check("start", instant: start) }
            if let ticks = channel.stoppedAfter { try check("stoppedAfter", instant: ticks) }
        }
        let gated = Speaker(rawValue: state.speaker).contains(.gate)
        let gates = state.channels.map(\.gate)
        try check(gates == [true, true, gated], "gate", "\(gates)", "true, true, and bit 0 of speaker")
        if let next = state.nextInterrupt { try check("nextInterrupt", instant: next) }
    }

    public func assign(_ state: State) { self.state = state }
}
