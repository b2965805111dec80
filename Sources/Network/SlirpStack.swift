// SPDX-License-Identifier: Apache-2.0
// libslirp, which turns the guest's packets into sockets of this process, without privileges: its C interface as a class.

internal import CSlirp
internal import Virtio

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// Gets what the stack has for the guest.
protocol SlirpOwner: AnyObject {
    func stackSends(_ frame: UnsafeRawBufferPointer)
}

/// One instance of libslirp, which knows no threads: the machine's only.
@safe final class SlirpStack {
    /// The largest MTU that libslirp has.
    static let largestMTU = 65521

    weak var owner: (any SlirpOwner)?
    private let sockets: DescriptorSet
    private var stack: OpaquePointer?
    /// libslirp keeps the address of its callbacks.
    private let callbacks: UnsafeMutablePointer<SlirpCb>
    /// What the stack waits for, in the order in which it has told: by socket, and for each question the socket.
    private var wanted: [Int32: DescriptorSet.Events] = [:]
    private var asked: [Int32] = []
    private var happened: [Int32: DescriptorSet.Events] = [:]

    init(mtu: UInt16) throws(NetworkError) {
        sockets = try DescriptorSet()
        unsafe callbacks = .allocate(capacity: 1)
        unsafe callbacks.initialize(to: Self.makeCallbacks())
        var configuration = unsafe SlirpConfig()
        unsafe configuration.version = 1
        unsafe configuration.in_enabled = true
        unsafe configuration.vnetwork = Self.address(UserNetworkLayout.network)
        unsafe configuration.vnetmask = Self.address(UserNetworkLayout.mask)
        unsafe configuration.vhost = Self.address(UserNetworkLayout.gateway)
        unsafe configuration.vdhcp_start = Self.address(UserNetworkLayout.guest)
        unsafe configuration.vnameserver = Self.address(UserNetworkLayout.resolver)
        unsafe configuration.if_mtu = min(Int(mtu), Self.largestMTU)
        unsafe configuration.if_mru = min(Int(mtu), Self.largestMTU)
        // SAFETY: the callbacks outlive the stack, and so does this object, which ends it.
        unsafe stack = slirp_new(&configuration, callbacks, Unmanaged.passUnretained(self).toOpaque())
        guard unsafe stack != nil else { throw .hostRefused(what: "a user-mode network", errno: errno) }
    }

    deinit {
        // SAFETY: made once, ended once.
        if let stack = unsafe stack { unsafe slirp_cleanup(stack) }
        unsafe callbacks.deinitialize(count: 1)
        unsafe callbacks.deallocate()
    }

    static func address(_ address: IPv4Address) -> in_addr { in_addr(s_addr: address.rawValue.bigEndian) }

    // MARK: Frames and ports

    /// The guest's frame: `bytes` from `start` on.
    func take(_ bytes: [UInt8], from start: Int) {
        guard let stack = unsafe stack, start < bytes.count else { return }
        // SAFETY: `start` lies in the array; the stack copies what it keeps.
        unsafe bytes.withUnsafeBufferPointer { buffer in
            guard let base = buffer.baseAddress else { return }
            unsafe slirp_input(stack, base + start, Int32(buffer.count - start))
        }
    }

    /// Listens at a port of the host.
    func publish(_ forward: PortForward) throws(NetworkError) {
        guard let stack = unsafe stack, let address = IPv4Address(forward.hostAddress) else {
            throw .portRefused(forward, errno: EADDRNOTAVAIL)
        }
        errno = 0
        let result = unsafe slirp_add_hostfwd(
            stack, forward.isDatagram ? 1 : 0, Self.address(address), Int32(forward.hostPort),
            Self.address(UserNetworkLayout.guest), Int32(forward.guestPort))
        guard result == 0 else { throw .portRefused(forward, errno: errno) }
    }

    // MARK: Waiting

