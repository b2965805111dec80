// SPDX-License-Identifier: Apache-2.0
// The DSDT: the platform's own devices. Spec: ACPI 6.4 chapters 5.6.9 (generic event device), 7.4.2 (\_Sx) and 9.

internal import Bus
internal import GuestMemory

enum PlatformDefinition {
    /// The definition block's contents, with `devices` appended to `\_SB`.
    static func contents(_ devices: [AML]) -> [UInt8] {
        // A hardware-reduced machine takes only the first element.
        let softOff = AML.name("_S5", .package([.integer(UInt64(PowerControl.softOffType)), .integer(0)]))
        let platform = AML.scope(
            "_SB", [serialPort, realTimeClock, powerButton, generation, eventDevice] + devices)
        return softOff.bytes + platform.bytes
    }

    /// Its interrupt has to be here: hardware-reduced means that nobody assumes ISA's.
    private static let serialPort = AML.device(
        "COM1",
        [
            .name("_HID", .eisaID("PNP0501")),
            .name("_UID", .integer(0)),
            .name(
                "_CRS",
                .resources([
                    .ports(PlatformLayout.serialPorts.lowerBound, count: 8),
                    .isaInterrupt(PlatformLayout.Line.serial),
                ])),
        ])

    private static let realTimeClock = AML.device(
        "RTC",
        [
            .name("_HID", .eisaID("PNP0B00")),
            .name(
                "_CRS",
                .resources([
                    .ports(PlatformLayout.realTimeClockPorts.lowerBound, count: 2),
                    .isaInterrupt(PlatformLayout.Line.realTimeClock),
                ])),
        ])

    private static let powerButton = AML.device("PWRB", [.name("_HID", .eisaID("PNP0C0C"))])

    /// Drivers know it by its compatible id; `ADDR` gives the halves of the address of the id, and notes that it was asked.
    private static let generation = AML.device(
        "VGEN",
        [
            .name("_HID", .string("SMOL0001")),
            .name("_CID", .string("VM_Gen_Counter")),
            .name("_DDN", .string("VM_Gen_Counter")),
            .memoryRegion(
                "PAGE", at: PlatformLayout.generationPage + VMGenerationID.Inquiry.offset, count: 1),
            .byteField("NOTE", in: "PAGE"),
            .method(
                "ADDR",
                [
                    .store(.integer(UInt64(VMGenerationID.Inquiry.made)), in: "NOTE"),
                    .returning(
                        .package([
                            .integer(PlatformLayout.generationPage.rawValue & 0xffff_ffff),
                            .integer(PlatformLayout.generationPage.rawValue >> 32),
                        ])),
                ]),
        ])

    /// Interrupts that ask for a look at a device.
    private static let eventDevice = AML.device(
        "GED",
        [
            .name("_HID", .string("ACPI0013")),
            .name("_UID", .integer(0)),
            .name(
                "_CRS",
                .resources([
                    .interrupt(PlatformLayout.Line.powerButton, isLevelTriggered: false),
                    .interrupt(PlatformLayout.Line.generation, isLevelTriggered: false),
                ])),
            .method(
                "_EVT", arguments: 1,
                [
                    notify("PWRB", when: PlatformLayout.Line.powerButton),
                    notify("VGEN", when: PlatformLayout.Line.generation),
                ]),
        ])

    private static func notify(_ device: String, when line: Int) -> AML {
        .when(.equal(.argument(0), .integer(UInt64(line))), [.notify(device, 0x80)])
    }
}
