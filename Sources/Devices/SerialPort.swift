// SPDX-License-Identifier: Apache-2.0
// The first serial port, a 16550A with FIFOs. Spec: National Semiconductor PC16550D data sheet.

public import Bus
public import Snapshot

/// Where transmitted bytes go.
public protocol SerialSink: AnyObject {
    /// Takes one byte that the guest sent. Must not block.
    func transmit(_ byte: UInt8)
}

/// A 16550A serial port. Bytes are sent in no time, so the transmitter is always empty.
public final class SerialPort: ByteDevice, PlatformDevice {
    // MARK: Register map

    private enum Register: UInt64 {
        case data = 0  // RBR, THR; DLL
        case interruptEnable = 1  // IER; DLM
        case interruptIdentification = 2  // IIR; FCR when written
        case lineControl = 3  // LCR
        case modemControl = 4  // MCR
        case lineStatus = 5  // LSR
        case modemStatus = 6  // MSR
        case scratch = 7  // SCR
    }

    struct InterruptEnable: OptionSet {
        var rawValue: UInt8
        static let received = InterruptEnable(rawValue: 1 << 0)  // ERBFI
        static let transmitterEmpty = InterruptEnable(rawValue: 1 << 1)  // ETBEI
        static let lineStatus = InterruptEnable(rawValue: 1 << 2)  // ELSI
        static let modemStatus = InterruptEnable(rawValue: 1 << 3)  // EDSSI
        static let all = InterruptEnable(rawValue: 0x0f)
    }

    private enum Interrupt: UInt8 {
        case modemStatus = 0x00
        case none = 0x01
        case transmitterEmpty = 0x02
        case received = 0x04
        case lineStatus = 0x06
        case characterTimeout = 0x0c
        static let fifosEnabled: UInt8 = 0xc0
    }

    struct FIFOControl: OptionSet {
        var rawValue: UInt8
        static let enable = FIFOControl(rawValue: 1 << 0)
        static let resetReceiver = FIFOControl(rawValue: 1 << 1)
        static let triggerMask: UInt8 = 0xc0
        /// What is kept: the resets act once.
        static let stored: UInt8 = 0xc9
        /// Received bytes that raise an interrupt.
        var triggerLevel: Int { [1, 4, 8, 14][Int(rawValue >> 6)] }
    }

    private static let divisorLatchAccess: UInt8 = 0x80  // DLAB

    struct ModemControl: OptionSet {
        var rawValue: UInt8
        static let dataTerminalReady = ModemControl(rawValue: 1 << 0)  // DTR
        static let requestToSend = ModemControl(rawValue: 1 << 1)  // RTS
        static let output1 = ModemControl(rawValue: 1 << 2)  // OUT1
        static let output2 = ModemControl(rawValue: 1 << 3)  // OUT2, connects the interrupt line on a PC
        static let loopback = ModemControl(rawValue: 1 << 4)  // LOOP
        static let all = ModemControl(rawValue: 0x1f)
    }

    struct LineStatus: OptionSet {
        var rawValue: UInt8
        static let dataReady = LineStatus(rawValue: 1 << 0)  // DR
        static let overrun = LineStatus(rawValue: 1 << 1)  // OE
        static let holdingRegisterEmpty = LineStatus(rawValue: 1 << 5)  // THRE
        static let transmitterEmpty = LineStatus(rawValue: 1 << 6)  // TEMT
    }

    struct ModemStatus: OptionSet {
        var rawValue: UInt8
        static let ringEnded = ModemStatus(rawValue: 1 << 2)  // TERI
        static let clearToSend = ModemStatus(rawValue: 1 << 4)  // CTS
        static let dataSetReady = ModemStatus(rawValue: 1 << 5)  // DSR
        static let ringIndicator = ModemStatus(rawValue: 1 << 6)  // RI
        static let carrierDetect = ModemStatus(rawValue: 1 << 7)  // DCD
        /// What a connected, ready terminal drives.
        static let connected: ModemStatus = [.clearToSend, .dataSetReady, .carrierDetect]
        static let changes: UInt8 = 0x0f
    }

    // MARK: State

    public struct State: Codable, Equatable, Sendable {
        public var interruptEnable: UInt8 = 0
        public var fifoControl: UInt8 = 0
        public var lineControl: UInt8 = 0
        public var modemControl: UInt8 = 0
        /// The change bits 3 to 0 of the modem status register; the others follow from the lines.
        public var modemChanges: UInt8 = 0
        public var scratch: UInt8 = 0
        public var divisor: UInt16 = 12
        public var overrun = false
        /// The transmitter became empty and nobody has been told.
        public var transmitterEmptyPending = false
        /// The receiver's FIFO, oldest first: at most 16 bytes.
        public var receiverFIFO: [UInt8] = []
        /// Bytes on the line that the FIFO had no room for.
        public var waiting: [UInt8] = []

