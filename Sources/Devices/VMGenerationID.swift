// SPDX-License-Identifier: Apache-2.0
// Tells the guest that it is a copy. Spec: Microsoft, Virtual Machine Generation ID (2012).

public import Bus
public import GuestMemory
public import Snapshot

/// The generation id: 16 bytes in reserved guest memory that change whenever the machine is restored.
public final class VMGenerationID: PlatformDevice {
    // MARK: State

    public struct State: Codable, Equatable, Sendable {
        /// 16 bytes.
        public var identifier: [UInt8]

        public init(identifier: [UInt8]) { self.identifier = identifier }
    }

    public static let size = 16

    public let layerName = "generation"
    private let memory: GuestMemory
    private let address: GuestPhysicalAddress
    private let interrupt: InterruptLine
    public private(set) var identifier: [UInt8]

    /// The id lies at `address`, which the ACPI tables name; `interrupt` is a line of the generic event device.
    public init(memory: GuestMemory, address: GuestPhysicalAddress, interrupt: InterruptLine) {
        self.memory = memory
        self.address = address
        self.interrupt = interrupt
        identifier = Self.random()
    }

    private static func random() -> [UInt8] { (0..<size).map { _ in UInt8.random(in: .min ... .max) } }

    // MARK: Guest access

    /// Writes the id to guest memory: before the first instruction, and after a reset.
    public func install() throws(GuestMemoryError) { try memory.write(identifier, at: address) }

    // MARK: Host events

    /// Gives the guest a new random id and tells it so: after a restore, before the first guest instruction.
    public func regenerate() throws(GuestMemoryError) {
        identifier = Self.random()
        try install()
        interrupt.pulse()
    }

    // MARK: Save and restore

    /// The id outlives a reset: the machine is the same.
    public func reset() {}

    public func saveState() -> State { State(identifier: identifier) }

    public func validate(_ state: State) throws(SnapshotError) {
        try check(state.identifier.count == Self.size, "identifier", state.identifier.count, "\(Self.size) bytes")
    }

    /// Guest memory is a layer of its own and has the id already.
    public func assign(_ state: State) { identifier = state.identifier }
}
