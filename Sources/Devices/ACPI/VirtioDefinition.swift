// SPDX-License-Identifier: Apache-2.0
// How ACPI announces virtio devices over memory-mapped registers: what Linux's virtio_mmio looks for.

internal import GuestMemory

public enum VirtioDefinition {
    /// The first `count` virtio devices, for `\_SB`.
    public static func devices(_ count: Int) -> [AML] {
        (0..<min(count, PlatformLayout.largestVirtioCount)).map { index in
            let digits = String(index, radix: 16, uppercase: true)
            return AML.device(
                "VR" + String(repeating: "0", count: 2 - digits.utf8.count) + digits,
                [
                    .name("_HID", .string("LNRO0005")),
                    .name("_UID", .integer(UInt64(index))),
                    .name("_CCA", .integer(1)),
                    .name(
                        "_CRS",
                        .resources([
                            .memory(PlatformLayout.virtioWindow(index), size: 0x200),
                            .interrupt(PlatformLayout.Line.free[index], isLevelTriggered: true),
                        ])),
                ])
        }
    }
}