        public init() {}
    }

    static let fifoDepth = 16
    /// Bytes that `receive` queues for the guest beyond its FIFO.
    public static let queueDepth = 4096

    public let layerName = "serial"
    /// Takes what the guest sends; nobody when nil.
    public weak var sink: (any SerialSink)?
    private let interrupt: InterruptLine
    private var state = State()
    private var lineAsserted = false

    public init(interrupt: InterruptLine) { self.interrupt = interrupt }

    private var enabledInterrupts: InterruptEnable { InterruptEnable(rawValue: state.interruptEnable) }
    private var fifoControl: FIFOControl { FIFOControl(rawValue: state.fifoControl) }
    private var modemControl: ModemControl { ModemControl(rawValue: state.modemControl) }
    private var isLatchAccess: Bool { state.lineControl & Self.divisorLatchAccess != 0 }
    private var receiverDepth: Int { fifoControl.contains(.enable) ? Self.fifoDepth : 1 }

    private var lineStatus: LineStatus {
        var status: LineStatus = [.holdingRegisterEmpty, .transmitterEmpty]
        if !state.receiverFIFO.isEmpty { status.insert(.dataReady) }
        if state.overrun { status.insert(.overrun) }
        return status
    }

    /// The modem lines: the terminal's, or in loopback the port's own outputs.
    private var modemLines: ModemStatus {
        guard modemControl.contains(.loopback) else { return .connected }
        var lines: ModemStatus = []
        if modemControl.contains(.requestToSend) { lines.insert(.clearToSend) }
        if modemControl.contains(.dataTerminalReady) { lines.insert(.dataSetReady) }
        if modemControl.contains(.output1) { lines.insert(.ringIndicator) }
        if modemControl.contains(.output2) { lines.insert(.carrierDetect) }
        return lines
    }

    private var pendingInterrupt: Interrupt {
        if enabledInterrupts.contains(.lineStatus), state.overrun { return .lineStatus }
        if enabledInterrupts.contains(.received), !state.receiverFIFO.isEmpty {
            // Below the trigger level the character timeout is due: four characters take no time here.
            let full = !fifoControl.contains(.enable) || state.receiverFIFO.count >= fifoControl.triggerLevel
            return full ? .received : .characterTimeout
        }
        if enabledInterrupts.contains(.transmitterEmpty), state.transmitterEmptyPending { return .transmitterEmpty }
        if enabledInterrupts.contains(.modemStatus), state.modemChanges != 0 { return .modemStatus }
        return .none
    }

    private var wantsLine: Bool {
        pendingInterrupt != .none && modemControl.contains(.output2) && !modemControl.contains(.loopback)
    }

    private func updateInterrupt() {
        let wanted = wantsLine
        guard wanted != lineAsserted else { return }
        lineAsserted = wanted
        interrupt.set(wanted)
    }

    // MARK: Guest access

    public func readByte(offset: UInt64) -> UInt8 {
        guard let register = Register(rawValue: offset) else { return openBusByte }
        defer { updateInterrupt() }
        switch register {
        case .data:
            if isLatchAccess { return UInt8(truncatingIfNeeded: state.divisor) }
            guard !state.receiverFIFO.isEmpty else { return 0 }
            let byte = state.receiverFIFO.removeFirst()
            // The next byte comes later: an edge-triggered input must see that.
            updateInterrupt()
            fillReceiver()
            return byte
        case .interruptEnable:
            return isLatchAccess ? UInt8(state.divisor >> 8) : state.interruptEnable
        case .interruptIdentification:
            let pending = pendingInterrupt
            if pending == .transmitterEmpty { state.transmitterEmptyPending = false }
            return pending.rawValue | (fifoControl.contains(.enable) ? Interrupt.fifosEnabled : 0)
        case .lineControl: return state.lineControl
        case .modemControl: return state.modemControl
        case .lineStatus:
            let status = lineStatus
            state.overrun = false
            return status.rawValue
        case .modemStatus:
            let status = modemLines.rawValue | state.modemChanges
            state.modemChanges = 0
            return status
        case .scratch: return state.scratch
        }
    }