    /// Does what has become possible since the last time.
    func poll() {
        guard let stack = unsafe stack else { return }
        _ = prepareToWait()
        happened = sockets.poll()
        let context = unsafe Unmanaged.passUnretained(self).toOpaque()
        // SAFETY: the callback is called before this returns, and this object lives.
        unsafe slirp_pollfds_poll(
            stack, 0,
            { index, context in
                unsafe SlirpStack.from(context)?.events(index) ?? 0
            }, context)
    }

    /// Tells the set of sockets what the stack waits for; milliseconds after which it wants to be called anyhow.
    func prepareToWait() -> UInt32? {
        guard let stack = unsafe stack else { return nil }
        wanted.removeAll(keepingCapacity: true)
        asked.removeAll(keepingCapacity: true)
        var timeout = UInt32.max
        let context = unsafe Unmanaged.passUnretained(self).toOpaque()
        // SAFETY: as above.
        unsafe slirp_pollfds_fill(
            stack, &timeout,
            { descriptor, events, context in
                unsafe SlirpStack.from(context)?.add(descriptor, events) ?? -1
            }, context)
        sockets.update(wanted)
        return timeout == .max ? nil : timeout
    }

    var descriptor: Int32 { sockets.descriptor }

    private static let eventPairs: [(Int32, DescriptorSet.Events)] = [
        (Int32(SLIRP_POLL_IN), .readable), (Int32(SLIRP_POLL_OUT), .writable),
        (Int32(SLIRP_POLL_PRI), .urgent), (Int32(SLIRP_POLL_ERR), .error),
        (Int32(SLIRP_POLL_HUP), .hangup),
    ]

    private func add(_ descriptor: Int32, _ events: Int32) -> Int32 {
        var set: DescriptorSet.Events = []
        for (bit, event) in Self.eventPairs where events & bit != 0 { set.insert(event) }
        wanted[descriptor, default: []].formUnion(set)
        asked.append(descriptor)
        return Int32(asked.count - 1)
    }

    private func events(_ index: Int32) -> Int32 {
        guard asked.indices.contains(Int(index)), let events = happened[asked[Int(index)]] else { return 0 }
        return Self.eventPairs.reduce(0) { $0 | (events.contains($1.1) ? $1.0 : 0) }
    }

    private func closes(_ descriptor: Int32) {
        sockets.forget(descriptor)
        happened[descriptor] = nil
    }

    /// The host's time since some instant, in nanoseconds.
    static var now: UInt64 {
        var time = timespec()
        // SAFETY: `time` outlives the call.
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    // MARK: Callbacks

    private static func from(_ context: UnsafeMutableRawPointer?) -> SlirpStack? {
        // SAFETY: the context is this object, which outlives its stack.
        unsafe context.map { unsafe Unmanaged<SlirpStack>.fromOpaque($0).takeUnretainedValue() }
    }

    private static func makeCallbacks() -> SlirpCb {
        var callbacks = SlirpCb()
        unsafe callbacks.send_packet = { bytes, count, context in
            // SAFETY: libslirp passes a frame of `count` bytes.
            unsafe SlirpStack.from(context)?.owner?.stackSends(UnsafeRawBufferPointer(start: bytes, count: count))
            return count
        }
        unsafe callbacks.guest_error = { _, _ in }
        unsafe callbacks.clock_get_ns = { _ in Int64(SlirpStack.now) }
        // Timers are for IPv6 only, which is off.
        unsafe callbacks.timer_new = { _, _, _ in nil }
        unsafe callbacks.timer_free = { _, _ in }
        unsafe callbacks.timer_mod = { _, _, _ in }
        unsafe callbacks.register_poll_fd = { _, _ in }
        unsafe callbacks.unregister_poll_fd = { descriptor, context in
            unsafe SlirpStack.from(context)?.closes(descriptor)
        }
        unsafe callbacks.notify = { _ in }
        return callbacks
    }
}
