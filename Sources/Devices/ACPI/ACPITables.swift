// SPDX-License-Identifier: Apache-2.0
// The tables that tell an operating system what the machine has. Spec: ACPI 6.4 chapter 5; hardware-reduced, §4.1.

public import GuestMemory

/// Builds RSDP, XSDT, FADT, MADT and DSDT. A pure function of the configuration.
public enum ACPITables {
    /// What the tables depend on.
    public struct Configuration: Sendable {
        /// Processors, each with its index as APIC id.
        public var processors: Int
        /// Devices in `\_SB` beside the platform's own.
        public var devices: [AML]

        public init(processors: Int, devices: [AML] = []) {
            self.processors = processors
            self.devices = devices
        }
    }

    /// One table and where it lies.
    public struct Table: Equatable, Sendable {
        public let address: GuestPhysicalAddress
        public let bytes: [UInt8]
    }

    /// Where the RSDP is: the first place that a scan of the BIOS area looks at.
    public static let rootPointer = GuestPhysicalAddress(0xe_0000)
    /// The tables' space ends where the page of the generation id begins.
    static let end = PlatformLayout.generationPage

    private static let manufacturer = "SMOLVM"
    private static let model = "SMOLVMM "
    private static let creator = "SMOL"

    /// The tables, RSDP first, in ascending order of address.
    /// - Throws: `tablesTooLarge` when the devices do not fit.
    public static func build(_ configuration: Configuration) throws(DevicesError) -> [Table] {
        let definitions = header("DSDT", revision: 2, PlatformDefinition.contents(configuration.devices))
        let processors = header("APIC", revision: 5, interruptControllers(configuration.processors))

        let definitionsAddress = rootPointer + 64
        let fixedAddress = following(definitionsAddress, definitions)
        let fixed = header("FACP", revision: 6, fixedDescription(definitions: definitionsAddress))
        let processorsAddress = following(fixedAddress, fixed)
        let rootAddress = following(processorsAddress, processors)
        let root = header(
            "XSDT", revision: 1,
            [fixedAddress, processorsAddress].flatMap { AML.littleEndian($0.rawValue) })
        guard rootAddress + UInt64(root.count) <= end else {
            throw .tablesTooLarge(bytes: rootAddress + UInt64(root.count) - rootPointer, limit: end - rootPointer)
        }
        return [
            Table(address: rootPointer, bytes: rootPointerStructure(root: rootAddress)),
            Table(address: definitionsAddress, bytes: definitions),
            Table(address: fixedAddress, bytes: fixed),
            Table(address: processorsAddress, bytes: processors),
            Table(address: rootAddress, bytes: root),
        ]
    }

    /// The next multiple of 16 after `table`.
    private static func following(_ address: GuestPhysicalAddress, _ table: [UInt8]) -> GuestPhysicalAddress {
        address + (UInt64(table.count) + 15) / 16 * 16
    }

    /// Spec: ACPI 6.4 §5.2.6, system description table header.
    private static func header(_ signature: String, revision: UInt8, _ contents: [UInt8]) -> [UInt8] {
        var table = Array(signature.utf8) + AML.littleEndian(UInt32(36 + contents.count)) + [revision, 0]
        table += Array(manufacturer.utf8) + Array(model.utf8) + AML.littleEndian(UInt32(1))
        table += Array(creator.utf8) + AML.littleEndian(UInt32(1)) + contents
        table[9] = checksum(table)
        return table
    }

    /// The byte that makes the sum of all bytes 0, where there is a 0 now.
    private static func checksum(_ bytes: some Sequence<UInt8>) -> UInt8 { 0 &- bytes.reduce(0, &+) }

    /// Spec: ACPI 6.4 §5.2.5.3, root system description pointer.
    private static func rootPointerStructure(root: GuestPhysicalAddress) -> [UInt8] {
        var pointer = Array("RSD PTR ".utf8) + [0] + Array(manufacturer.utf8) + [2]
        // No RSDT: its 32-bit address is 0.
        pointer += AML.littleEndian(UInt32(0)) + AML.littleEndian(UInt32(36)) + AML.littleEndian(root.rawValue)
        pointer += [0, 0, 0, 0]
        pointer[8] = checksum(pointer.prefix(20))
        pointer[32] = checksum(pointer)
        return pointer
    }

    // MARK: FADT

