// SPDX-License-Identifier: Apache-2.0
// What a device occupies: ports, memory, interrupts. Spec: ACPI 6.4 §6.4, resource data types.

public import Bus
public import GuestMemory

/// One descriptor of a resource template.
public struct AMLResource: Equatable, Sendable {
    let bytes: [UInt8]

    private init(_ bytes: [UInt8]) { self.bytes = bytes }

    /// Small, type 15, one byte of checksum: 0 stands for none.
    static let endTag: [UInt8] = [0x79, 0x00]

    /// `count` fixed ports from `first`, decoded with 16 bits.
    public static func ports(_ first: Port, count: UInt8) -> AMLResource {
        let start = AML.littleEndian(first.rawValue)
        return AMLResource([0x47, 0x01] + start + start + [1, count])
    }

    /// An ISA interrupt, 0 to 15: edge-triggered, active high, exclusive.
    public static func isaInterrupt(_ number: Int) -> AMLResource {
        AMLResource([0x22] + AML.littleEndian(UInt16(1) << UInt16(number & 15)))
    }

    /// A global system interrupt that the device consumes: active high, exclusive.
    public static func interrupt(_ line: Int, isLevelTriggered: Bool) -> AMLResource {
        let flags: UInt8 = isLevelTriggered ? 0x01 : 0x03  // Consumer; bit 1 is edge-triggered.
        return AMLResource([0x89] + AML.littleEndian(UInt16(6)) + [flags, 1] + AML.littleEndian(UInt32(line)))
    }

    /// `size` bytes of device memory at `start`, below 4 GiB, readable and writable.
    public static func memory(_ start: GuestPhysicalAddress, size: UInt32) -> AMLResource {
        AMLResource(
            [0x86] + AML.littleEndian(UInt16(9)) + [1]
                + AML.littleEndian(UInt32(truncatingIfNeeded: start.rawValue)) + AML.littleEndian(size))
    }
}
