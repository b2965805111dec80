// SPDX-License-Identifier: Apache-2.0
// The battery-backed clock and its CMOS RAM. Spec: Motorola MC146818A data sheet; century byte as ACPI's FADT names it.

public import Bus
public import Hypervisor
public import Snapshot

/// A real-time clock that shows the guest's wall clock in UTC, plus whatever the guest has set it off by.
public final class RealTimeClock: ByteDevice, PlatformDevice, TimedDevice {
    // MARK: Register map

    private enum Register: UInt64 {
        case index = 0
        case data = 1
    }

    /// Addresses in the 128 bytes behind the index register.
    fileprivate enum Cell {
        static let seconds = 0
        static let secondsAlarm = 1
        static let minutes = 2
        static let minutesAlarm = 3
        static let hours = 4
        static let hoursAlarm = 5
        static let dayOfWeek = 6
        static let dayOfMonth = 7
        static let month = 8
        static let year = 9
        static let statusA = 10
        static let statusB = 11
        static let statusC = 12
        static let statusD = 13
        static let century = 50

        static func isTime(_ cell: Int) -> Bool {
            [seconds, minutes, hours, dayOfWeek, dayOfMonth, month, year, century].contains(cell)
        }
    }

    private enum StatusA {
        static let updateInProgress: UInt8 = 0x80  // UIP
        static let rate: UInt8 = 0x0f  // RS
        /// A 32 kHz time base, 1024 interrupts a second.
        static let initial: UInt8 = 0x26
    }

    fileprivate struct StatusB: OptionSet {
        var rawValue: UInt8
        static let hours24 = StatusB(rawValue: 1 << 1)  // 24/12
        static let binary = StatusB(rawValue: 1 << 2)  // DM
        static let squareWave = StatusB(rawValue: 1 << 3)  // SQWE
        static let updateInterrupt = StatusB(rawValue: 1 << 4)  // UIE
        static let alarmInterrupt = StatusB(rawValue: 1 << 5)  // AIE
        static let periodicInterrupt = StatusB(rawValue: 1 << 6)  // PIE
        static let set = StatusB(rawValue: 1 << 7)  // SET
        static let clearedByReset: StatusB = [.squareWave, .updateInterrupt, .alarmInterrupt, .periodicInterrupt]
    }

    private enum StatusC {
        static let update: UInt8 = 0x10  // UF
        static let alarm: UInt8 = 0x20  // AF
        static let periodic: UInt8 = 0x40  // PF
        static let events: UInt8 = 0x70
        static let interrupt: UInt8 = 0x80  // IRQF
    }

    private static let validRAMAndTime: UInt8 = 0x80  // VRT, all of status D
    fileprivate static let afternoon: UInt8 = 0x80
    private static let alarmDoesNotCare: UInt8 = 0xc0
    private static let second: UInt64 = 1_000_000_000
    private static let secondsPerDay: Int64 = 86_400
    /// The update-in-progress bit warns this many nanoseconds ahead of an update.
    private static let updateWarning: UInt64 = 244_141
    static let ramSize = 128

    // MARK: State

    public struct State: Codable, Equatable, Sendable {
        public var index: UInt8 = 0
        /// 128 bytes: CMOS RAM, the alarm, status A and B; the time while it is being set. Status C is in `events`.
        public var ram: [UInt8]
        /// Seconds that the guest set the clock ahead of the wall clock.
        public var offset: Int64 = 0
        /// Update, alarm and periodic events since status C was read.
        public var events: UInt8 = 0
        /// The second of the clock, since 1970, up to which events are noted.
        public var lastSecond: Int64 = 0
        /// The tick of the periodic interrupt, since power-on, up to which events are noted.
        public var lastTick: UInt64 = 0

        public init() {
            ram = Array(repeating: 0, count: RealTimeClock.ramSize)
            ram[Cell.statusA] = StatusA.initial
            ram[Cell.statusB] = StatusB.hours24.rawValue
        }
    }

    public let layerName = "rtc"
    private let clock: GuestClock
    private let interrupt: InterruptLine
    private var state = State()
    private var lineAsserted = false

