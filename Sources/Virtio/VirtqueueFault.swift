// SPDX-License-Identifier: Apache-2.0
// What a driver can do wrong with a queue. The device then needs a reset; the machine goes on.

public import GuestMemory

/// Why a device gave up on its driver. Spec: virtio 1.2 §2.1.2.
public enum VirtqueueFault: Error, Equatable, CustomStringConvertible {
    /// Ring or descriptor table is not in RAM.
    case ringOutsideMemory(what: String, address: GuestPhysicalAddress, bytes: UInt64)
    case misalignedRing(what: String, address: GuestPhysicalAddress, alignment: UInt64)
    case invalidSize(UInt32, largest: UInt16)
    /// More buffers became available than the queue has entries.
    case indexJump(available: UInt16, taken: UInt16, size: UInt16)
    case descriptorOutOfRange(index: UInt16, size: UInt32)
    case loop(head: UInt16, longest: UInt32)
    case emptyBuffer(head: UInt16)
    case bufferOutsideMemory(head: UInt16, address: GuestPhysicalAddress, bytes: UInt32)
    case readableAfterWritable(head: UInt16)
    case tooLong(head: UInt16)
    /// An indirect table that is empty, not whole descriptors, too long, chained on, or inside another.
    case invalidIndirectTable(head: UInt16, bytes: UInt32)
    /// The chain lacks a buffer that its kind of request has.
    case missingBuffer(queue: Int, head: UInt16)

    public var description: String {
        switch self {
        case .ringOutsideMemory(let what, let address, let bytes):
            "\(what) of \(bytes) bytes at \(address) is not in RAM"
        case .misalignedRing(let what, let address, let alignment):
            "\(what) at \(address) is not aligned to \(alignment)"
        case .invalidSize(let size, let largest): "a queue of \(size) entries: must be a power of two up to \(largest)"
        case .indexJump(let available, let taken, let size):
            "the available index is \(available), \(taken) were taken, and the queue has \(size) entries"
        case .descriptorOutOfRange(let index, let size): "descriptor \(index) of a table of \(size)"
        case .loop(let head, let longest): "the chain from descriptor \(head) has more than \(longest) descriptors"
        case .emptyBuffer(let head): "the chain from descriptor \(head) has an empty buffer"
        case .bufferOutsideMemory(let head, let address, let bytes):
            "the chain from descriptor \(head) has \(bytes) bytes at \(address), which are not in RAM"
        case .readableAfterWritable(let head):
            "the chain from descriptor \(head) has a readable buffer behind a writable one"
        case .tooLong(let head): "the chain from descriptor \(head) has more than 4 GiB"
        case .invalidIndirectTable(let head, let bytes):
            "the chain from descriptor \(head) has an invalid indirect table of \(bytes) bytes"
        case .missingBuffer(let queue, let head): "the chain from descriptor \(head) of queue \(queue) lacks a buffer"
        }
    }
}
