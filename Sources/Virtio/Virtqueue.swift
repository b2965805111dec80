// SPDX-License-Identifier: Apache-2.0
// A split virtqueue. Everything in it is the driver's word and is checked before it is used. Spec: virtio 1.2 §2.7.

internal import CHost
internal import GuestMemory
internal import Snapshot

/// One queue of a device. The machine's thread only.
@safe public final class Virtqueue {
    public struct State: Codable, Equatable, Sendable {
        /// Entries.
        public var size: UInt32
        public var isReady: Bool
        /// Guest-physical addresses of descriptor table, available ring (driver area) and used ring (device area).
        public var descriptors: UInt64
        public var driver: UInt64
        public var device: UInt64
        /// Buffers taken from the available ring and put into the used ring so far, modulo 2^16.
        public var taken: UInt16
        public var used: UInt16
        /// `used` when the driver was last considered for an interrupt.
        public var signalled: UInt16
    }

    private struct DescriptorFlags {
        static let next: UInt16 = 1  // VIRTQ_DESC_F_NEXT
        static let write: UInt16 = 2  // VIRTQ_DESC_F_WRITE
        static let indirect: UInt16 = 4  // VIRTQ_DESC_F_INDIRECT
    }

    private struct Descriptor {
        var address: UInt64
        var length: UInt32
        var flags: UInt16
        var next: UInt16
    }

    private static let descriptorSize: UInt64 = 16
    /// VIRTQ_AVAIL_F_NO_INTERRUPT and VIRTQ_USED_F_NO_NOTIFY.
    private static let suppress: UInt16 = 1

    public let largestSize: UInt16
    /// Of the device that it belongs to.
    public let index: Int
    private let memory: GuestMemory
    private var state: State
    /// VIRTIO_F_EVENT_IDX was negotiated.
    var usesEventIndex = false

    // Host addresses while the queue is ready; nil until then.
    private var table: UnsafeMutableRawPointer?
    private var available: UnsafeMutableRawPointer?
    private var usedRing: UnsafeMutableRawPointer?

    init(index: Int, largestSize: UInt16, memory: GuestMemory) {
        self.index = index
        self.largestSize = largestSize
        self.memory = memory
        state = Self.initialState(largestSize)
    }

    private static func initialState(_ size: UInt16) -> State {
        State(
            size: UInt32(size), isReady: false, descriptors: 0, driver: 0, device: 0, taken: 0, used: 0, signalled: 0)
    }

    // MARK: Configuration by the transport

    var isReady: Bool { state.isReady }

    func reset() {
        state = Self.initialState(largestSize)
        usesEventIndex = false
        unsafe table = nil
        unsafe available = nil
        unsafe usedRing = nil
    }

    /// Changes size or addresses of a queue that is not ready.
    func configure(_ change: (inout State) -> Void) {
        guard !state.isReady else { return }
        change(&state)
        state.isReady = false
    }

    /// Makes the queue ready: from now on its rings are where they are.
    func enable() throws(VirtqueueFault) {
        guard !state.isReady else { return }
        try locate(state)
        state.isReady = true
    }

    func disable() {
        state.isReady = false
        unsafe table = nil
        unsafe available = nil
        unsafe usedRing = nil
    }

    /// Checks size and addresses, and finds the rings in host memory.
    private func locate(_ state: State) throws(VirtqueueFault) {
        let size = UInt64(state.size)
        guard state.size.nonzeroBitCount == 1, size <= UInt64(largestSize) else {
            throw .invalidSize(state.size, largest: largestSize)
        }
        let table = unsafe try ring(
            "the descriptor table", state.descriptors, size * Self.descriptorSize, alignment: 16)
        let available = unsafe try ring("the available ring", state.driver, 6 + 2 * size, alignment: 2)
        let used = unsafe try ring("the used ring", state.device, 6 + 8 * size, alignment: 4)
        unsafe self.table = table
        unsafe self.available = available
        unsafe usedRing = used
    }

    private func ring(
        _ what: String, _ address: UInt64, _ bytes: UInt64, alignment: UInt64
    ) throws(VirtqueueFault) -> UnsafeMutableRawPointer {
        let address = GuestPhysicalAddress(address)
        guard address.rawValue.isMultiple(of: alignment) else {
            throw .misalignedRing(what: what, address: address, alignment: alignment)
        }
        guard let region = memory.region(holding: address, count: bytes), region.isWritable else {
            throw .ringOutsideMemory(what: what, address: address, bytes: bytes)
        }
        // SAFETY: `region` holds all `bytes` bytes.
        return unsafe region.host + Int(address - region.start)
    }

    // MARK: Available buffers