    private struct FixedFlags: OptionSet {
        var rawValue: UInt32
        static let writeBackInvalidates = FixedFlags(rawValue: 1 << 0)  // WBINVD
        static let halts = FixedFlags(rawValue: 1 << 2)  // PROC_C1
        static let noFixedPowerButton = FixedFlags(rawValue: 1 << 4)  // PWR_BUTTON
        static let noFixedSleepButton = FixedFlags(rawValue: 1 << 5)  // SLP_BUTTON
        static let resetRegister = FixedFlags(rawValue: 1 << 10)  // RESET_REG_SUP
        static let hardwareReduced = FixedFlags(rawValue: 1 << 20)  // HW_REDUCED_ACPI
        static let all: FixedFlags = [
            .writeBackInvalidates, .halts, .noFixedPowerButton, .noFixedSleepButton, .resetRegister, .hardwareReduced,
        ]
    }

    private struct BootFlags: OptionSet {
        var rawValue: UInt16
        static let legacyDevices = BootFlags(rawValue: 1 << 0)  // the serial port
        static let noVGA = BootFlags(rawValue: 1 << 2)
        // Bit 1, a keyboard controller, stays clear: nobody shall probe for one.
    }

    /// What follows the header, 240 bytes. Offsets are those of the whole table. Spec: ACPI 6.4 §5.2.9.
    private static func fixedDescription(definitions: GuestPhysicalAddress) -> [UInt8] {
        var table = [UInt8](repeating: 0, count: 276)
        func put<Value: FixedWidthInteger>(_ value: Value, at offset: Int) {
            table.replaceSubrange(offset..<offset + Value.bitWidth / 8, with: AML.littleEndian(value))
        }
        put(UInt32(truncatingIfNeeded: definitions.rawValue), at: 40)  // DSDT
        put(UInt16(101), at: 96)  // P_LVL2_LAT: above 100, no C2
        put(UInt16(1001), at: 98)  // P_LVL3_LAT: above 1000, no C3
        put(UInt8(0x32), at: 108)  // CENTURY, in CMOS RAM
        put(([.legacyDevices, .noVGA] as BootFlags).rawValue, at: 109)  // IAPC_BOOT_ARCH
        put(FixedFlags.all.rawValue, at: 112)
        table.replaceSubrange(116..<128, with: portAddress(.resetControl))
        put(PowerControl.resetValue, at: 128)
        put(UInt8(4), at: 131)  // minor version
        put(definitions.rawValue, at: 140)  // X_DSDT
        table.replaceSubrange(244..<256, with: portAddress(.sleepControl))
        table.replaceSubrange(256..<268, with: portAddress(.sleepStatus))
        return Array(table.dropFirst(36))
    }

    /// A byte register in port space. Spec: ACPI 6.4 §5.2.3.2, generic address structure.
    private static func portAddress(_ register: PowerControl.Register) -> [UInt8] {
        [1, 8, 0, 1] + AML.littleEndian(register.rawValue)
    }

    // MARK: MADT

    private enum ControllerType {
        static let localAPIC: UInt8 = 0
        static let ioapic: UInt8 = 1
        static let sourceOverride: UInt8 = 2
        static let localNonMaskable: UInt8 = 4
    }

    /// Spec: ACPI 6.4 §5.2.12.
    private static func interruptControllers(_ processors: Int) -> [UInt8] {
        var table = AML.littleEndian(UInt32(PlatformLayout.localAPIC.rawValue)) + AML.littleEndian(UInt32(1))
        for index in 0..<UInt8(clamping: processors) {
            table += [ControllerType.localAPIC, 8, index, index] + AML.littleEndian(UInt32(1))
        }
        table += [ControllerType.ioapic, 12, 0, 0] + AML.littleEndian(UInt32(PlatformLayout.ioapic.rawValue))
        table += AML.littleEndian(UInt32(0))
        // The timer, ISA interrupt 0, is not on line 0. Polarity and trigger as ISA has them.
        table += [ControllerType.sourceOverride, 10, 0, 0] + AML.littleEndian(UInt32(InterruptFabric.timerLine))
        table += AML.littleEndian(UInt16(0))
        // NMI comes to LINT1 of every processor.
        table += [ControllerType.localNonMaskable, 6, 0xff, 0, 0, 1]
        return table
    }
}
