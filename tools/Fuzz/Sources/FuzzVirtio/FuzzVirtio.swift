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

/// The machine that all inputs use: making one for each would take most of the time.
private final class Target {
    let memory: GuestMemory
    let slots: [any VirtioSlot]
    private let loop = Loop()
    let block: BlockDevice
    let console: ConsoleDevice
    let network: NetworkDevice

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
        let line = InterruptLine(NoInterrupts(), 5)
        slots = [
            MMIOTransport(block, name: "block", memory: memory, interrupt: line),
            MMIOTransport(console, name: "console", memory: memory, interrupt: line),
            MMIOTransport(EntropyDevice(), name: "entropy", memory: memory, interrupt: line),
            MMIOTransport(BalloonDevice(), name: "balloon", memory: memory, interrupt: line),
            MMIOTransport(network, name: "network", memory: memory, interrupt: line),
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
    let slot = target.slots[Int(input[0]) % target.slots.count]
    let queue = UInt64(input[1] % 6)
    let rings = Array(input.dropFirst(2).prefix(ringBytes))
    try? target.memory.write(
        rings + [UInt8](repeating: 0, count: ringBytes - rings.count), at: GuestPhysicalAddress(ringStart))
    func write(_ offset: UInt64, _ value: UInt64) { slot.write(value, offset: offset, width: .doubleWord) }
    // A queue of 8 in the midst of the input: table, available ring, used ring.
    write(0x70, 3)
    write(0x24, 1)
    write(0x20, 1)
    write(0x24, 0)
    write(0x20, input[1] & 0x80 != 0 ? 1 << 29 | 1 << 28 : 1 << 28)
    write(0x70, 0xb)
    write(0x30, queue)
    write(0x38, 8)
    write(0x80, ringStart)
    write(0x90, ringStart + 0x80)
    write(0xa0, ringStart + 0xc0)
    write(0x44, 1)
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
        case 3:
            let state = slot.saveState()
            if let assign = try? slot.prepare(state) { assign() }
        default: write(offset, value)
        }
    }
}
