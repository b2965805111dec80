// SPDX-License-Identifier: Apache-2.0
// What other threads may ask of a running machine. The machine's thread does it between two time slices.

internal import Hypervisor
internal import Synchronization

/// A machine's mailbox. Any thread.
public final class MachineControl: Sendable {
    /// A snapshot that somebody waits for.
    struct SnapshotOrder: Sendable {
        let path: String
        let options: SnapshotOptions
        /// 0 to 1; called on the thread that writes.
        let progress: (@Sendable (Double) -> Void)?
        let result: Promise<Result<SnapshotReport, MachineError>>
    }

    enum Request: Sendable {
        case pause(Promise<Bool>)
        case resume(Promise<Bool>)
        case snapshot(SnapshotOrder)
        case adjust(MachineAdjustment, Promise<Result<Bool, MachineError>>)
        /// Memory that is read as it is used could not be read.
        case memoryLost
        /// The bundle that was begun is written, or not.
        case written(Result<SnapshotReport, MachineError>)
        /// The guest is ready for the freeze that a text has set off.
        case prepared
        case stop
    }

    private struct Mail {
        var requests: [Request] = []
        var input: [UInt8] = []
        var isClosed = false
    }

    /// Input that waits for the guest, in bytes, beyond which `hasRoomForInput` is false.
    private static let inputCapacity = 64 << 10

    private let mail = Mutex(Mail())
    private let status = Mutex(MachineActivity.starting)
    /// Whether there may be mail: what the machine's thread looks at between slices.
    private let flag = Atomic<Bool>(false)
    private let processors = Mutex<[ExitRequest]>([])
    let wake: WakeSignal

    init() throws(MachineError) { wake = try WakeSignal() }

    /// Asks processors to come back; `requestExit` is for any thread.
    private struct ExitRequest: @unchecked Sendable {
        let processor: any VirtualCPU
    }

    func setProcessors(_ list: [any VirtualCPU]) {
        processors.withLock { $0 = list.map { ExitRequest(processor: $0) } }
    }

    // MARK: For other threads

    public var activity: MachineActivity { status.withLock { $0 } }

    /// Sends what was typed to the guest's console.
    public func sendInput(_ bytes: [UInt8]) {
        mail.withLock { $0.input += bytes }
        notify()
    }

    /// False while the guest does not read: hold input back.
    public var hasRoomForInput: Bool { mail.withLock { $0.input.count < Self.inputCapacity } }

    /// Stops guest time; returns when the guest stands.
    public func pause() throws(MachineError) { try ask { .pause($0) } }

    /// Lets a paused guest go on.
    public func resume() throws(MachineError) { try ask { .resume($0) } }

    /// Ends the machine at once, as cutting its power would.
    public func stop() { post(.stop) }

    /// Freezes the machine into a bundle at `path`; it goes on afterwards. Returns when the bundle is on the disk.
    /// - Parameter progress: called with 0 to 1, on another thread.
    public func snapshot(
        to path: String, _ options: SnapshotOptions = .init(), progress: (@Sendable (Double) -> Void)? = nil
    ) throws(MachineError) -> SnapshotReport {
        let result = try Promise<Result<SnapshotReport, MachineError>>()
        post(.snapshot(SnapshotOrder(path: path, options: options, progress: progress, result: result)))
        return try result.wait().get()
    }

    /// Changes the running machine; returns when its guest has been told.
    public func adjust(_ adjustment: MachineAdjustment) throws(MachineError) {
        let result = try Promise<Result<Bool, MachineError>>()
        post(.adjust(adjustment, result))
        _ = try result.wait().get()
    }

    /// The terminal that shows the guest's console has another size. Does not wait.
    public func setWindowSize(columns: UInt16, rows: UInt16) {
        guard let ignored = try? Promise<Result<Bool, MachineError>>() else { return }
        post(.adjust(.window(columns: columns, rows: rows), ignored))
    }

    private func ask(_ request: (Promise<Bool>) -> Request) throws(MachineError) {
        let done = try Promise<Bool>()
        post(request(done))
        guard done.wait() else { throw .ended }
    }

    // MARK: For the machine

    func post(_ request: Request) {
        let isClosed = mail.withLock { mail in
            if !mail.isClosed { mail.requests.append(request) }
            return mail.isClosed
        }
        if isClosed { Self.refuse(request) } else { notify() }
    }

    /// A chunk of memory was damaged: the machine must not go on.
    func noteLostMemory() { post(.memoryLost) }

    private func notify() {
        flag.store(true, ordering: .releasing)
        wake.set()
        let list = processors.withLock { $0 }
        for request in list { request.processor.requestExit() }
    }

    var hasMail: Bool { flag.load(ordering: .acquiring) }

    func takeRequests() -> [Request] {
        flag.store(false, ordering: .sequentiallyConsistent)
        return mail.withLock { mail in
            defer { mail.requests = [] }
            return mail.requests
        }
    }

    /// Up to `count` bytes of input, and whether there is more.
    func takeInput(_ count: Int) -> (bytes: [UInt8], isMore: Bool) {
        mail.withLock { mail in
            let bytes = Array(mail.input.prefix(count))
            mail.input.removeFirst(bytes.count)
            return (bytes, !mail.input.isEmpty)
        }
    }

    func setActivity(_ activity: MachineActivity) { status.withLock { $0 = activity } }

    /// The machine has ended: whoever waits is told.
    func close() {
        setActivity(.ended)
        let left = mail.withLock { mail in
            mail.isClosed = true
            defer { mail.requests = [] }
            return mail.requests
        }
        left.forEach(Self.refuse)
    }

    /// Tells whoever waits that the machine has ended.
    static func refuse(_ request: Request) {
        switch request {
        case .pause(let done), .resume(let done): done.deliver(false)
        case .snapshot(let order): order.result.deliver(.failure(.ended))
        case .adjust(_, let done): done.deliver(.failure(.ended))
        case .written, .prepared, .stop, .memoryLost: break
        }
    }
}
