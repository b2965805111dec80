// SPDX-License-Identifier: Apache-2.0
// Registers and control messages of the virtio console. Spec: virtio 1.2 §5.3.4 and §5.3.6.2.

/// Feature bits. Spec: virtio 1.2 §5.3.3.
enum ConsoleFeatures {
    static let size: UInt64 = 1 << 0  // VIRTIO_CONSOLE_F_SIZE
    static let multiplePorts: UInt64 = 1 << 1  // VIRTIO_CONSOLE_F_MULTIPORT
}

/// What a control message says.
enum ConsoleEvent: UInt16, Codable, Sendable {
    case deviceReady = 0
    case portAdd = 1  // VIRTIO_CONSOLE_DEVICE_ADD
    case portRemove = 2
    case portReady = 3
    case consolePort = 4
    case resize = 5
    case portOpen = 6
    case portName = 7
}

/// A control message: eight bytes, and what follows them.
struct ConsoleMessage {
    static let headerSize = 8

    var port: UInt32
    var event: ConsoleEvent
    var value: UInt16 = 0
    var extra: [UInt8] = []

    var bytes: [UInt8] {
        func little<Value: FixedWidthInteger>(_ value: Value) -> [UInt8] {
            stride(from: 0, to: Value.bitWidth, by: 8).map { UInt8(truncatingIfNeeded: value >> Value($0)) }
        }
        return little(port) + little(event.rawValue) + little(value) + extra
    }
}
