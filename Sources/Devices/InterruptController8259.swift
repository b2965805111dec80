// SPDX-License-Identifier: Apache-2.0
// The pair of interrupt controllers of a PC. Spec: Intel 8259A data sheet; edge/level registers: Intel 82371AB (PIIX4).

internal import Bus
public import Snapshot

/// Two cascaded 8259A: the master's input 2 is the slave's output. Offsets are port numbers.
public final class InterruptController8259: ByteDevice, PlatformDevice {
    // MARK: Register map

    private enum Register: UInt64 {
        case masterCommand = 0x20
        case masterData = 0x21
        case slaveCommand = 0xa0
        case slaveData = 0xa1
        case masterEdgeLevel = 0x4d0  // ELCR1
        case slaveEdgeLevel = 0x4d1  // ELCR2
    }

    private struct InitializationWord1: OptionSet {
        var rawValue: UInt8
        static let needsWord4 = InitializationWord1(rawValue: 1 << 0)  // IC4
        static let single = InitializationWord1(rawValue: 1 << 1)  // SNGL
        static let levelTriggered = InitializationWord1(rawValue: 1 << 3)  // LTIM
        static let marker = InitializationWord1(rawValue: 1 << 4)
    }

    private struct InitializationWord4: OptionSet {
        var rawValue: UInt8
        static let automaticEnd = InitializationWord4(rawValue: 1 << 1)  // AEOI
        static let specialFullyNested = InitializationWord4(rawValue: 1 << 4)  // SFNM
    }

    /// Operation command word 2: bits 7 to 5.
    private enum EndCommand: UInt8 {
        case stopRotatingOnAutomaticEnd = 0
        case end = 1
        case none = 2
        case endSpecific = 3
        case rotateOnAutomaticEnd = 4
        case endAndRotate = 5
        case setPriority = 6
        case endSpecificAndRotate = 7
    }

    /// Operation command word 3.
    private enum ModeCommand {
        static let marker: UInt8 = 0x08
        static let poll: UInt8 = 0x04  // P
        static let selectRegister: UInt8 = 0x02  // RR
        static let inService: UInt8 = 0x01  // RIS
        static let changeSpecialMask: UInt8 = 0x40  // ESMM
        static let specialMask: UInt8 = 0x20  // SMM
    }

    private static let cascadeInput = 2
    /// Inputs of the master and of the slave that may be level-triggered.
    private static let edgeLevelMasks: [UInt8] = [0xf8, 0xde]

    // MARK: State

    /// What the next write to the data port means.
    public enum Step: String, Codable, Sendable {
        /// After power-on: nothing is delivered before the first initialization.
        case uninitialized
        case vectorBase
        case cascade
        case mode
        case ready
    }

    /// One 8259A.
    public struct Chip: Codable, Equatable, Sendable {
        public var step = Step.uninitialized
        public var lines: UInt8 = 0
        public var requests: UInt8 = 0  // IRR
        public var inService: UInt8 = 0  // ISR
        public var mask: UInt8 = 0  // IMR
        public var vectorBase: UInt8 = 0
        /// The input with the lowest priority, 7 unless rotated.
        public var lowestPriority: UInt8 = 7
        public var edgeLevel: UInt8 = 0
        public var isSingle = false
        public var needsWord4 = false
        public var automaticEnd = false
        public var rotatesOnAutomaticEnd = false
        public var specialFullyNested = false
        public var specialMask = false
        public var allLevelTriggered = false
        public var readsInService = false
        public var polls = false

        public init() {}

        fileprivate func isLevelTriggered(_ bit: UInt8) -> Bool { allLevelTriggered || edgeLevel & bit != 0 }

        /// The input of `set` with the highest priority, and how many come before it.
        fileprivate func first(of set: UInt8) -> (input: Int, rank: Int)? {
            guard set != 0 else { return nil }
            for rank in 0..<8 {
                let input = (Int(lowestPriority) + 1 + rank) & 7
                if set & (1 << UInt8(input)) != 0 { return (input, rank) }
            }
            return nil
        }

        /// The input that asks for service now. `isMaster` says whether input 2 is a cascade.
        fileprivate func pendingInput(isMaster: Bool) -> Int? {
            guard step == .ready, let request = first(of: requests & ~mask) else { return nil }
            var blocking = inService
            if specialMask { blocking &= ~mask }
            if specialFullyNested, isMaster { blocking &= ~(1 << UInt8(cascadeInput)) }
            if let current = first(of: blocking), current.rank <= request.rank { return nil }
            return request.input
        }

