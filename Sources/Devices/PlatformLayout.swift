// SPDX-License-Identifier: Apache-2.0
// Where everything of the platform is: ports, addresses and interrupt lines, in one place.

internal import Bus
public import GuestMemory

/// The fixed addresses of the platform.
public enum PlatformLayout {
    static let masterControllerPorts = Port(0x20)...Port(0x21)
    static let timerPorts = Port(0x40)...Port(0x43)
    static let keyboardDataPorts = Port(0x60)...Port(0x60)
    static let speakerPorts = Port(0x61)...Port(0x61)
    static let keyboardCommandPorts = Port(0x64)...Port(0x64)
    static let realTimeClockPorts = Port(0x70)...Port(0x71)
    static let slaveControllerPorts = Port(0xa0)...Port(0xa1)
    static let serialPorts = Port(0x3f8)...Port(0x3ff)
    static let edgeLevelPorts = Port(0x4d0)...Port(0x4d1)
    static let sleepPorts = Port(0x600)...Port(0x601)
    static let resetPorts = Port(0xcf9)...Port(0xcf9)

    public static let ioapic = GuestPhysicalAddress(0xfec0_0000)
    public static let localAPIC = GuestPhysicalAddress(0xfee0_0000)
    static let registerPage: UInt64 = 0x1000

    /// Where the register windows of virtio devices start, one page each.
    private static let virtio = GuestPhysicalAddress(0xd000_0000)
    /// Virtio devices of a machine, at most: each has an interrupt line of its own.
    public static let largestVirtioCount = Line.free.count

    /// The register window of virtio device `index`, below `largestVirtioCount`.
    public static func virtioWindow(_ index: Int) -> GuestPhysicalAddress { virtio + UInt64(index) * registerPage }

    /// The page that holds the generation id at its start.
    public static let generationPage = GuestPhysicalAddress(0xf_f000)

    /// A range that the guest's memory map must not offer as RAM.
    public struct ReservedRange: Equatable, Sendable {
        public let start: GuestPhysicalAddress
        /// Bytes.
        public let size: UInt64
    }

    /// Entries of type 2 (reserved) for the E820 map: ACPI tables and generation id, IOAPIC, local APICs.
    /// Nothing from 0xa0000 up to the first of them is RAM either.
    public static let reserved = [
        ReservedRange(start: ACPITables.rootPointer, size: 0x10_0000 - ACPITables.rootPointer.rawValue),
        ReservedRange(start: ioapic, size: registerPage),
        ReservedRange(start: localAPIC, size: registerPage),
    ]

    /// Global system interrupts.
    public enum Line {
        /// The timer's ISA number; it is wired to line 2 of the IOAPIC.
        static let timer = 0
        static let serial = 4
        static let realTimeClock = 8
        static let powerButton = 9
        static let generation = 10
        /// For devices that the machine adds.
        public static let free = Array(16..<IOAPIC.lineCount) + [5, 6, 7, 11, 12, 14, 15]
    }
}
