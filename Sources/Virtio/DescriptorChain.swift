// SPDX-License-Identifier: Apache-2.0
// The buffers of one request, checked: all of them lie in the guest's RAM.

public import GuestMemory

/// Guest RAM that a driver lent the device.
@safe public struct GuestBuffer {
    public let address: GuestPhysicalAddress
    /// Bytes, 1 or more.
    public let count: Int
    /// Valid for `count` bytes while the guest memory lives.
    public let host: UnsafeMutableRawPointer

    init(address: GuestPhysicalAddress, count: Int, host: UnsafeMutableRawPointer) {
        self.address = address
        self.count = count
        unsafe self.host = host
    }
}

/// One request. Made once and filled again for each.
public struct DescriptorChain {
    /// What `Virtqueue.complete` takes.
    public internal(set) var head: UInt16 = 0
    /// For the device to read.
    public internal(set) var readable: [GuestBuffer] = []
    /// For the device to write, behind the readable ones.
    public internal(set) var writable: [GuestBuffer] = []
    /// Bytes.
    public internal(set) var readableCount: UInt64 = 0
    public internal(set) var writableCount: UInt64 = 0

    public init() {}

    mutating func clear(head: UInt16) {
        self.head = head
        readable.removeAll(keepingCapacity: true)
        writable.removeAll(keepingCapacity: true)
        readableCount = 0
        writableCount = 0
    }

    /// The little-endian integer `offset` bytes into the readable part, however it is split; nil when it is not all there.
    public func readInteger<Value: FixedWidthInteger & UnsignedInteger>(_ type: Value.Type, at offset: Int) -> Value? {
        let size = Value.bitWidth / 8
        var skip = offset
        var value: Value = 0
        var done = 0
        for buffer in readable {
            guard skip < buffer.count else {
                skip -= buffer.count
                continue
            }
            while skip < buffer.count, done < size {
                // SAFETY: `skip` is below the buffer's count.
                let byte = unsafe buffer.host.load(fromByteOffset: skip, as: UInt8.self)
                value |= Value(byte) << Value(done * 8)
                skip += 1
                done += 1
            }
            skip = 0
            if done == size { return value }
        }
        return nil
    }

    /// Up to `limit` bytes of the readable part.
    public func readBytes(limit: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        read(into: &bytes, limit: limit)
        return bytes
    }

    /// Appends the readable part, as far as `bytes` has at most `limit` bytes then.
    func read(into bytes: inout [UInt8], limit: Int = .max) {
        for buffer in readable where bytes.count < limit {
            let count = min(buffer.count, limit - bytes.count)
            // SAFETY: `count` is at most the buffer's.
            unsafe bytes.append(contentsOf: UnsafeRawBufferPointer(start: buffer.host, count: count))
        }
    }

    /// Where `count` bytes of the writable part are, from `offset` on; fewer when it is shorter.
    func addresses(at offset: Int, count: Int) -> [GuestPhysicalAddress] {
        var skip = offset
        var addresses: [GuestPhysicalAddress] = []
        for buffer in writable {
            while skip < buffer.count, addresses.count < count {
                addresses.append(buffer.address + UInt64(skip))
                skip += 1
            }
            skip -= buffer.count
            if addresses.count == count { break }
        }
        return addresses
    }

    /// Calls `body` with the parts of the readable bytes from `offset` on, at most `limit` of them.
    func forEachReadable(from offset: Int, limit: Int, _ body: (UnsafeRawBufferPointer) -> Void) {
        var skip = offset
        var left = limit
        for buffer in readable where left > 0 {
            guard skip < buffer.count else {
                skip -= buffer.count
                continue
            }
            let count = min(buffer.count - skip, left)
            // SAFETY: `skip` and `count` stay within the buffer.
            unsafe body(UnsafeRawBufferPointer(start: buffer.host + skip, count: count))
            left -= count
            skip = 0
        }
    }

    /// Copies `bytes` into the writable part from `offset` on; false when they do not fit.
    public func write(_ bytes: [UInt8], at offset: Int, _ memory: GuestMemory) -> Bool {
        write(bytes[...], at: offset, memory)
    }

    func write(_ bytes: ArraySlice<UInt8>, at offset: Int, _ memory: GuestMemory) -> Bool {
        // SAFETY: the array stays while its bytes are copied.
        unsafe bytes.withUnsafeBytes { unsafe write($0, at: offset, memory) }
    }

    /// The same for bytes that are in no array.
    @discardableResult
    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int, _ memory: GuestMemory) -> Bool {
        guard offset >= 0, UInt64(offset) + UInt64(bytes.count) <= writableCount else { return false }
        var skip = offset
        var done = 0
        for buffer in writable where done < bytes.count {
            guard skip < buffer.count else {
                skip -= buffer.count
                continue
            }
            let count = min(buffer.count - skip, bytes.count - done)
            memory.willChange(buffer.address + UInt64(skip), count: UInt64(count))
            // SAFETY: the part lies in the buffer; `done` + `count` is at most `bytes.count`.
            unsafe UnsafeMutableRawBufferPointer(start: buffer.host + skip, count: count)
                .copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[done..<done + count]))
            done += count
            skip = 0
        }
        return true
    }
}
