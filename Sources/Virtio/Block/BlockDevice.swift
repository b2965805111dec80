// SPDX-License-Identifier: Apache-2.0
// A virtio block device over a disk image. Spec: virtio 1.2 §5.2.

public import Bus
public import DiskImage
internal import GuestMemory
public import Snapshot

/// A disk of the guest. The machine's thread only.
///
/// Requests go to the image as they come and end in any order; `poll` hands their ends to the driver. Before a snapshot
/// the machine calls `drain`, so saved state never has a request under way.
public final class BlockDevice: VirtioDevice {
    public struct DeviceState: Codable, Equatable, Sendable {
        /// Of the disk, in bytes.
        public var size: UInt64
        public var isReadOnly: Bool

        public init(size: UInt64, isReadOnly: Bool) {
            self.size = size
            self.isReadOnly = isReadOnly
        }
    }

    /// A request that the image works on.
    private struct Flight {
        var queue = 0
        var head: UInt16 = 0
        /// Where the status byte goes.
        var status = GuestPhysicalAddress(0)
        /// What the driver may read afterwards, in bytes.
        var written: UInt32 = 0
        /// Operations of the image that have not ended.
        var operations = 0
        var isFailed = false
        /// Guest memory that gets the data of a read.
        var targets: [GuestBuffer] = []
    }

    private static let queueSize: UInt16 = 256
    /// Bytes of a request's header, and of one range of a discard.
    private static let headerSize = 16
    private static let identitySize = 20

    public let disk: DiskImage
    /// What the guest reads as the disk's serial number.
    public let serial: String
    private let queueCount: Int
    private let blockSize: UInt32

    private weak var transport: (any VirtioTransport)?
    private var queues: [Virtqueue] = []
    private var flights: [Flight] = []
    private var freeFlights: [Int] = []
    private var chain = DescriptorChain()
    private var buffers: [DiskBuffer] = []
    /// Queues in which requests may wait: for room in the image, or for the machine's thread to come back.
    private var waiting: Set<Int> = []
    /// Requests that are taken in one go. A driver that lends memory of its own ring to the device could keep it busy
    /// for ever otherwise.
    private static let batch = 1024
    /// Requests that have ended, by how.
    public private(set) var statistics = (completed: UInt64(0), failed: UInt64(0))

    /// - Parameters:
    ///   - serial: at most 20 bytes.
    ///   - queues: 1 or more; one for each processor makes sense.
    public init(disk: DiskImage, serial: String, queues: Int, blockSize: UInt32 = 512) {
        self.disk = disk
        self.serial = serial
        queueCount = max(1, queues)
        self.blockSize = blockSize
    }

    // MARK: Registers

    public var kind: VirtioDeviceKind { .block }
    public var queueSizes: [UInt16] { Array(repeating: Self.queueSize, count: queueCount) }

    public var deviceFeatures: UInt64 {
        var features: BlockFeatures = [.segmentMax, .blockSize, .flush, .topology, .multipleQueues]
        if disk.isReadOnly { features.insert(.readOnly) } else { features.formUnion([.discard, .writeZeroes]) }
        return features.rawValue
    }

    private var configuration: BlockConfiguration {
        BlockConfiguration(
            capacity: disk.size / BlockConfiguration.sectorSize, blockSize: blockSize, queues: UInt16(queueCount),
            clusterSectors: UInt32(max(disk.clusterSize, UInt64(blockSize)) / BlockConfiguration.sectorSize))
    }

    public func readConfiguration(offset: UInt64, width: AccessWidth) -> UInt64 {
        configuration.read(offset: offset, width: width)
    }

    /// Nothing can be set: the cache mode's field is only writable with a feature that is not offered.
    public func writeConfiguration(_ value: UInt64, offset: UInt64, width: AccessWidth) {}

    // MARK: The driver

    public func activate(_ transport: any VirtioTransport, queues: [Virtqueue], features: UInt64) {
        self.transport = transport
        self.queues = queues
        // After a restore there may be requests that nobody notifies of again.
        waiting = Set(queues.indices)
    }

    public func reset() {
        // The device must not touch memory after a reset: what is under way ends first, unheard.
        disk.drain()
        _ = disk.takeCompletions()
        transport = nil
        queues = []
        flights = []
        freeFlights = []
        waiting = []
    }

    public func notify(queue index: Int) {
        guard queues.indices.contains(index) else { return }
        take(index)
        disk.kick()
        poll()
    }

