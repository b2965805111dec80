// SPDX-License-Identifier: Apache-2.0
// Devices with an eight-bit data bus, as on ISA: a wider access is one byte access after the other.

public import Bus

/// A device whose registers are bytes.
public protocol ByteDevice: BusDevice {
    func readByte(offset: UInt64) -> UInt8
    func writeByte(_ value: UInt8, offset: UInt64)
}

extension ByteDevice {
    public func read(offset: UInt64, width: AccessWidth) -> UInt64 {
        var value: UInt64 = 0
        for byte in 0..<UInt64(width.rawValue) {
            value |= UInt64(readByte(offset: offset &+ byte)) << (byte * 8)
        }
        return value
    }

    public func write(_ value: UInt64, offset: UInt64, width: AccessWidth) {
        for byte in 0..<UInt64(width.rawValue) {
            writeByte(UInt8(truncatingIfNeeded: value >> (byte * 8)), offset: offset &+ byte)
        }
    }
}

/// What an absent byte register reads as.
let openBusByte: UInt8 = 0xff

/// Shows a device that answers on several ranges of ports one of them: offsets become port numbers.
final class PortWindow: BusDevice {
    private let device: any BusDevice
    private let first: UInt64

    init(_ device: any BusDevice, first: UInt16) {
        self.device = device
        self.first = UInt64(first)
    }

    func read(offset: UInt64, width: AccessWidth) -> UInt64 { device.read(offset: first &+ offset, width: width) }

    func write(_ value: UInt64, offset: UInt64, width: AccessWidth) {
        device.write(value, offset: first &+ offset, width: width)
    }
}
