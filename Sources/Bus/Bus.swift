// SPDX-License-Identifier: Apache-2.0
// Dispatch of port and memory-mapped I/O to devices. What nobody answers reads as all ones (an open bus).

public import GuestMemory

/// An I/O port number.
public struct Port: RawRepresentable, Hashable, Comparable, Sendable {
    public var rawValue: UInt16

    public init(rawValue: UInt16) { self.rawValue = rawValue }
    public init(_ rawValue: UInt16) { self.rawValue = rawValue }

    public static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
    /// The distance in ports; 0 when `right` is above `left`.
    public static func - (left: Self, right: Self) -> UInt16 {
        left.rawValue >= right.rawValue ? left.rawValue - right.rawValue : 0
    }
}

/// Bytes moved by one access.
public enum AccessWidth: Int, Sendable {
    case byte = 1
    case word = 2
    case doubleWord = 4
    case quadWord = 8

    /// All ones in this width: what an open bus reads as.
    public var openBus: UInt64 { self == .quadWord ? .max : (1 << UInt64(rawValue * 8)) - 1 }
}

/// A device that answers on a range of ports or of guest-physical addresses.
public protocol BusDevice: AnyObject {
    /// Reads at `offset` bytes into the device's range. Unknown offsets read as the open bus.
    func read(offset: UInt64, width: AccessWidth) -> UInt64
    /// Writes the low `width` bytes of `value` at `offset` bytes into the device's range.
    func write(_ value: UInt64, offset: UInt64, width: AccessWidth)
}

/// Two devices claimed the same addresses.
public enum BusError: Error, Equatable, CustomStringConvertible {
    case overlap(first: UInt64, last: UInt64)

    public var description: String {
        switch self {
        case .overlap(let first, let last):
            "bus range 0x\(String(first, radix: 16))...0x\(String(last, radix: 16)) is already taken"
        }
    }
}

/// The machine's port space and the part of guest-physical space that is not memory.
///
/// Not thread-safe: whoever calls holds the machine's device lock.
public final class Bus {
    private struct Attachment {
        let first: UInt64
        let last: UInt64
        let device: any BusDevice
    }

    private var ports: [Attachment] = []
    private var memory: [Attachment] = []

    public init() {}

    public func attach(_ device: any BusDevice, ports range: ClosedRange<Port>) throws(BusError) {
        try Self.insert(
            Attachment(
                first: UInt64(range.lowerBound.rawValue), last: UInt64(range.upperBound.rawValue), device: device),
            into: &ports)
    }

    /// Attaches `device` to `size` bytes (1 or more) from `start`.
    public func attach(_ device: any BusDevice, memory start: GuestPhysicalAddress, size: UInt64) throws(BusError) {
        try Self.insert(
            Attachment(first: start.rawValue, last: start.rawValue &+ (size &- 1), device: device), into: &memory)
    }

    private static func insert(_ new: Attachment, into list: inout [Attachment]) throws(BusError) {
        if list.contains(where: { $0.first <= new.last && new.first <= $0.last }) {
            throw .overlap(first: new.first, last: new.last)
        }
        let position = list.firstIndex { $0.first > new.first } ?? list.count
        list.insert(new, at: position)
    }

    private static func find(_ address: UInt64, in list: [Attachment]) -> Attachment? {
        var low = 0
        var high = list.count
        while low < high {
            let middle = (low + high) / 2
            if list[middle].last < address { low = middle + 1 } else { high = middle }
        }
        guard low < list.count, list[low].first <= address else { return nil }
        return list[low]
    }

    public func readPort(_ port: Port, width: AccessWidth) -> UInt64 {
        guard let found = Self.find(UInt64(port.rawValue), in: ports) else { return width.openBus }
        return found.device.read(offset: UInt64(port.rawValue) - found.first, width: width) & width.openBus
    }

    public func writePort(_ port: Port, _ value: UInt64, width: AccessWidth) {
        guard let found = Self.find(UInt64(port.rawValue), in: ports) else { return }
        found.device.write(value & width.openBus, offset: UInt64(port.rawValue) - found.first, width: width)
    }

    public func readMemory(_ address: GuestPhysicalAddress, width: AccessWidth) -> UInt64 {
        guard let found = Self.find(address.rawValue, in: memory) else { return width.openBus }
        return found.device.read(offset: address.rawValue - found.first, width: width) & width.openBus
    }

    public func writeMemory(_ address: GuestPhysicalAddress, _ value: UInt64, width: AccessWidth) {
        guard let found = Self.find(address.rawValue, in: memory) else { return }
        found.device.write(value & width.openBus, offset: address.rawValue - found.first, width: width)
    }
}
