// SPDX-License-Identifier: Apache-2.0
// Frames over a descriptor that blocks. Compiled into host and guest.

internal import CAgentFiles

/// One end of a conversation. One thread.
public final class FrameStream {
    private static let bufferSize = 64 << 10

    /// Stays the caller's.
    public let descriptor: Int32
    private var incoming = FrameBuffer()
    private var outgoing: [UInt8] = []
    private var buffer = [UInt8](repeating: 0, count: FrameStream.bufferSize)

    public init(_ descriptor: Int32) { self.descriptor = descriptor }

    /// Sends a frame, now or with later ones.
    public func queue(_ frame: Frame) throws(FrameError) { try queue(frame.kind, frame.payload[...]) }

    public func queue(_ kind: FrameKind, _ payload: ArraySlice<UInt8>) throws(FrameError) {
        Frame.append(kind, payload, to: &outgoing)
        if outgoing.count >= Self.bufferSize { try flush() }
    }

    /// Sends a frame and everything before it now.
    public func send(_ frame: Frame) throws(FrameError) {
        frame.append(to: &outgoing)
        try flush()
    }

    public func flush() throws(FrameError) {
        defer { outgoing.removeAll(keepingCapacity: true) }
        var done = 0
        while done < outgoing.count {
            let start = done
            let count = unsafe outgoing.withUnsafeBytes { bytes in
                // SAFETY: `start` is below the count of `bytes`.
                unsafe agent_write(descriptor, bytes.baseAddress.map { unsafe $0 + start }, UInt(bytes.count - start))
            }
            guard count > 0 else { throw .closed }
            done += Int(count)
        }
    }

    /// The next frame, waiting for it.
    public func receive() throws(FrameError) -> Frame {
        var frame = Frame(.done)
        try receive(into: &frame)
        return frame
    }

    /// The same, in the memory of another frame.
    public func receive(into frame: inout Frame) throws(FrameError) {
        while try !incoming.next(into: &frame) {
            guard try fill() else { throw .closed }
        }
    }

    /// A frame that has already arrived.
    public func next() throws(FrameError) -> Frame? { try incoming.next() }

    /// Reads once what is there; false at the end.
    public func fill() throws(FrameError) -> Bool {
        let count = unsafe buffer.withUnsafeMutableBytes { bytes in
            // SAFETY: the buffer's own count.
            unsafe agent_read(descriptor, bytes.baseAddress, UInt(bytes.count))
        }
        // A descriptor that does not block may have nothing.
        guard count > 0 else { return count < 0 && agent_must_wait() != 0 }
        incoming.append(buffer[..<Int(count)])
        return true
    }
}

extension [UInt8] {
    public init(_ text: StaticString) {
        // SAFETY: the buffer is the literal's own, valid for the call.
        self = text.withUTF8Buffer { unsafe Array($0) }
    }

    /// The digits of a number from 0 on.
    public init(decimal number: Int) {
        self = []
        var rest = number
        repeat {
            insert(UInt8(ascii: "0") + UInt8(truncatingIfNeeded: rest % 10), at: 0)
            rest /= 10
        } while rest > 0
    }

    /// The system's words for an error number.
    public init(error number: Int32) {
        self = []
        // SAFETY: strerror gives a text that ends with NUL, copied at once.
        guard var next = unsafe agent_error_text(number) else { return }
        while unsafe next.pointee != 0 {
            append(UInt8(bitPattern: unsafe next.pointee))
            unsafe next += 1
        }
    }
}
