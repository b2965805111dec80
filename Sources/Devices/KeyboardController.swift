// SPDX-License-Identifier: Apache-2.0
// What is left of the keyboard controller: its pulse of the reset line. Spec: Intel 8042 data sheet, IBM PC AT reference.

internal import Bus

/// An i8042 without keyboard, for software that resets the machine through it. It has no state. Offsets are port numbers.
public final class KeyboardController: ByteDevice {
    // MARK: Register map

    private enum Register: UInt64 {
        case data = 0x60
        case command = 0x64  // status when read
    }

    /// Output full, input empty: a probe that flushes the output gives up after a few reads instead of waiting for an
    /// answer, and whoever waits to write a command goes on at once.
    private static let status: UInt8 = 0x01

    private enum Command {
        static let pulseOutputs: UInt8 = 0xf0
        /// In a pulse command: output 0, the reset line, is left alone.
        static let keepsReset: UInt8 = 0x01
    }

    public weak var events: (any PlatformEvents)?

    public init() {}

    // MARK: Guest access

    public func readByte(offset: UInt64) -> UInt8 {
        switch Register(rawValue: offset) {
        case .command: Self.status
        case .data, nil: openBusByte
        }
    }

    public func writeByte(_ value: UInt8, offset: UInt64) {
        guard Register(rawValue: offset) == .command else { return }
        if value & Command.pulseOutputs == Command.pulseOutputs, value & Command.keepsReset == 0 {
            events?.platformRequestsReset()
        }
    }
}
