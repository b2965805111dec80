// SPDX-License-Identifier: Apache-2.0
// Where the writer reads guest RAM from.

public import GuestMemory

/// Guest RAM as it was at one instant. The writer calls `read` from several threads at once.
public protocol MemorySource: AnyObject, Sendable {
    /// RAM only (no ROM), ascending, each start a multiple of 1 MiB.
    var ranges: [(start: GuestPhysicalAddress, size: UInt64)] { get }
    /// Fills `buffer` with the bytes from `address`; all of them lie in one of `ranges`. False when memory is lost.
    func read(at address: GuestPhysicalAddress, into buffer: UnsafeMutableRawBufferPointer) -> Bool
}

/// A machine that goes on while it is written.
extension FrozenMemory: MemorySource {}

#if os(Linux)
    /// The same where only the host's kernel knows who changes memory.
    extension MemoryTwin: MemorySource {}
#endif

/// A machine that is paused while it is written, or whose memory nobody changes.
extension GuestMemory: MemorySource {
    public var ranges: [(start: GuestPhysicalAddress, size: UInt64)] {
        regions.filter(\.isWritable).map { ($0.start, $0.size) }
    }

    public func read(at address: GuestPhysicalAddress, into buffer: UnsafeMutableRawBufferPointer) -> Bool {
        guard let host = unsafe try? hostPointer(at: address, count: UInt64(buffer.count)) else { return false }
        // SAFETY: `hostPointer` checked `buffer.count` bytes.
        unsafe buffer.copyMemory(from: UnsafeRawBufferPointer(start: host, count: buffer.count))
        return true
    }
}