        fileprivate mutating func setLine(_ input: Int, _ asserted: Bool) {
            let bit = UInt8(1) << UInt8(input)
            let rises = asserted && lines & bit == 0
            if asserted { lines |= bit } else { lines &= ~bit }
            if isLevelTriggered(bit) {
                if asserted { requests |= bit } else { requests &= ~bit }
            } else if rises {
                requests |= bit
            }
        }

        fileprivate mutating func accept(_ input: Int) {
            let bit = UInt8(1) << UInt8(input)
            if !isLevelTriggered(bit) { requests &= ~bit }
            if automaticEnd {
                if rotatesOnAutomaticEnd { lowestPriority = UInt8(input) }
            } else {
                inService |= bit
            }
        }
    }

    public struct State: Codable, Equatable, Sendable {
        /// The master, then the slave.
        public var chips = [Chip(), Chip()]
        public init() {}
    }

    public let layerName = "pic"
    private var master = Chip()
    private var slave = Chip()
    private let outputChanged: (Bool) -> Void
    /// Whether the pair asks the processor for service: INTR.
    public private(set) var output = false

    /// `outputChanged` gets the level of INTR whenever it changes.
    public init(outputChanged: @escaping (Bool) -> Void) { self.outputChanged = outputChanged }

    private func update() {
        // The slave drops its output with each acknowledge, so what it still has is a new edge: the master's request
        // follows the slave's.
        let cascade = UInt8(1) << UInt8(Self.cascadeInput)
        let slaveAsks = slave.pendingInput(isMaster: false) != nil
        master.lines = slaveAsks ? master.lines | cascade : master.lines & ~cascade
        master.requests = slaveAsks ? master.requests | cascade : master.requests & ~cascade
        let asserted = master.pendingInput(isMaster: true) != nil
        guard asserted != output else { return }
        output = asserted
        outputChanged(asserted)
    }

    // MARK: Guest access

    public func readByte(offset: UInt64) -> UInt8 {
        defer { update() }
        switch Register(rawValue: offset) {
        case .masterCommand: return Self.readCommand(&master, isMaster: true)
        case .slaveCommand: return Self.readCommand(&slave, isMaster: false)
        case .masterData: return Self.readData(&master, isMaster: true)
        case .slaveData: return Self.readData(&slave, isMaster: false)
        case .masterEdgeLevel: return master.edgeLevel
        case .slaveEdgeLevel: return slave.edgeLevel
        case nil: return openBusByte
        }
    }

    public func writeByte(_ value: UInt8, offset: UInt64) {
        switch Register(rawValue: offset) {
        case .masterCommand: Self.writeCommand(&master, value)
        case .slaveCommand: Self.writeCommand(&slave, value)
        case .masterData: Self.writeData(&master, value)
        case .slaveData: Self.writeData(&slave, value)
        case .masterEdgeLevel: master.edgeLevel = value & Self.edgeLevelMasks[0]
        case .slaveEdgeLevel: slave.edgeLevel = value & Self.edgeLevelMasks[1]
        case nil: return
        }
        update()
    }

    private static func readCommand(_ chip: inout Chip, isMaster: Bool) -> UInt8 {
        if chip.polls { return poll(&chip, isMaster: isMaster) }
        return chip.readsInService ? chip.inService : chip.requests
    }

    private static func readData(_ chip: inout Chip, isMaster: Bool) -> UInt8 {
        chip.polls ? poll(&chip, isMaster: isMaster) : chip.mask
    }

    /// The read after a poll command acts as an acknowledge: bit 7 and the input number, or 0.
    private static func poll(_ chip: inout Chip, isMaster: Bool) -> UInt8 {
        chip.polls = false
        guard let input = chip.pendingInput(isMaster: isMaster) else { return 0 }
        chip.accept(input)
        return 0x80 | UInt8(input)
    }