    public func writeByte(_ value: UInt8, offset: UInt64) {
        guard let register = Register(rawValue: offset) else { return }
        switch register {
        case .data:
            if isLatchAccess { state.divisor = state.divisor & 0xff00 | UInt16(value) } else { send(value) }
        case .interruptEnable:
            if isLatchAccess {
                state.divisor = state.divisor & 0x00ff | UInt16(value) << 8
            } else {
                let before = enabledInterrupts
                state.interruptEnable = value & InterruptEnable.all.rawValue
                // Enabling this interrupt while the transmitter is empty raises it at once.
                if enabledInterrupts.contains(.transmitterEmpty), !before.contains(.transmitterEmpty) {
                    state.transmitterEmptyPending = true
                }
            }
        case .interruptIdentification: writeFIFOControl(FIFOControl(rawValue: value))
        case .lineControl: state.lineControl = value
        case .modemControl:
            let before = modemLines
            state.modemControl = value & ModemControl.all.rawValue
            noteModemChanges(since: before)
            fillReceiver()
        case .lineStatus, .modemStatus: break  // Read-only here; writing is for factory tests.
        case .scratch: state.scratch = value
        }
        updateInterrupt()
    }

    private func writeFIFOControl(_ value: FIFOControl) {
        let switched = value.contains(.enable) != fifoControl.contains(.enable)
        // Without the enable bit the other bits are not taken.
        state.fifoControl = value.contains(.enable) ? value.rawValue & FIFOControl.stored : 0
        if switched || value.isSuperset(of: [.enable, .resetReceiver]) { state.receiverFIFO.removeAll() }
        fillReceiver()
    }

    private func send(_ byte: UInt8) {
        // The byte leaves at once: the interrupt goes away and comes back, which an edge-triggered input must see.
        state.transmitterEmptyPending = false
        updateInterrupt()
        if modemControl.contains(.loopback) {
            if state.receiverFIFO.count < receiverDepth {
                state.receiverFIFO.append(byte)
            } else {
                state.overrun = true
            }
        } else {
            sink?.transmit(byte)
        }
        state.transmitterEmptyPending = true
    }

    private func noteModemChanges(since before: ModemStatus) {
        var changed = before.symmetricDifference(modemLines)
        // The ring indicator tells only the end of a ring.
        if changed.remove(.ringIndicator) != nil, before.contains(.ringIndicator) {
            state.modemChanges |= ModemStatus.ringEnded.rawValue
        }
        state.modemChanges |= changed.rawValue >> 4
    }

    // MARK: Host events

    /// Bytes that `receive` would take now.
    public var receiveSpace: Int { Self.queueDepth - state.waiting.count }

    /// Queues input for the guest, which reads it at its own pace. Returns how many bytes were taken.
    @discardableResult public func receive(_ bytes: some Collection<UInt8>) -> Int {
        let before = state.waiting.count
        state.waiting.append(contentsOf: bytes.prefix(receiveSpace))
        let taken = state.waiting.count - before
        fillReceiver()
        updateInterrupt()
        return taken
    }

    private func fillReceiver() {
        guard !modemControl.contains(.loopback), !state.waiting.isEmpty else { return }
        let room = receiverDepth - state.receiverFIFO.count
        guard room > 0 else { return }
        state.receiverFIFO.append(contentsOf: state.waiting.prefix(room))
        state.waiting.removeFirst(min(room, state.waiting.count))
    }

    // MARK: Save and restore

    public func reset() {
        // What is on the line stays there.
        let waiting = state.waiting
        state = State()
        state.waiting = waiting
        fillReceiver()
        updateInterrupt()
    }

    public func saveState() -> State { state }

    public func validate(_ state: State) throws(SnapshotError) {
        try check("interruptEnable", state.interruptEnable, within: InterruptEnable.all.rawValue)
        try check("fifoControl", state.fifoControl, within: FIFOControl.stored)
        try check("modemControl", state.modemControl, within: ModemControl.all.rawValue)
        try check("modemChanges", state.modemChanges, within: ModemStatus.changes)
        let depth = FIFOControl(rawValue: state.fifoControl).contains(.enable) ? Self.fifoDepth : 1
        try check(state.receiverFIFO.count <= depth, "receiverFIFO", state.receiverFIFO.count, "at most \(depth) bytes")
        try check(
            state.waiting.count <= Self.queueDepth, "waiting", state.waiting.count, "at most \(Self.queueDepth) bytes")
    }

    public func assign(_ state: State) {
        self.state = state
        lineAsserted = wantsLine
    }
}