    public init(clock: GuestClock, interrupt: InterruptLine) {
        self.clock = clock
        self.interrupt = interrupt
        state.lastSecond = currentSecond
    }

    private var statusB: StatusB { StatusB(rawValue: state.ram[Cell.statusB]) }
    private var wallSecond: Int64 { Int64(clock.wallClock / Self.second) }
    private var currentSecond: Int64 { wallSecond &+ state.offset }

    /// Nanoseconds of guest time between periodic events, as a fraction of 32768 Hz; nil when they are off.
    private var periodicShift: UInt64? {
        switch state.ram[Cell.statusA] & StatusA.rate {
        case 0: nil
        case 1: 7  // 256 Hz, as rate 8
        case 2: 8  // 128 Hz, as rate 9
        case let rate: UInt64(rate) - 1
        }
    }

    private var currentTick: UInt64 {
        guard let shift = periodicShift else { return 0 }
        let product = clock.now.multipliedFullWidth(by: 32_768)
        return Self.second.dividingFullWidth(product).quotient >> shift
    }

    // MARK: Guest access

    public func readByte(offset: UInt64) -> UInt8 {
        switch Register(rawValue: offset) {
        case .data: readCell(Int(state.index))
        case .index, nil: openBusByte  // The index register cannot be read.
        }
    }

    public func writeByte(_ value: UInt8, offset: UInt64) {
        switch Register(rawValue: offset) {
        case .index: state.index = value & 0x7f  // Bit 7 gates NMI on a PC; nothing raises one here.
        case .data: writeCell(Int(state.index), value)
        case nil: break
        }
    }

    private func readCell(_ cell: Int) -> UInt8 {
        switch cell {
        case Cell.statusA:
            let untilUpdate = Self.second - clock.wallClock % Self.second
            let warns = untilUpdate <= Self.updateWarning && !statusB.contains(.set)
            return state.ram[cell] | (warns ? StatusA.updateInProgress : 0)
        case Cell.statusC:
            noteEvents()
            let value = state.events | (wantsLine ? StatusC.interrupt : 0)
            state.events = 0
            updateInterrupt()
            return value
        case Cell.statusD: return Self.validRAMAndTime
        case _ where Cell.isTime(cell) && !statusB.contains(.set):
            return CalendarTime(secondsSince1970: currentSecond).cell(cell, statusB) ?? state.ram[cell]
        default: return state.ram[cell]
        }
    }

    private func writeCell(_ cell: Int, _ value: UInt8) {
        noteEvents()
        switch cell {
        case Cell.statusA:
            state.ram[cell] = value & ~StatusA.updateInProgress
            state.lastTick = currentTick
        case Cell.statusB: writeStatusB(StatusB(rawValue: value))
        case Cell.statusC, Cell.statusD: break  // Read-only.
        case _ where Cell.isTime(cell) && !statusB.contains(.set):
            freezeTime()
            state.ram[cell] = value
            setTimeFromCells()
        default: state.ram[cell] = value
        }
        updateInterrupt()
    }

    private func writeStatusB(_ value: StatusB) {
        let before = statusB
        if value.contains(.set), !before.contains(.set) { freezeTime() }
        state.ram[Cell.statusB] = value.rawValue
        // The divisions of the time are read in the mode in which they were written.
        if !value.contains(.set), before.contains(.set) { setTimeFromCells() }
    }

    private func freezeTime() {
        let time = CalendarTime(secondsSince1970: currentSecond)
        for cell in 0..<Self.ramSize {
            if let value = time.cell(cell, statusB) { state.ram[cell] = value }
        }
    }

    private func setTimeFromCells() {
        state.offset = CalendarTime(cells: state.ram, statusB).secondsSince1970 &- wallSecond
        state.lastSecond = currentSecond
    }

    // MARK: Host events

    private var wantsLine: Bool { state.events & statusB.rawValue & StatusC.events != 0 }

    private func updateInterrupt() {
        guard wantsLine != lineAsserted else { return }
        lineAsserted.toggle()
        interrupt.set(lineAsserted)
    }

