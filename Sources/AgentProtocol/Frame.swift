// SPDX-License-Identifier: Apache-2.0
// What is said between the host and the guest's agent: frames. docs/agent-protocol.md. Compiled into both.

/// Numbers that both sides agree on.
public enum AgentProtocol {
    /// The only version there is.
    public static let version: UInt16 = 1
    /// The vsock port on which the agent listens.
    public static let port: UInt32 = 1024
    /// Bytes of a frame's payload, at most.
    public static let largestPayload = 128 << 10
    /// Bytes of data that one frame carries.
    public static let dataSize = 32 << 10
    /// Bytes of a command's input that the host may send before the agent says that it has handed some on.
    public static let inputWindow = 64 << 10
    static let headerSize = 5
}

/// What a frame is.
public enum FrameKind: UInt8, Sendable {
    // From the host.
    case hello = 1
    case execute = 2
    case input = 3
    case endOfInput = 4
    case signal = 5
    case resize = 6
    case copyIn = 7
    case copyOut = 8
    /// Before a snapshot.
    case prepare = 9
    /// After a snapshot, in the machine that goes on and in each copy.
    case proceed = 10

    // From the agent.
    case greeting = 32
    case started = 33
    case output = 34
    case errorOutput = 35
    /// Input was handed on: the window moves.
    case accepted = 36
    case exited = 37
    case done = 38
    case failure = 39

    // Trees of files, in both directions.
    case folder = 64
    case file = 65
    case link = 66
    case data = 67
    /// The end of a file's data.
    case endOfFile = 68
    /// Back to the folder above.
    case leave = 69
    /// Something that was left out, and why.
    case skipped = 70
    case endOfTree = 71
}

public struct Frame: Equatable, Sendable {
    public var kind: FrameKind
    public var payload: [UInt8]

    public init(_ kind: FrameKind, _ payload: [UInt8] = []) {
        self.kind = kind
        self.payload = payload
    }

    public func append(to bytes: inout [UInt8]) { Self.append(kind, payload[...], to: &bytes) }

    /// Four bytes of the payload's length, one of the kind, the payload.
    public static func append(_ kind: FrameKind, _ payload: ArraySlice<UInt8>, to bytes: inout [UInt8]) {
        var count = payload.count
        for _ in 0..<4 {
            bytes.append(UInt8(truncatingIfNeeded: count))
            count >>= 8
        }
        bytes.append(kind.rawValue)
        bytes.append(copying: payload)
    }
}

/// Why a conversation cannot go on.
public enum FrameError: Error, Equatable, Sendable {
    /// The other side closed, or the machine ended.
    case closed
    /// A frame that is too long or of no known kind, or whose payload is not what its kind has.
    case malformed
    /// A frame of another kind was due.
    case unexpected
}

/// Cuts a stream into frames.
public struct FrameBuffer {
    private var bytes: [UInt8] = []
    private var start = 0

    public init() {}

    public var isEmpty: Bool { start == bytes.count }

    public mutating func append(_ more: ArraySlice<UInt8>) {
        if start == bytes.count {
            bytes.removeAll(keepingCapacity: true)
            start = 0
        } else if start > AgentProtocol.largestPayload {
            bytes.removeFirst(start)
            start = 0
        }
        bytes.append(copying: more)
    }

    /// The next whole frame; nil when more bytes are needed.
    public mutating func next() throws(FrameError) -> Frame? {
        var frame = Frame(.done)
        return try next(into: &frame) ? frame : nil
    }

    /// Puts the next whole frame where another one was, whose memory it takes; false when more bytes are needed.
    public mutating func next(into frame: inout Frame) throws(FrameError) -> Bool {
        guard bytes.count - start >= AgentProtocol.headerSize else { return false }
        var count = 0
        for offset in (0..<4).reversed() { count = count << 8 | Int(bytes[start + offset]) }
        guard count <= AgentProtocol.largestPayload, let kind = FrameKind(rawValue: bytes[start + 4]) else {
            throw .malformed
        }
        let first = start + AgentProtocol.headerSize
        guard bytes.count - first >= count else { return false }
        start = first + count
        frame.kind = kind
        frame.payload.removeAll(keepingCapacity: true)
        frame.payload.append(copying: bytes[first..<start])
        return true
    }
}

extension [UInt8] {
    /// Appends in one piece: what Embedded Swift does with a sequence goes byte by byte.
    mutating func append(copying bytes: ArraySlice<UInt8>) {
        // SAFETY: the slice's own bytes, for the call.
        unsafe bytes.withUnsafeBytes { unsafe append(contentsOf: $0) }
    }
}