    /// Whether the driver has made buffers available that were not taken.
    public var hasPending: Bool {
        guard let available = unsafe available else { return false }
        // SAFETY: the ring has at least six bytes.
        return unsafe chost_load_acquire16(available + 2) != state.taken
    }

    /// Takes the next chain; false when there is none.
    public func pop(into chain: inout DescriptorChain) throws(VirtqueueFault) -> Bool {
        guard let available = unsafe available else { return false }
        // SAFETY: the ring has at least six bytes.
        let index = unsafe chost_load_acquire16(available + 2)
        guard index != state.taken else { return false }
        guard UInt32(index &- state.taken) <= state.size else {
            throw .indexJump(available: index, taken: state.taken, size: UInt16(truncatingIfNeeded: state.size))
        }
        let slot = Int(UInt32(state.taken) & (state.size - 1))
        // SAFETY: `slot` is below the size that the ring was checked for.
        let head = unsafe UInt16(littleEndian: available.load(fromByteOffset: 4 + slot * 2, as: UInt16.self))
        try walk(head, &chain)
        state.taken &+= 1
        return true
    }

    /// The chain that `pop` gave last was not needed: the next `pop` gives it again.
    public func putBack() { state.taken &-= 1 }

    /// Chains that the driver has made available so far, modulo 2^16.
    public var availableIndex: UInt16 {
        guard let available = unsafe available else { return state.taken }
        // SAFETY: the ring has at least six bytes.
        return unsafe chost_load_acquire16(available + 2)
    }

    /// Follows a chain, in the table or an indirect one.
    private func walk(_ head: UInt16, _ chain: inout DescriptorChain) throws(VirtqueueFault) {
        guard let table = unsafe table else { return }
        chain.clear(head: head)
        var current = unsafe table
        var limit = state.size
        var next = head
        var seen: UInt32 = 0
        var isIndirect = false
        while true {
            guard UInt32(next) < limit else { throw .descriptorOutOfRange(index: next, size: limit) }
            seen += 1
            guard seen <= state.size else { throw .loop(head: head, longest: state.size) }
            let descriptor = unsafe Self.descriptor(current, Int(next))
            if descriptor.flags & DescriptorFlags.indirect != 0 {
                guard !isIndirect, descriptor.flags & DescriptorFlags.next == 0, descriptor.length > 0,
                    UInt64(descriptor.length).isMultiple(of: Self.descriptorSize),
                    UInt64(descriptor.length) / Self.descriptorSize <= 1 << 16
                else { throw .invalidIndirectTable(head: head, bytes: descriptor.length) }
                let address = GuestPhysicalAddress(descriptor.address)
                guard let region = memory.region(holding: address, count: UInt64(descriptor.length)) else {
                    throw .bufferOutsideMemory(head: head, address: address, bytes: descriptor.length)
                }
                // SAFETY: `region` holds the table.
                unsafe current = region.host + Int(address - region.start)
                limit = descriptor.length / UInt32(Self.descriptorSize)
                isIndirect = true
                next = 0
                // The entry that led here is no buffer.
                seen -= 1
                continue
            }
            try append(descriptor, head, &chain)
            guard descriptor.flags & DescriptorFlags.next != 0 else { return }
            next = descriptor.next
        }
    }

    /// Copies a descriptor out: the driver may change it while it is looked at.
    private static func descriptor(_ table: UnsafeMutableRawPointer, _ index: Int) -> Descriptor {
        // SAFETY: the caller keeps `index` below the table's entries. Indirect tables need no alignment.
        let entry = unsafe table + index * 16
        return unsafe Descriptor(
            address: UInt64(littleEndian: entry.loadUnaligned(as: UInt64.self)),
            length: UInt32(littleEndian: entry.loadUnaligned(fromByteOffset: 8, as: UInt32.self)),
            flags: UInt16(littleEndian: entry.loadUnaligned(fromByteOffset: 12, as: UInt16.self)),
            next: UInt16(littleEndian: entry.loadUnaligned(fromByteOffset: 14, as: UInt16.self)))
    }

    private func append(
        _ descriptor: Descriptor, _ head: UInt16, _ chain: inout DescriptorChain
    ) throws(VirtqueueFault) {
        guard descriptor.length > 0 else { throw .emptyBuffer(head: head) }
        let address = GuestPhysicalAddress(descriptor.address)
        guard let region = memory.region(holding: address, count: UInt64(descriptor.length)), region.isWritable else {
            throw .bufferOutsideMemory(head: head, address: address, bytes: descriptor.length)
        }
        // SAFETY: `region` holds the buffer.
        let buffer = unsafe GuestBuffer(
            address: address, count: Int(descriptor.length), host: region.host + Int(address - region.start))
        if descriptor.flags & DescriptorFlags.write != 0 {
            chain.writable.append(buffer)
            chain.writableCount += UInt64(descriptor.length)
        } else {
            guard chain.writable.isEmpty else { throw .readableAfterWritable(head: head) }
            chain.readable.append(buffer)
            chain.readableCount += UInt64(descriptor.length)
        }
        guard chain.readableCount + chain.writableCount <= 1 << 32 else { throw .tooLong(head: head) }
    }