    /// Sets the event flags for all that has happened since the last call.
    private func noteEvents() {
        let tick = currentTick
        if tick > state.lastTick { state.events |= StatusC.periodic }
        state.lastTick = tick
        let now = currentSecond
        if now > state.lastSecond, !statusB.contains(.set) {
            state.events |= StatusC.update
            // Every alarm comes at least once a day.
            let first = max(state.lastSecond + 1, now - Self.secondsPerDay)
            if (first...now).contains(where: alarmMatches) { state.events |= StatusC.alarm }
        }
        state.lastSecond = now
    }

    private func alarmMatches(_ second: Int64) -> Bool {
        let time = CalendarTime(secondsSince1970: second)
        for (alarm, cell) in [
            (Cell.secondsAlarm, Cell.seconds), (Cell.minutesAlarm, Cell.minutes), (Cell.hoursAlarm, Cell.hours),
        ] {
            let wanted = state.ram[alarm]
            if wanted < Self.alarmDoesNotCare, wanted != time.cell(cell, statusB) { return false }
        }
        return true
    }

    public var nextDeadline: UInt64? {
        var deadline: UInt64?
        if statusB.contains(.periodicInterrupt), state.events & StatusC.periodic == 0, let shift = periodicShift {
            let product = ((state.lastTick &+ 1) << shift).multipliedFullWidth(by: Self.second)
            // Rounded up, so that the tick has come by then.
            deadline = product.high < 32_768 ? UInt64(32_768).dividingFullWidth(product).quotient &+ 1 : nil
        }
        let wantsSecond =
            statusB.contains(.updateInterrupt) && state.events & StatusC.update == 0
            || statusB.contains(.alarmInterrupt) && state.events & StatusC.alarm == 0
        if wantsSecond, !statusB.contains(.set) {
            let wall = clock.wallClock
            // A second that is over and not yet noted is due now.
            let next = currentSecond > state.lastSecond ? clock.now : clock.now &+ (Self.second - wall % Self.second)
            deadline = min(deadline ?? next, next)
        }
        return deadline
    }

    public func expire(now: UInt64) {
        noteEvents()
        updateInterrupt()
    }

    // MARK: Save and restore

    /// RESET# clears the interrupts; time and RAM have a battery.
    public func reset() {
        state.ram[Cell.statusB] &= ~StatusB.clearedByReset.rawValue
        state.events = 0
        state.index = 0
        updateInterrupt()
    }

    public func saveState() -> State { state }

    public func validate(_ state: State) throws(SnapshotError) {
        try check(state.ram.count == Self.ramSize, "ram", state.ram.count, "\(Self.ramSize) bytes")
        try check("index", state.index, within: 0x7f)
        try check("events", state.events, within: StatusC.events)
        try check("ram[10]", state.ram[Cell.statusA], within: ~StatusA.updateInProgress)
        // Four-digit years, either way.
        let limit: Int64 = 400_000_000_000
        try check((-limit...limit).contains(state.offset), "offset", state.offset, "-\(limit) to \(limit)")
        try check((-limit...limit).contains(state.lastSecond), "lastSecond", state.lastSecond, "-\(limit) to \(limit)")
        try check("lastTick", instant: state.lastTick)
    }

    public func assign(_ state: State) {
        self.state = state
        lineAsserted = wantsLine
    }
}

/// A date and time of the Gregorian calendar, and how the clock's cells show it.
private struct CalendarTime {
    var year: Int64
    var month: Int64
    var day: Int64
    var hour: Int64
    var minute: Int64
    var second: Int64
    /// Days since 1970-01-01, a Thursday.
    private var dayNumber: Int64

    /// Days before each month of a year that begins in March, so that the leap day comes last.
    private static func daysBefore(month: Int64) -> Int64 { (153 * month + 2) / 5 }

    /// 1970-01-01 as a day of the calendar that begins with 0000-03-01.
    private static let epochDay: Int64 = 719_468
    private static let daysPerEra: Int64 = 146_097  // 400 years

