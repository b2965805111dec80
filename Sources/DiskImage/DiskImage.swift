// SPDX-License-Identifier: Apache-2.0
// A disk: a chain of images, and the requests on their way through it.

internal import Synchronization

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// One virtual disk. Requests may come from one thread and views be read by others; the disk locks itself.
///
/// Requests that overlap and are under way at the same time happen in any order, each as a whole.
public final class DiskImage: @unchecked Sendable {
    /// Requests under way at once, at most.
    public static let depth = 256
    /// Bytes of one request, at most.
    public static let largestRequest: UInt64 = 1 << 30

    private let lock = Mutex<Void>(())
    /// The topmost image first.
    let layers: [any ImageLayer]
    let io: IOQueue
    public let isReadOnly: Bool
    /// Flushes do nothing: it is thrown away with the process.
    let isScratch: Bool
    var top: any ImageLayer { layers[0] }

    var requests: [DiskRequest] = []
    var free: [Int] = []
    var active: [Int] = []
    var blocked: [Int] = []
    var flushing: Int?
    var waitingFlushes: [Int] = []
    var ended: [DiskCompletion] = []
    private var sequence: UInt64 = 0
    private var harvest: [IOQueue.Completion] = []
    /// The view that a snapshot is written from.
    var frozen: FrozenDisk?
    var zeros: AlignedBuffer?

    init(_ layers: [any ImageLayer], isReadOnly: Bool, isScratch: Bool = false, usesKernel: Bool) {
        self.layers = layers
        self.isReadOnly = isReadOnly
        self.isScratch = isScratch
        io = IOQueue(usesKernel: usesKernel)
        for index in 0..<Self.depth {
            requests.append(DiskRequest(index: index))
            free.append(Self.depth - 1 - index)
        }
    }

    func locked<Value, Failure: Error>(_ body: () throws(Failure) -> Value) throws(Failure) -> Value {
        try lock.withLock { _ throws(Failure) -> Value in try body() }
    }

    /// Bytes.
    public var size: UInt64 { locked { top.size } }
    public var format: DiskFormat { top.format }
    public var path: String { top.file.path }
    /// The unit in which space is given back, in bytes.
    public var clusterSize: UInt64 { top.clusterSize }
    /// Readable when requests have ended; nil when all end within `submit`.
    public var completionDescriptor: Int32? { io.descriptor }
    /// Requests under way.
    public var pending: Int { locked { Self.depth - free.count } }
    /// Whether `depth` allows another request.
    public var hasRoom: Bool { locked { !free.isEmpty } }

    // MARK: Requests

    /// Reads into `buffers` from `offset` on. Its end comes by `takeCompletions`.
    public func read(_ token: UInt64, at offset: UInt64, into buffers: [DiskBuffer]) {
        submit(.read, token, offset, buffers.reduce(0) { $0 + UInt64($1.count) }, buffers)
    }

    /// Writes `buffers` from `offset` on.
    public func write(_ token: UInt64, at offset: UInt64, from buffers: [DiskBuffer]) {
        submit(.write, token, offset, buffers.reduce(0) { $0 + UInt64($1.count) }, buffers)
    }

    /// Makes bytes read as zero.
    public func zero(_ token: UInt64, at offset: UInt64, count: UInt64, releasing: Bool) {
        submit(.zero(releasing: releasing), token, offset, count, [])
    }

    /// The bytes' contents do not matter any more.
    public func discard(_ token: UInt64, at offset: UInt64, count: UInt64) {
        submit(.discard, token, offset, count, [])
    }

    /// Puts everything on the disk that has ended before.
    public func flush(_ token: UInt64) { submit(.flush, token, 0, 0, []) }

    /// Hands requests to the kernel that have collected since the last call.
    public func kick() { locked { io.kick() } }

    /// Requests that have ended since the last call.
    /// - Parameter waiting: for at least one, when any is under way.
    public func takeCompletions(waiting: Bool = false) -> [DiskCompletion] {
        locked {
            advance(waiting: false)
            while waiting, ended.isEmpty, free.count < Self.depth {
                io.kick()
                advance(waiting: true)
            }
            defer { ended.removeAll(keepingCapacity: true) }
            return ended
        }
    }

    /// Waits until every request has ended; `takeCompletions` gives their ends afterwards.
    public func drain() {
        locked {
            while free.count < Self.depth {
                io.kick()
                advance(waiting: true)
            }
        }
    }

