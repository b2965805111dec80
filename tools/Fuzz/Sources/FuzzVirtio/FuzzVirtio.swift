// SPDX-License-Identifier: Apache-2.0
// A driver that does anything: the input is memory for the rings and a list of accesses to a device's registers.

import Bus
import DiskImage
import Glibc
import GuestMemory
import Virtio

/// Where queues, and with them the input's first bytes, lie in the guest's memory.
private let ringStart: UInt64 = 0x1000
private let ringBytes = 0x100

private final class NoInterrupts: InterruptController {
    func setLine(_ line: Int, asserted: Bool) {}
}

/// Sends each frame back as soon as it is asked.
private final class Loop: NetworkBackend {
    weak var guest: (any NetworkGuest)?
    private var frame: [UInt8] = []

    func setOffloads(_ offloads: NetworkOffloads) {}
    func transmit(_ packet: inout [UInt8]) { frame = packet }

    func poll() {
        guard let guest, !frame.isEmpty else { return }
        // SAFETY: the array stays while its bytes are copied.
        if unsafe frame.withUnsafeBytes({ unsafe guest.receive(NetworkHeader(), $0) }) { frame = [] }
    }

    func prepareToWait() -> NetworkWait { NetworkWait() }
    func saveSession() -> NetworkSession { NetworkSession() }
    func resume(_ session: NetworkSession, guest address: MACAddress) {}
}

/// Programs of the host that talk to the guest's vsock ports.
private final class Clients {
    private static let largestCount = 16

    private static var path: String { "/dev/shm/smolvmm-fuzz-\(getpid()).vsock" }
    private var sockets: [Int32] = []

    init(of device: VsockDevice) {
        guard device.listen(at: Self.path) == 0 else { fatalError("no socket in /dev/shm") }
        atexit { unsafe _ = unlink(Clients.path) }
    }

    /// A client comes, and says at once what it has to say.
    func come(_ words: [UInt8]) {
        guard sockets.count < Self.largestCount else { return leave() }
        let client = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: Self.path.utf8) }
        // SAFETY: the address is one of a Unix socket, of the size that is passed.
        unsafe _ = withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe connect(client, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        // SAFETY: `words` has the count that is passed.
        unsafe _ = send(client, words, words.count, Int32(MSG_NOSIGNAL))
        sockets.append(client)
    }

    /// All clients read what there is.
    func read() {
        var bytes = [UInt8](repeating: 0, count: 4096)
        // SAFETY: `bytes` has the count that is passed.
        for client in sockets { unsafe _ = recv(client, &bytes, bytes.count, 0) }
    }

    func leave() {
        for client in sockets { close(client) }
        sockets = []
    }
}

/// The machine that all inputs use: making one for each would take most of the time.
private final class Target {
    let memory: GuestMemory
    let slots: [any VirtioSlot]
    private let loop = Loop()
    let block: BlockDevice
    let console: ConsoleDevice
    let network: NetworkDevice
    let vsock = VsockDevice()
    let clients: Clients

    init() throws {
        memory = try GuestMemory(size: 1 << 20)
        var template = Array("/dev/shm/smolvmm-fuzz-XXXXXX".utf8CString)
        // SAFETY: the template is NUL-terminated.
        let descriptor = unsafe mkstemp(&template)
        guard descriptor >= 0, ftruncate(descriptor, 1 << 16) == 0 else { fatalError("no file in /dev/shm") }
        let path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        var options = DiskOpenOptions()
        options.isDirect = false
        options.format = .raw
        block = BlockDevice(disk: try DiskImage.open(path: path, options), serial: "fuzz", queues: 2)
        unsafe _ = unlink(path)
        console = ConsoleDevice(names: ["port"])
        network = NetworkDevice(address: .random(), mtu: 1500, backend: loop)
        clients = Clients(of: vsock)
        let line = InterruptLine(NoInterrupts(), 5)
        slots = [
            MMIOTransport(block, name: "block", memory: memory, interrupt: line),
            MMIOTransport(console, name: "console", memory: memory, interrupt: line),
            MMIOTransport(EntropyDevice(), name: "entropy", memory: memory, interrupt: line),
            MMIOTransport(BalloonDevice(), name: "balloon", memory: memory, interrupt: line),
            MMIOTransport(network, name: "network", memory: memory, interrupt: line),
            MMIOTransport(vsock, name: "vsock", memory: memory, interrupt: line),
        ]
    }
}

nonisolated(unsafe) private var target: Target?

func fuzzVirtio(_ start: UnsafePointer<UInt8>, _ count: Int) -> Int32 {
    let input = unsafe [UInt8](UnsafeBufferPointer(start: start, count: count))
    guard input.count > 2 else { return 0 }
    if unsafe target == nil { unsafe target = try? Target() }
    guard let target = unsafe target else { return 0 }
    run(input, target)
    return 0
}

private func run(_ input: [UInt8], _ target: Target) {
    for slot in target.slots { slot.reset() }
    target.clients.leave()
    let slot = target.slots[Int(input[0]) % target.slots.count]
    let queue = UInt64(input[1] % 6)
    let rings = Array(input.dropFirst(2).prefix(ringBytes))
    try? target.memory.write(
        rings + [UInt8](repeating: 0, count: ringBytes - rings.count), at: GuestPhysicalAddress(ringStart))
    func write(_ offset: UInt64, _ value: UInt64) { slot.write(value, offset: offset, width: .doubleWord) }
    // The queue is in the midst of the input.
    write(0x70, 3)
    write(0x24, 1)
    write(0x20, 1)
    write(0x24, 0)
    write(0x20, input[1] & 0x80 != 0 ? 1 << 29 | 1 << 28 : 1 << 28)
    write(0x70, 0xb)
    /// Table, available ring and used ring of a queue of 8.
    func setUp(_ queue: UInt64, at start: UInt64) {
        write(0x30, queue)
        write(0x38, 8)
        write(0x80, start)
        write(0x90, start + 0x80)
        write(0xa0, start + 0xc0)
        write(0x44, 1)
    }
    setUp(queue, at: ringStart)
    // Its other direction, whose rings the accesses may fill.
    if input[1] & 0x40 != 0 { setUp(queue ^ 1, at: ringStart + UInt64(ringBytes)) }
    write(0x70, 0xf)
    write(0x50, queue)
    target.block.poll()
    // What is left of the input: accesses of six bytes.
    var rest = input.dropFirst(2 + ringBytes)
    while rest.count >= 6 {
        let access = Array(rest.prefix(6))
        rest = rest.dropFirst(6)
        let value = access[2...].reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        let offset = UInt64(access[0]) << 1
        switch access[1] & 7 {
        case 0: _ = slot.read(offset: offset, width: .doubleWord)
        case 1:
            try? target.memory.store(UInt32(truncatingIfNeeded: value), at: .init(ringStart + UInt64(access[0]) * 8))
        case 2:
            target.console.receive([1, 2, 3], port: Int(access[0]))
            target.block.poll()
            target.network.poll()
            target.vsock.poll()
            target.clients.read()
        case 4: target.clients.come(Array("CONNECT \(access[0])\n".utf8) + access[2...])
        case 3:
            let state = slot.saveState()
            if let assign = try? slot.prepare(state) { assign() }
        default: write(offset, value)
        }
    }
}
