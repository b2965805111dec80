// SPDX-License-Identifier: Apache-2.0
// Packets of the virtio socket device. Spec: virtio 1.2 §5.10.6.

/// Both ends of a stream by their port numbers.
public struct VsockPorts: Codable, Hashable, Sendable {
    public var host: UInt32
    public var guest: UInt32

    public init(host: UInt32, guest: UInt32) {
        self.host = host
        self.guest = guest
    }
}

/// Context ids: addresses of machines. Spec: virtio 1.2 §5.10.4.
public enum VsockContext {
    static let host: UInt64 = 2
    /// The first one that a guest may have. Each machine has a socket device of its own, so all have this one.
    public static let guest: UInt64 = 3
}

/// What a packet is for. Spec: virtio 1.2 §5.10.6.
enum VsockOperation: UInt16 {
    case request = 1
    case response = 2
    case reset = 3  // RST
    case shutdown = 4
    case data = 5  // RW
    case creditUpdate = 6
    case creditRequest = 7
}

/// Flags of `shutdown`: what its sender does not do any more.
struct VsockShutdown: OptionSet {
    let rawValue: UInt32

    static let receive = Self(rawValue: 1)
    static let send = Self(rawValue: 2)
    static let both: Self = [.receive, .send]
}

/// What stands before every packet's data.
struct VsockHeader: Equatable {
    /// Bytes.
    static let size = 44
    static let stream: UInt16 = 1

    var source: UInt64  // src_cid
    var destination: UInt64  // dst_cid
    var sourcePort: UInt32
    var destinationPort: UInt32
    /// Bytes of data.
    var length: UInt32
    var type: UInt16
    /// A `VsockOperation`, or one that nobody knows.
    var operation: UInt16
    var flags: UInt32
    /// Bytes that the sender has room for in all, and that it has handed on so far, modulo 2^32.
    var bufferSize: UInt32  // buf_alloc
    var forwarded: UInt32  // fwd_cnt

    /// From the host to the guest's end of `ports`.
    init(_ operation: VsockOperation, _ ports: VsockPorts, guest: UInt64, flags: VsockShutdown = []) {
        source = VsockContext.host
        destination = guest
        sourcePort = ports.host
        destinationPort = ports.guest
        length = 0
        type = Self.stream
        self.operation = operation.rawValue
        self.flags = flags.rawValue
        bufferSize = 0
        forwarded = 0
    }

    /// Nil when there are not 44 bytes.
    init?(_ bytes: [UInt8]) {
        guard bytes.count >= Self.size else { return nil }
        func read<Value: FixedWidthInteger>(_ offset: Int, as type: Value.Type) -> Value {
            (0..<Value.bitWidth / 8).reduce(0) { $0 | Value(truncatingIfNeeded: bytes[offset + $1]) << Value($1 * 8) }
        }
        source = read(0, as: UInt64.self)
        destination = read(8, as: UInt64.self)
        sourcePort = read(16, as: UInt32.self)
        destinationPort = read(20, as: UInt32.self)
        length = read(24, as: UInt32.self)
        type = read(28, as: UInt16.self)
        operation = read(30, as: UInt16.self)
        flags = read(32, as: UInt32.self)
        bufferSize = read(36, as: UInt32.self)
        forwarded = read(40, as: UInt32.self)
    }

    var bytes: [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Self.size)
        func add<Value: FixedWidthInteger>(_ value: Value) {
            for shift in stride(from: 0, to: Value.bitWidth, by: 8) {
                bytes.append(UInt8(truncatingIfNeeded: value >> Value(shift)))
            }
        }
        add(source)
        add(destination)
        add(sourcePort)
        add(destinationPort)
        add(length)
        add(type)
        add(operation)
        add(flags)
        add(bufferSize)
        add(forwarded)
        return bytes
    }
}
