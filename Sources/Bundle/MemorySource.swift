// SPDX-License-Identifier: Apache-2.0
// Where the writer reads guest RAM from.

public import GuestMemory

/// Guest RAM as it was at one instant. The writer calls `read` from several threads at once.
public protocol MemorySource: AnyObject, Sendable {
    /// RAM only (no ROM), ascending, each start a multiple of 1 MiB.
    var ranges: [(start: GuestPhysicalAddress, size: UInt64)] { get }
    /// Fills `buffer` with the bytes from `address`; all of them lie in one of `ranges`.
    func read(at address: GuestPhysicalAddress, into buffer: UnsafeMutableRawBufferPointer)
}

/// A machine that goes on while it is written.
extension FrozenMemory: MemorySource {}

/// A machine that is paused while it is written, or whose memory nobody changes.
extension GuestMemory: MemorySource {
    public var ranges: [(start: GuestPhysicalAddress, size: UInt64)] {
        regions.filter(\.isWritable).map { ($0.start, $0.size) }
    }

    public func read(at address: GuestPhysicalAddress, into buffer: UnsafeMutableRawBufferPointer) {
        guard let host = unsafe try? hostPointer(at: address, count: UInt64(buffer.count)) else {
            unsafe _ = buffer.initializeMemory(as: UInt8.self, repeating: 0)
            return
        }
        // SAFETY: `hostPointer` checked `buffer.count` bytes.
        unsafe buffer.copyMemory(from: UnsafeRawBufferPointer(start: host, count: buffer.count))
    }
}