    /// Takes requests from a queue until it is empty, the image has no room, or it is somebody else's turn.
    private func take(_ index: Int) {
        guard let transport else { return }
        let queue = queues[index]
        var left = Self.batch
        do throws(VirtqueueFault) {
            repeat {
                queue.disableNotifications()
                while left > 0, disk.hasRoom, try queue.pop(into: &chain) {
                    left -= 1
                    try begin(index, transport)
                }
                if left == 0 || !disk.hasRoom, queue.hasPending {
                    waiting.insert(index)
                    return
                }
            } while queue.enableNotifications()
        } catch {
            transport.fail(error)
        }
    }

    /// Starts the request in `chain`.
    private func begin(_ queue: Int, _ transport: any VirtioTransport) throws(VirtqueueFault) {
        // A chain that has no room for a status cannot be answered: the driver broke the contract.
        guard let last = chain.writable.last else { throw .missingBuffer(queue: queue, head: chain.head) }
        let number = freeFlights.popLast() ?? flights.count
        if number == flights.count { flights.append(Flight()) }
        flights[number].queue = queue
        flights[number].head = chain.head
        flights[number].written = 0
        flights[number].operations = 0
        flights[number].isFailed = false
        flights[number].targets.removeAll(keepingCapacity: true)
        flights[number].status = last.address + UInt64(last.count - 1)
        if let status = start(number, transport) { end(number, status) }
    }

    /// Hands the request to the image; a status when it is over at once.
    private func start(_ number: Int, _ transport: any VirtioTransport) -> BlockStatus? {
        guard let type = chain.readInteger(UInt32.self, at: 0), let sector = chain.readInteger(UInt64.self, at: 8)
        else {
            return .ioError
        }
        let offset = sector.multipliedReportingOverflow(by: BlockConfiguration.sectorSize)
        switch BlockRequestType(rawValue: type) {
        case .read:
            guard !offset.overflow, gather(chain.writable, dropFirst: 0, dropLast: 1) else { return .ioError }
            for buffer in chain.writable {
                transport.memory.willChange(buffer.address, count: UInt64(buffer.count))
                flights[number].targets.append(buffer)
            }
            flights[number].written = UInt32(clamping: chain.writableCount)
            flights[number].operations = 1
            disk.read(UInt64(number), at: offset.partialValue, into: buffers)
        case .write:
            guard !offset.overflow, gather(chain.readable, dropFirst: Self.headerSize, dropLast: 0) else {
                return .ioError
            }
            flights[number].operations = 1
            disk.write(UInt64(number), at: offset.partialValue, from: buffers)
        case .flush:
            flights[number].operations = 1
            disk.flush(UInt64(number))
        case .identify:
            return identify(number, transport)
        case .discard, .writeZeroes:
            return startRanges(number, type == BlockRequestType.discard.rawValue)
        case nil:
            return .unsupported
        }
        return nil
    }

    /// The request's data as `buffers`; false when it is not whole sectors.
    private func gather(_ list: [GuestBuffer], dropFirst: Int, dropLast: Int) -> Bool {
        buffers.removeAll(keepingCapacity: true)
        var skip = dropFirst
        var total = 0
        for (index, buffer) in list.enumerated() {
            let from = min(skip, buffer.count)
            skip -= from
            let count = buffer.count - from - (index == list.count - 1 ? dropLast : 0)
            guard count > 0 else { continue }
            // SAFETY: `from` and `count` stay within the buffer.
            unsafe buffers.append(DiskBuffer(start: buffer.host + from, count: count))
            total += count
        }
        return skip == 0 && total.isMultiple(of: Int(BlockConfiguration.sectorSize))
    }

    private func identify(_ number: Int, _ transport: any VirtioTransport) -> BlockStatus {
        let room = Int(clamping: chain.writableCount) - 1
        var bytes = Array(serial.utf8.prefix(Self.identitySize))
        bytes += [UInt8](repeating: 0, count: Self.identitySize - bytes.count)
        guard room >= bytes.count, chain.write(bytes, at: 0, transport.memory) else { return .ioError }
        flights[number].written = UInt32(bytes.count) + 1
        return .ok
    }

