// SPDX-License-Identifier: Apache-2.0
// The I/O interrupt controller: 24 lines to messages for local APICs. Spec: Intel 82093AA data sheet; EOI register: Intel ICH.

public import Bus
internal import Hypervisor
public import Snapshot

/// An IOAPIC, version 0x20 (with an EOI register).
public final class IOAPIC: BusDevice, PlatformDevice {
    // MARK: Register map

    private enum Register: UInt64 {
        case select = 0x00  // IOREGSEL
        case window = 0x10  // IOWIN
        case endOfInterrupt = 0x40  // EOIR
    }

    /// Registers behind the window.
    private enum Index {
        static let identification: UInt8 = 0x00  // IOAPICID
        static let version: UInt8 = 0x01  // IOAPICVER
        static let arbitration: UInt8 = 0x02  // IOAPICARB
        static let redirection: UInt8 = 0x10  // IOREDTBL, two words an entry
    }

    /// One entry of the redirection table.
    private struct Entry {
        var rawValue: UInt64
        static let remoteRequest: UInt64 = 1 << 14
        static let levelTriggered: UInt64 = 1 << 15
        static let masked: UInt64 = 1 << 16
        static let writable: UInt64 = 0xff00_0000_0001_afff
        static let reset: UInt64 = masked

        var vector: UInt8 { UInt8(truncatingIfNeeded: rawValue) }
        var isMasked: Bool { rawValue & Self.masked != 0 }
        var isLevelTriggered: Bool { rawValue & Self.levelTriggered != 0 }
        var remoteRequest: Bool { rawValue & Self.remoteRequest != 0 }
        var message: InterruptMessage {
            InterruptMessage(
                vector: vector, delivery: .init(bits: UInt8(rawValue >> 8 & 7)),
                destination: UInt8(rawValue >> 56), isLogical: rawValue & 1 << 11 != 0,
                isLevelTriggered: isLevelTriggered)
        }
    }

    public static let lineCount = 24
    private static let versionValue: UInt32 = 0x0017_0020
    private static let identificationMask: UInt32 = 0x0f00_0000

    // MARK: State

    public struct State: Codable, Equatable, Sendable {
        public var select: UInt8 = 0
        public var identification: UInt32 = 0
        /// Levels of the lines.
        public var lines: UInt32 = 0
        /// Edges that wait for their entry to be unmasked.
        public var pendingEdges: UInt32 = 0
        /// The redirection table.
        public var entries: [UInt64] = Array(repeating: Entry.reset, count: IOAPIC.lineCount)

        public init() {}
    }

    public let layerName = "ioapic"
    private weak var fabric: InterruptFabric?
    private var state = State()

    init(fabric: InterruptFabric) { self.fabric = fabric }

    // MARK: Guest access

    public func read(offset: UInt64, width: AccessWidth) -> UInt64 {
        switch Register(rawValue: offset) {
        case .select: UInt64(state.select)
        case .window: UInt64(readWindow())
        case .endOfInterrupt: 0  // Write-only.
        case nil: width.openBus
        }
    }

    public func write(_ value: UInt64, offset: UInt64, width: AccessWidth) {
        switch Register(rawValue: offset) {
        case .select: state.select = UInt8(truncatingIfNeeded: value)
        case .window: writeWindow(UInt32(truncatingIfNeeded: value))
        case .endOfInterrupt: endOfInterrupt(vector: UInt8(truncatingIfNeeded: value))
        case nil: break
        }
    }

    /// The entry that the select register names, and whether it is the high word.
    private var selectedEntry: (line: Int, isHigh: Bool)? {
        guard state.select >= Index.redirection else { return nil }
        let word = Int(state.select - Index.redirection)
        return word < Self.lineCount * 2 ? (word / 2, word % 2 == 1) : nil
    }