    init(secondsSince1970 total: Int64) {
        let clamped = min(max(total, -62_000_000_000), 253_402_300_799)
        var days = clamped / 86_400
        var rest = clamped % 86_400
        if rest < 0 { (days, rest) = (days - 1, rest + 86_400) }
        (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60)
        dayNumber = days
        let shifted = days + Self.epochDay
        let era = shifted / Self.daysPerEra
        let dayOfEra = shifted % Self.daysPerEra
        // Leap days so far: one in 4 years, but not in 100, but in 400.
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let marchMonth = (5 * dayOfYear + 2) / 153
        day = dayOfYear - Self.daysBefore(month: marchMonth) + 1
        month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9
        year = era * 400 + yearOfEra + (month <= 2 ? 1 : 0)
    }

    /// Reads the cells in the modes that status B names. A value out of range is taken as the nearest in range.
    init(cells: [UInt8], _ mode: RealTimeClock.StatusB) {
        func value(_ cell: Int, _ range: ClosedRange<Int64>) -> Int64 {
            min(max(Self.decode(cells[cell], mode), range.lowerBound), range.upperBound)
        }
        second = value(RealTimeClock.Cell.seconds, 0...59)
        minute = value(RealTimeClock.Cell.minutes, 0...59)
        day = value(RealTimeClock.Cell.dayOfMonth, 1...31)
        month = value(RealTimeClock.Cell.month, 1...12)
        year = value(RealTimeClock.Cell.century, 0...99) * 100 + value(RealTimeClock.Cell.year, 0...99)
        if mode.contains(.hours24) {
            hour = value(RealTimeClock.Cell.hours, 0...23)
        } else {
            let cell = cells[RealTimeClock.Cell.hours]
            let hour12 = min(Self.decode(cell & ~RealTimeClock.afternoon, mode), 12) % 12
            hour = hour12 + (cell & RealTimeClock.afternoon != 0 ? 12 : 0)
        }
        let marchMonth = month > 2 ? month - 3 : month + 9
        let marchYear = month > 2 ? year : year - 1
        let era = (marchYear >= 0 ? marchYear : marchYear - 399) / 400
        let yearOfEra = marchYear - era * 400
        let dayOfEra =
            yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + Self.daysBefore(month: marchMonth) + day - 1
        dayNumber = era * Self.daysPerEra + dayOfEra - Self.epochDay
    }

    var secondsSince1970: Int64 { dayNumber * 86_400 + hour * 3600 + minute * 60 + second }

    /// What a time cell shows; nil for every other cell.
    func cell(_ cell: Int, _ mode: RealTimeClock.StatusB) -> UInt8? {
        switch cell {
        case RealTimeClock.Cell.seconds: Self.encode(second, mode)
        case RealTimeClock.Cell.minutes: Self.encode(minute, mode)
        case RealTimeClock.Cell.hours:
            if mode.contains(.hours24) {
                Self.encode(hour, mode)
            } else {
                Self.encode((hour + 11) % 12 + 1, mode) | (hour >= 12 ? RealTimeClock.afternoon : 0)
            }
        // Sunday is 1.
        case RealTimeClock.Cell.dayOfWeek: Self.encode(((dayNumber + 4) % 7 + 7) % 7 + 1, mode)
        case RealTimeClock.Cell.dayOfMonth: Self.encode(day, mode)
        case RealTimeClock.Cell.month: Self.encode(month, mode)
        case RealTimeClock.Cell.year: Self.encode(year % 100, mode)
        case RealTimeClock.Cell.century: Self.encode(year / 100, mode)
        default: nil
        }
    }

    private static func encode(_ value: Int64, _ mode: RealTimeClock.StatusB) -> UInt8 {
        let byte = UInt8(truncatingIfNeeded: value)
        return mode.contains(.binary) ? byte : (byte / 10) << 4 | byte % 10
    }

    private static func decode(_ cell: UInt8, _ mode: RealTimeClock.StatusB) -> Int64 {
        Int64(mode.contains(.binary) ? cell : (cell >> 4) &* 10 &+ (cell & 0xf))
    }
}
