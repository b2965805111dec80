// SPDX-License-Identifier: Apache-2.0
// Reset, power off and the power button. Spec: ACPI 6.4 §4.8.3.6, §4.8.3.7 and §4.8.4.1; reset control: Intel ICH §13.7.5.

public import Bus
public import Snapshot

/// The sleep and reset registers that the FADT names, and the power button. Offsets are port numbers.
public final class PowerControl: ByteDevice, PlatformDevice {
    // MARK: Register map

    enum Register: UInt64 {
        case sleepControl = 0x600
        case sleepStatus = 0x601
        case resetControl = 0xcf9  // RST_CNT
    }

    private enum SleepControl {
        static let enable: UInt8 = 0x20  // SLP_EN
        static let typeShift: UInt8 = 2  // SLP_TYP
        static let stored: UInt8 = 0x1c
    }

    private static let wakeStatus: UInt8 = 0x80  // WAK_STS

    private enum ResetControl {
        static let resetProcessor: UInt8 = 0x04  // RST_CPU
        static let stored: UInt8 = 0x0a  // SYS_RST, FULL_RST
    }

    /// The sleep type of S5, as \_S5 has it.
    static let softOffType: UInt8 = 5
    /// What the FADT says to write to the reset register: reset processor and system.
    static let resetValue: UInt8 = 0x06

    // MARK: State

    public struct State: Codable, Equatable, Sendable {
        public var sleepControl: UInt8 = 0
        public var sleepStatus: UInt8 = 0
        public var resetControl: UInt8 = 0

        public init() {}
    }

    public let layerName = "power"
    public weak var events: (any PlatformEvents)?
    private let buttonInterrupt: InterruptLine
    private var state = State()

    /// `buttonInterrupt` is a line of the generic event device.
    public init(buttonInterrupt: InterruptLine) { self.buttonInterrupt = buttonInterrupt }

    // MARK: Guest access

    public func readByte(offset: UInt64) -> UInt8 {
        switch Register(rawValue: offset) {
        case .sleepControl: state.sleepControl
        case .sleepStatus: state.sleepStatus
        case .resetControl: state.resetControl
        case nil: openBusByte
        }
    }

    public func writeByte(_ value: UInt8, offset: UInt64) {
        switch Register(rawValue: offset) {
        case .sleepControl:
            state.sleepControl = value & SleepControl.stored
            if value & SleepControl.enable != 0, state.sleepControl >> SleepControl.typeShift == Self.softOffType {
                events?.platformRequestsPowerOff()
            }
        case .sleepStatus: state.sleepStatus &= ~(value & Self.wakeStatus)
        case .resetControl:
            state.resetControl = value & ResetControl.stored
            if value & ResetControl.resetProcessor != 0 { events?.platformRequestsReset() }
        case nil: break
        }
    }

    // MARK: Host events

    /// Tells the guest that somebody pressed the power button.
    public func pressPowerButton() { buttonInterrupt.pulse() }

    // MARK: Save and restore

    public func reset() { state = State() }

    public func saveState() -> State { state }

    public func validate(_ state: State) throws(SnapshotError) {
        try check("sleepControl", state.sleepControl, within: SleepControl.stored)
        try check("sleepStatus", state.sleepStatus, within: Self.wakeStatus)
        try check("resetControl", state.resetControl, within: ResetControl.stored)
    }

    public func assign(_ state: State) { self.state = state }
}