    // MARK: Used buffers

    /// Gives a chain back to the driver, with `written` bytes of its writable part filled.
    public func complete(_ head: UInt16, written: UInt32) throws(VirtqueueFault) {
        try complete(CollectionOfOne((head: head, written: written)))
    }

    /// The same for several chains, of which the driver sees all or none.
    func complete(_ chains: some Collection<(head: UInt16, written: UInt32)>) throws(VirtqueueFault) {
        guard let usedRing = unsafe usedRing else { return }
        memory.willChange(GuestPhysicalAddress(state.device), count: 6 + 8 * UInt64(state.size))
        for chain in chains {
            let slot = Int(UInt32(state.used) & (state.size - 1))
            // SAFETY: `slot` is below the size that the ring was checked for.
            unsafe usedRing.storeBytes(of: UInt32(chain.head).littleEndian, toByteOffset: 4 + slot * 8, as: UInt32.self)
            unsafe usedRing.storeBytes(of: chain.written.littleEndian, toByteOffset: 8 + slot * 8, as: UInt32.self)
            state.used &+= 1
        }
        // SAFETY: the ring has at least six bytes.
        unsafe chost_store_release16(usedRing + 2, state.used)
    }

    /// Leaves the `count` chains that were taken last for later: `pop` takes them again.
    func putBack(_ count: Int) { state.taken &-= UInt16(truncatingIfNeeded: count) }

    /// Whether the driver wants an interrupt for what was completed since the last call. Spec: virtio 1.2 §2.7.7.
    public func shouldInterrupt() -> Bool {
        guard let available = unsafe available, state.used != state.signalled else { return false }
        let before = state.signalled
        state.signalled = state.used
        chost_full_fence()
        guard usesEventIndex else {
            // SAFETY: the ring has at least six bytes.
            return unsafe chost_load_acquire16(available) & Self.suppress == 0
        }
        // SAFETY: used_event follows the ring's entries.
        let event = unsafe chost_load_acquire16(available + 4 + Int(state.size) * 2)
        return state.used &- event &- 1 < state.used &- before
    }

    // MARK: Notifications of the driver

    /// The driver need not tell of new buffers: the device looks by itself.
    public func disableNotifications() {
        guard !usesEventIndex, let usedRing = unsafe usedRing else { return }
        memory.willChange(GuestPhysicalAddress(state.device), count: 2)
        // SAFETY: the ring has at least six bytes.
        unsafe chost_store_release16(usedRing, Self.suppress)
    }

    /// The driver shall tell of new buffers. Returns whether there are some already: look again.
    public func enableNotifications() -> Bool {
        requestNotification(behind: state.taken)
        return hasPending
    }

    /// The driver shall tell of the next buffer that it makes available, though others may wait untaken.
    public func notifyOfNext() { requestNotification(behind: availableIndex) }

    private func requestNotification(behind index: UInt16) {
        guard let usedRing = unsafe usedRing else { return }
        if usesEventIndex {
            let offset = 4 + Int(state.size) * 8
            memory.willChange(GuestPhysicalAddress(state.device) + UInt64(offset), count: 2)
            // SAFETY: avail_event follows the ring's entries.
            unsafe chost_store_release16(usedRing + offset, index)
        } else {
            memory.willChange(GuestPhysicalAddress(state.device), count: 2)
            // SAFETY: the ring has at least six bytes.
            unsafe chost_store_release16(usedRing, 0)
        }
        chost_full_fence()
    }

    // MARK: Save and restore

    func saveState() -> State { state }

    func validate(_ state: State, layer: String) throws(SnapshotError) {
        guard state.isReady else { return }
        do throws(VirtqueueFault) {
            let old = unsafe (table, available, usedRing)
            defer { unsafe (table, available, usedRing) = old }
            try locate(state)
        } catch {
            try require(false, layer: layer, field: "queues[\(index)]", value: "refused", allowed: error.description)
        }
    }

    /// Takes over a validated state.
    func assign(_ state: State) {
        disable()
        self.state = state
        guard state.isReady else { return }
        do throws(VirtqueueFault) { try locate(state) } catch { disable() }
    }
}