    private static func writeCommand(_ chip: inout Chip, _ value: UInt8) {
        let first = InitializationWord1(rawValue: value)
        if first.contains(.marker) {
            var fresh = Chip()
            fresh.step = .vectorBase
            fresh.lines = chip.lines
            fresh.edgeLevel = chip.edgeLevel
            fresh.vectorBase = chip.vectorBase
            fresh.needsWord4 = first.contains(.needsWord4)
            fresh.isSingle = first.contains(.single)
            fresh.allLevelTriggered = first.contains(.levelTriggered)
            // Edges of before are forgotten; levels are still there.
            for input in 0..<8 where chip.lines & 1 << UInt8(input) != 0 && fresh.isLevelTriggered(1 << UInt8(input)) {
                fresh.requests |= 1 << UInt8(input)
            }
            chip = fresh
        } else if value & ModeCommand.marker != 0 {
            if value & ModeCommand.poll != 0 {
                chip.polls = true
            } else if value & ModeCommand.selectRegister != 0 {
                chip.readsInService = value & ModeCommand.inService != 0
            }
            if value & ModeCommand.changeSpecialMask != 0 { chip.specialMask = value & ModeCommand.specialMask != 0 }
        } else if let command = EndCommand(rawValue: value >> 5) {
            end(&chip, command, input: value & 7)
        }
    }

    private static func end(_ chip: inout Chip, _ command: EndCommand, input: UInt8) {
        switch command {
        case .stopRotatingOnAutomaticEnd: chip.rotatesOnAutomaticEnd = false
        case .rotateOnAutomaticEnd: chip.rotatesOnAutomaticEnd = true
        case .end, .endAndRotate:
            let candidates = chip.specialMask ? chip.inService & ~chip.mask : chip.inService
            guard let current = chip.first(of: candidates) else { return }
            chip.inService &= ~(1 << UInt8(current.input))
            if command == .endAndRotate { chip.lowestPriority = UInt8(current.input) }
        case .endSpecific, .endSpecificAndRotate:
            chip.inService &= ~(1 << input)
            if command == .endSpecificAndRotate { chip.lowestPriority = input }
        case .setPriority: chip.lowestPriority = input
        case .none: break
        }
    }

    private static func writeData(_ chip: inout Chip, _ value: UInt8) {
        switch chip.step {
        case .uninitialized, .ready: chip.mask = value
        case .vectorBase:
            chip.vectorBase = value & 0xf8
            chip.step = chip.isSingle ? (chip.needsWord4 ? .mode : .ready) : .cascade
        case .cascade:
            // The wiring is fixed: the value has nothing to choose.
            chip.step = chip.needsWord4 ? .mode : .ready
        case .mode:
            let mode = InitializationWord4(rawValue: value)
            chip.automaticEnd = mode.contains(.automaticEnd)
            chip.specialFullyNested = mode.contains(.specialFullyNested)
            chip.step = .ready
        }
    }

    // MARK: Host events

    /// Sets the level of ISA interrupt `input` (0 to 15; 2 is the cascade and has no line).
    public func setLine(_ input: Int, asserted: Bool) {
        guard (0..<16).contains(input), input != Self.cascadeInput else { return }
        if input < 8 { master.setLine(input, asserted) } else { slave.setLine(input - 8, asserted) }
        update()
    }

    /// The processor's two acknowledge cycles: the vector, which is a spurious one when the request is gone.
    public func acknowledge() -> UInt8 {
        defer { update() }
        guard let input = master.pendingInput(isMaster: true) else { return master.vectorBase | 7 }
        master.accept(input)
        guard input == Self.cascadeInput else { return master.vectorBase | UInt8(input) }
        guard let second = slave.pendingInput(isMaster: false) else { return slave.vectorBase | 7 }
        slave.accept(second)
        return slave.vectorBase | UInt8(second)
    }

    // MARK: Save and restore

    public func reset() {
        var chips = [Chip(), Chip()]
        (chips[0].lines, chips[1].lines) = (master.lines, slave.lines)
        (master, slave) = (chips[0], chips[1])
        update()
    }

    public func saveState() -> State {
        var state = State()
        state.chips = [master, slave]
        return state
    }

    public func validate(_ state: State) throws(SnapshotError) {
        try check(state.chips.count == 2, "chips", state.chips.count, "two")
        for (chip, edgeLevelMask) in zip(state.chips, Self.edgeLevelMasks) {
            try check("vectorBase", chip.vectorBase, within: 0xf8)
            try check("lowestPriority", chip.lowestPriority, within: 7)
            try check("edgeLevel", chip.edgeLevel, within: edgeLevelMask)
        }
    }

    public func assign(_ state: State) {
        master = state.chips[0]
        slave = state.chips[1]
        output = master.pendingInput(isMaster: true) != nil
    }
}