    /// Spec: virtio 1.2 §5.2.6, struct virtio_blk_discard_write_zeroes.
    private func startRanges(_ number: Int, _ isDiscard: Bool) -> BlockStatus? {
        if disk.isReadOnly { return .ioError }
        let data = chain.readableCount - UInt64(Self.headerSize)
        let count = data / UInt64(Self.headerSize)
        guard data.isMultiple(of: UInt64(Self.headerSize)), (1...UInt64(BlockConfiguration.rangeMax)).contains(count)
        else { return .ioError }
        var ranges: [(offset: UInt64, count: UInt64, mayUnmap: Bool)] = []
        for index in 1...Int(count) {
            guard let sector = chain.readInteger(UInt64.self, at: index * 16),
                let sectors = chain.readInteger(UInt32.self, at: index * 16 + 8),
                let flags = chain.readInteger(UInt32.self, at: index * 16 + 12)
            else { return .ioError }
            // Bit 0 is unmap, which a discard must not have; the others are reserved.
            guard flags & ~1 == 0, !(isDiscard && flags != 0) else { return .unsupported }
            let capacity = disk.size / BlockConfiguration.sectorSize
            guard sectors <= BlockConfiguration.rangeSectors, sector <= capacity, UInt64(sectors) <= capacity - sector
            else { return .ioError }
            ranges.append((sector * 512, UInt64(sectors) * 512, flags & 1 != 0))
        }
        flights[number].operations = ranges.count
        for range in ranges {
            if isDiscard {
                disk.discard(UInt64(number), at: range.offset, count: range.count)
            } else {
                disk.zero(UInt64(number), at: range.offset, count: range.count, releasing: range.mayUnmap)
            }
        }
        return nil
    }

    // MARK: Host events

    /// Readable when requests may have ended; nil when `notify` ends them all.
    public var completionDescriptor: Int32? { disk.completionDescriptor }

    /// Whether the image works on requests.
    public var isBusy: Bool { flights.count > freeFlights.count }

    /// Whether `poll` would take requests.
    public var hasWork: Bool { !waiting.isEmpty && disk.hasRoom }

    /// Hands ended requests to the driver, and takes those that waited.
    public func poll() {
        complete()
        guard hasWork else { return }
        let indices = waiting.sorted()
        waiting = []
        for index in indices { take(index) }
        disk.kick()
        complete()
    }

    private func complete() {
        for completion in disk.takeCompletions() { operationEnded(completion) }
        signal()
    }

    /// Waits until nothing is under way, and tells the driver of every end. What waits in the queues is left there.
    public func drain() {
        while isBusy {
            disk.drain()
            complete()
        }
    }

    /// The disk has another size.
    public func sizeChanged() { transport?.raiseConfigurationChange() }

    private func operationEnded(_ completion: DiskCompletion) {
        let number = Int(clamping: completion.token)
        guard flights.indices.contains(number), flights[number].operations > 0 else { return }
        if completion.error != 0 { flights[number].isFailed = true }
        flights[number].operations -= 1
        if flights[number].operations == 0 { end(number, flights[number].isFailed ? .ioError : .ok) }
    }

    /// Gives a request back to the driver; `signal` tells it.
    private func end(_ number: Int, _ status: BlockStatus) {
        let flight = flights[number]
        freeFlights.append(number)
        guard let transport, queues.indices.contains(flight.queue) else { return }
        for target in flight.targets { transport.memory.willChange(target.address, count: UInt64(target.count)) }
        statistics.completed += 1
        if status != .ok { statistics.failed += 1 }
        do throws(VirtqueueFault) {
            do throws(GuestMemoryError) { try transport.memory.store(status.rawValue, at: flight.status) } catch {
                // The chain was checked to lie in RAM, which does not go away.
            }
            try queues[flight.queue].complete(flight.head, written: max(1, flight.written))
        } catch {
            transport.fail(error)
        }
    }

    private func signal() {
        guard let transport else { return }
        for queue in queues where queue.shouldInterrupt() { transport.raiseQueueInterrupt() }
    }

    // MARK: Save and restore

    public func saveDeviceState() -> DeviceState { DeviceState(size: disk.size, isReadOnly: disk.isReadOnly) }

    public func validate(_ state: DeviceState) throws(SnapshotError) {
        try require(
            state.size == disk.size, layer: "virtio-blk", field: "size", value: state.size,
            allowed: "the disk's size, \(disk.size)")
        try require(
            state.isReadOnly == disk.isReadOnly, layer: "virtio-blk", field: "isReadOnly", value: state.isReadOnly,
            allowed: "\(disk.isReadOnly)")
    }

    public func assign(_ state: DeviceState) {}
}