    private func submit(
        _ kind: DiskRequestKind, _ token: UInt64, _ offset: UInt64, _ count: UInt64, _ buffers: [DiskBuffer]
    ) {
        locked {
            if let error = refusal(kind, offset, count) {
                ended.append(DiskCompletion(token: token, error: error))
                return
            }
            while free.isEmpty {
                io.kick()
                advance(waiting: true)
            }
            let request = requests[free.removeLast()]
            request.kind = kind
            request.token = token
            request.offset = offset
            request.count = count
            request.setBuffers(buffers)
            start(request)
            if !io.completions.isEmpty { advance(waiting: false) }
        }
    }

    private func refusal(_ kind: DiskRequestKind, _ offset: UInt64, _ count: UInt64) -> Int32? {
        if kind != .read, isReadOnly { return kind == .flush ? nil : EROFS }
        let size = top.size
        guard offset <= size, count <= size - offset, count <= Self.largestRequest else { return EINVAL }
        return nil
    }

    /// Starts a request, or lets it wait for others that it would disturb.
    func start(_ request: DiskRequest) {
        sequence += 1
        request.sequence = sequence
        top.sequence = sequence
        active.append(request.index)
        if request.kind == .flush {
            startFlush(request)
            return
        }
        if isBlocked(request) {
            active.removeLast()
            blocked.append(request.index)
            return
        }
        do throws(DiskImageError) {
            switch request.kind {
            case .read: try startRead(request)
            case .write: try startWrite(request)
            case .zero(let releasing): try startZero(request, releasing: releasing)
            case .discard: try startDiscard(request)
            case .flush: break
            }
        } catch {
            request.error = error.code
            if request.outstanding == 0 { finish(request) }
        }
    }

    /// Whether the request must wait: for an allocation of the same clusters, or, when it lets go of clusters, for
    /// everything that uses them.
    private func isBlocked(_ request: DiskRequest) -> Bool {
        guard request.kind != .read, request.count > 0 else { return false }
        let mask = top.clusterSize - 1
        let range = request.offset & ~mask..<(request.offset + request.count + mask) & ~mask
        for index in active where index != request.index {
            let other = requests[index]
            if let allocating = other.allocating, allocating.overlaps(range) { return true }
            if request.kind != .write, other.overlaps(range) { return true }
        }
        return false
    }

    // MARK: Progress

    /// Handles the ends of operations until there are none.
    func advance(waiting: Bool) {
        io.poll(waiting: waiting)
        while !io.completions.isEmpty {
            io.takeCompletions(&harvest)
            let batch = harvest
            for completion in batch { operationEnded(completion) }
            io.poll(waiting: false)
        }
        io.kick()
    }

    private func operationEnded(_ completion: IOQueue.Completion) {
        let request = requests[completion.tag]
        if completion.error != 0, request.error == 0 { request.error = completion.error }
        request.outstanding -= 1
        guard request.outstanding == 0 else { return }
        switch request.phase {
        case .idle: break
        case .reading: finish(request)
        case .filling: request.error == 0 ? writeSteps(request) : endWrite(request)
        case .writing: endWrite(request)
        case .syncingRefcounts, .syncingMappings, .syncingAll: continueFlush(request)
        }
    }

    /// The request has ended: tells its user, and starts what waited for it.
    func finish(_ request: DiskRequest) {
        ended.append(DiskCompletion(token: request.token, error: request.error))
        request.clear()
        if let position = active.firstIndex(of: request.index) { active.swapAt(position, active.count - 1) }
        _ = active.popLast()
        free.append(request.index)
        if !blocked.isEmpty {
            let waiting = blocked
            blocked.removeAll(keepingCapacity: true)
            for index in waiting { start(requests[index]) }
        }
    }

    /// The oldest request under way.
    var oldestSequence: UInt64 { active.reduce(.max) { min($0, requests[$1].sequence) } }

    // MARK: Size

    /// Makes the disk larger; what is added reads as zero. Waits for what is under way.
    public func grow(to newSize: UInt64) throws(DiskImageError) {
        guard !isReadOnly else { throw .readOnly(path: path) }
        guard newSize > size, newSize.isMultiple(of: 512) else {
            throw .invalidValue(
                field: "the disk's new size", value: "\(newSize) bytes", allowed: "a multiple of 512 above \(size)")
        }
        drain()
        try locked { () throws(DiskImageError) in try top.resize(to: newSize) }
    }

    // MARK: Life

    /// Ends all requests and leaves the files whole.
    public func close() throws(DiskImageError) {
        drain()
        try locked { () throws(DiskImageError) in
            guard !isReadOnly, !isScratch else { return }
            try top.close()
        }
    }
}
