// SPDX-License-Identifier: Apache-2.0
// One request of a disk's user on its way through the image.

internal import CHost

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// A piece of memory that a request reads into or writes from; it stays where it is until the request has ended.
@safe public struct DiskBuffer {
    public let start: UnsafeMutableRawPointer
    /// Bytes.
    public let count: Int

    public init(start: UnsafeMutableRawPointer, count: Int) {
        unsafe self.start = start
        self.count = count
    }
}

/// The end of a request.
public struct DiskCompletion: Equatable, Sendable {
    /// As given with the request.
    public var token: UInt64
    /// 0, or the host's error number.
    public var error: Int32
}

/// What a disk's user wants.
enum DiskRequestKind: Equatable {
    case read
    case write
    /// `releasing`: the space may be given back.
    case zero(releasing: Bool)
    case discard
    case flush
}

/// A request and what it needs on its way. Used again when it has ended.
@safe final class DiskRequest {
    /// What a request waits for.
    enum Phase {
        case idle
        case reading
        /// Old contents around what is written.
        case filling
        case writing
        /// Barriers of a flush.
        case syncingRefcounts
        case syncingMappings
        case syncingAll
    }

    /// In the table of requests: the tag of its operations.
    let index: Int
    var kind = DiskRequestKind.read
    var token: UInt64 = 0
    var offset: UInt64 = 0
    var count: UInt64 = 0
    /// The user's memory.
    private(set) var vectors: UnsafeMutablePointer<iovec>
    private(set) var vectorCount = 0
    private var vectorCapacity = 16

    var phase = Phase.idle
    /// Order of arrival.
    var sequence: UInt64 = 0
    /// Operations that have not ended.
    var outstanding = 0
    var error: Int32 = 0
    var steps: [WriteStep] = []
    /// Old contents by step: before and behind the piece.
    var fills: [(head: AlignedBuffer?, tail: AlignedBuffer?)] = []
    /// Vectors of operations.
    var lists: [VectorList] = []
    /// Clusters of the disk whose allocation is under way.
    var allocating: Range<UInt64>?
    var plan: FlushPlan?
    /// Memory that operations under way may use, whatever becomes of the request.
    var buffers: [AlignedBuffer] = []

    init(index: Int) {
        self.index = index
        unsafe vectors = .allocate(capacity: 16)
    }

    deinit {
        unsafe vectors.deallocate()
        for list in lists { list.deallocate() }
    }

    func setBuffers(_ buffers: [DiskBuffer]) {
        if buffers.count > vectorCapacity {
            unsafe vectors.deallocate()
            unsafe vectors = .allocate(capacity: buffers.count)
            vectorCapacity = buffers.count
        }
        for (index, buffer) in buffers.enumerated() {
            // SAFETY: there is room for `buffers.count` vectors.
            unsafe (vectors + index).initialize(to: iovec(iov_base: buffer.start, iov_len: buffer.count))
        }
        vectorCount = buffers.count
    }

    var cursor: VectorCursor { unsafe VectorCursor(vectors, vectorCount) }

    /// A list for the vectors of one operation, kept until the request ends.
    func newList() -> VectorList { VectorList(capacity: vectorCount + 3) }

    /// Makes it ready for the next request.
    func clear() {
        for list in lists { list.deallocate() }
        lists.removeAll(keepingCapacity: true)
        steps.removeAll(keepingCapacity: true)
        fills.removeAll(keepingCapacity: true)
        phase = .idle
        outstanding = 0
        error = 0
        allocating = nil
        plan = nil
        buffers.removeAll(keepingCapacity: true)
    }

    func overlaps(_ other: Range<UInt64>) -> Bool {
        phase != .idle && kind != .flush && offset < other.upperBound && other.lowerBound < offset + count
    }
}