    private func readWindow() -> UInt32 {
        switch state.select {
        case Index.identification, Index.arbitration: return state.identification
        case Index.version: return Self.versionValue
        default:
            guard let (line, isHigh) = selectedEntry else { return .max }
            return UInt32(truncatingIfNeeded: isHigh ? state.entries[line] >> 32 : state.entries[line])
        }
    }

    private func writeWindow(_ value: UInt32) {
        if state.select == Index.identification { state.identification = value & Self.identificationMask }
        guard let (line, isHigh) = selectedEntry else { return }
        let before = state.entries[line]
        let merged =
            isHigh
            ? before & 0xffff_ffff | UInt64(value) << 32
            : before & ~0xffff_ffff | UInt64(value)
        var entry = Entry(rawValue: merged & Entry.writable | before & Entry.remoteRequest)
        // Software clears a stuck remote IRR by going through edge-triggered.
        if !entry.isLevelTriggered { entry.rawValue &= ~Entry.remoteRequest }
        state.entries[line] = entry.rawValue
        announceLevelTriggered()
        service(line)
    }

    /// Tells the local APICs whose end of an interrupt is to be heard of.
    private func announceLevelTriggered() {
        guard let backend = fabric?.backend else { return }
        backend.setLevelTriggered(
            state.entries.map { value in
                let entry = Entry(rawValue: value)
                return entry.isLevelTriggered ? entry.message.words : nil
            })
    }

    // MARK: Host events

    /// Sets the level of `line`. Lines beyond the last are ignored.
    public func setLine(_ line: Int, asserted: Bool) {
        guard (0..<Self.lineCount).contains(line) else { return }
        let bit = UInt32(1) << UInt32(line)
        let rises = asserted && state.lines & bit == 0
        if asserted { state.lines |= bit } else { state.lines &= ~bit }
        guard rises else { return }
        if !Entry(rawValue: state.entries[line]).isLevelTriggered { state.pendingEdges |= bit }
        service(line)
    }

    /// Sends what `line` has to say, unless it is masked or its level is being served.
    private func service(_ line: Int) {
        let bit = UInt32(1) << UInt32(line)
        let entry = Entry(rawValue: state.entries[line])
        guard !entry.isMasked else { return }
        if entry.isLevelTriggered {
            state.pendingEdges &= ~bit
            guard state.lines & bit != 0, !entry.remoteRequest else { return }
            if fabric?.deliver(entry.message) == true { state.entries[line] |= Entry.remoteRequest }
        } else if state.pendingEdges & bit != 0 {
            state.pendingEdges &= ~bit
            fabric?.deliver(entry.message)
        }
    }

    /// A local APIC finished level-triggered `vector`: lines that are still asserted interrupt again.
    public func endOfInterrupt(vector: UInt8) {
        for line in 0..<Self.lineCount {
            let entry = Entry(rawValue: state.entries[line])
            guard entry.remoteRequest, entry.vector == vector else { continue }
            state.entries[line] &= ~Entry.remoteRequest
            service(line)
        }
    }

    // MARK: Save and restore

    public func reset() {
        let lines = state.lines
        state = State()
        state.lines = lines
        announceLevelTriggered()
    }

    public func saveState() -> State { state }

    public func validate(_ state: State) throws(SnapshotError) {
        try check("identification", state.identification, within: Self.identificationMask)
        try check("lines", state.lines, within: 0xff_ffff)
        try check("pendingEdges", state.pendingEdges, within: 0xff_ffff)
        try check(state.entries.count == Self.lineCount, "entries", state.entries.count, "\(Self.lineCount)")
        for entry in state.entries {
            try check("entries", entry, within: Entry.writable | Entry.remoteRequest)
            try check(
                entry & Entry.remoteRequest == 0 || entry & Entry.levelTriggered != 0, "entries", entry,
                "level-triggered when it is being served")
        }
    }

    public func assign(_ state: State) {
        self.state = state
        announceLevelTriggered()
    }
}
