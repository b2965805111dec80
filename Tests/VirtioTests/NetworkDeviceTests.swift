// SPDX-License-Identifier: Apache-2.0
// A network card as its driver sees it, with a host's side that only keeps what it gets.

import Bus
import GuestMemory
import Snapshot
import Testing
@testable import Virtio

/// Keeps frames of the guest's, and has some for it.
private final class Cable: NetworkBackend {
    weak var guest: (any NetworkGuest)?
    var offloads: NetworkOffloads = []
    var sent: [[UInt8]] = []
    var waiting: [[UInt8]] = []
    var session = NetworkSession()
    var resumed: NetworkSession?

    func setOffloads(_ offloads: NetworkOffloads) { self.offloads = offloads }
    func transmit(_ packet: inout [UInt8]) { sent.append(packet) }

    func poll() {
        while let frame = waiting.first, let guest {
            guard unsafe frame.withUnsafeBytes({ unsafe guest.receive(NetworkHeader(flags: 2), $0) }) else { return }
            waiting.removeFirst()
        }
    }

    func prepareToWait() -> NetworkWait { NetworkWait(descriptor: 7, nanoseconds: 9) }
    func saveSession() -> NetworkSession { session }
    func resume(_ session: NetworkSession, guest address: MACAddress) { resumed = session }
}

private let data = GuestDriver<NetworkDevice>.data

private func makeDevice(_ cable: Cable?) throws -> NetworkDevice {
    NetworkDevice(address: try #require(MACAddress("02:00:00:00:00:07")), mtu: 9000, backend: cable)
}

private func makeDriver(_ cable: Cable?) throws -> GuestDriver<NetworkDevice> {
    let driver = try GuestDriver(try makeDevice(cable))
    driver.start()
    return driver
}

private func bytes(_ driver: GuestDriver<NetworkDevice>, _ address: UInt64, _ count: Int) throws -> [UInt8] {
    try driver.memory.read(at: GuestPhysicalAddress(address), count: count)
}

struct NetworkDeviceTests {
    @Test func `address, link and MTU are in the configuration`() throws {
        let driver = try makeDriver(Cable())
        #expect(driver.read(.deviceID) == 1)
        let registers = (0..<12 as Range<UInt64>).map { driver.transport.read(offset: 0x100 + $0, width: .byte) }
        #expect(registers == [2, 0, 0, 0, 0, 7, 1, 0, 1, 0, 0x28, 0x23])
        let unplugged = try makeDriver(nil)
        #expect(unplugged.transport.read(offset: 0x106, width: .word) == 0)
    }

    @Test func `a frame in pieces reaches the host whole, behind its header`() throws {
        let cable = Cable()
        let driver = try makeDriver(cable)
        let packet = (0..<12 + 60).map { UInt8($0) }
        try driver.memory.write(packet, at: GuestPhysicalAddress(data))
        driver.lend(readable: [(data, 5), (data + 5, 20), (data + 25, 47)], queue: 1)
        #expect(cable.sent == [packet])
        #expect(try #require(driver.takeUsed(1)) == (0, 0))
        #expect(driver.interrupts.isAsserted)
        #expect(cable.offloads == [.checksum, .segmentation4, .segmentation6])
    }

    @Test(arguments: [(12 + 13, false), (12 + 14, true), (12 + 65553, true), (12 + 65554, false)])
    func `frames that no network has are dropped`(count: Int, isSent: Bool) throws {
        let cable = Cable()
        let driver = try makeDriver(cable)
        driver.lend(readable: [(data, UInt32(count))], queue: 1)
        #expect(cable.sent.count == (isSent ? 1 : 0))
        #expect(driver.takeUsed(1) != nil)
        #expect(driver.transport.device.statistics.dropped == (isSent ? 0 : 1))
    }

    @Test func `a frame spans buffers, which the driver gets all at once, and waits for them`() throws {
        let cable = Cable()
        let driver = try makeDriver(cable)
        let frame = (0..<100).map { UInt8($0) }
        cable.waiting = [frame]
        driver.lend(writable: [(data, 32)], first: 0)
        #expect(driver.takeUsed() == nil)
        driver.lend(writable: [(data + 0x100, 20), (data + 0x200, 20)], first: 1)
        #expect(driver.takeUsed() == nil)
        #expect(cable.waiting == [frame])
        driver.lend(writable: [(data + 0x300, 64)], first: 3)
        #expect(cable.waiting.isEmpty)
        #expect(try #require(driver.takeUsed()) == (0, 32))
        #expect(try #require(driver.takeUsed()) == (1, 40))
        #expect(try #require(driver.takeUsed()) == (3, 40))
        let header: [UInt8] = [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0]
        #expect(try bytes(driver, data, 32) == header + frame[0..<20])
        #expect(try bytes(driver, data + 0x100, 20) == Array(frame[20..<40]))
        #expect(try bytes(driver, data + 0x200, 20) == Array(frame[40..<60]))
        #expect(try bytes(driver, data + 0x300, 40) == Array(frame[60..<100]))
    }

    @Test func `a header in pieces has its number of buffers`() throws {
        let cable = Cable()
        let driver = try makeDriver(cable)
        driver.store(UInt64.max, at: data + 0x10)
        driver.lend(writable: [(data, 11), (data + 0x10, 1), (data + 0x20, 20)])
        cable.waiting = [[UInt8](repeating: 9, count: 20)]
        driver.transport.device.poll()
        #expect(try #require(driver.takeUsed()) == (0, 32))
        #expect(try bytes(driver, data + 10, 1) == [1])
        #expect(try bytes(driver, data + 0x10, 2) == [0, 0xff])
    }

    @Test func `without mergeable buffers a frame that is too long for one is lost, not the buffer`() throws {
        let cable = Cable()
        let driver = try GuestDriver(try makeDevice(cable))
        driver.negotiate()
        driver.write(.status, 0)
        driver.write(.status, 3)
        for (half, bits) in [(0, 1 << 5), (1, 1)] as [(UInt32, UInt32)] {
            driver.write(.driverFeaturesSelect, half)
            driver.write(.driverFeatures, bits)
        }
        driver.write(.status, 0xb)
        for queue in 0..<2 { driver.setUp(queue) }
        driver.write(.status, 0xf)
        #expect(cable.offloads == [])
        driver.lend(writable: [(data, 72)])
        cable.waiting = [[UInt8](repeating: 1, count: 61), [UInt8](repeating: 2, count: 60)]
        driver.transport.device.poll()
        #expect(cable.waiting.isEmpty)
        #expect(try #require(driver.takeUsed()) == (0, 72))
        #expect(try bytes(driver, data + 12, 1) == [2])
        #expect(driver.transport.device.statistics.dropped == 1)
    }

    @Test func `a buffer without room for the header is the driver's fault`() throws {
        let cable = Cable()
        let driver = try makeDriver(cable)
        driver.lend(writable: [(data, 12)])
        cable.waiting = [[UInt8](repeating: 1, count: 60)]
        driver.transport.device.poll()
        #expect(driver.isBroken)
        driver.start()
        driver.lend(readable: [(data, 60)], queue: 0)
        driver.transport.device.poll()
        #expect(driver.isBroken)
        driver.start()
        driver.lend(readable: [(1 << 40, 60)], queue: 1)
        #expect(driver.isBroken)
        #expect(cable.sent.isEmpty)
    }

    @Test(arguments: [false, true])
    func `the driver is told to tell of buffers when there are none`(eventIndex: Bool) throws {
        let cable = Cable()
        let driver = try GuestDriver(try makeDevice(cable))
        driver.start(eventIndex: eventIndex)
        cable.waiting = [[UInt8](repeating: 1, count: 60), [UInt8](repeating: 2, count: 60)]
        driver.lend(writable: [(data, 100)])
        #expect(cable.waiting.count == 1)
        let ring = GuestDriver<NetworkDevice>.ring(0)
        if eventIndex {
            #expect(driver.load(UInt16.self, at: ring + 0x8004 + 16 * 8) == 1)
        } else {
            #expect(driver.load(UInt16.self, at: ring + 0x8000) == 0)
        }
    }

    @Test func `after a reset nothing is written to the guest's memory`() throws {
        let cable = Cable()
        let driver = try makeDriver(cable)
        driver.lend(writable: [(data, 100)])
        driver.write(.status, 0)
        cable.waiting = [[UInt8](repeating: 1, count: 60)]
        driver.transport.device.poll()
        #expect(cable.waiting.count == 1)
        #expect(driver.transport.device.prepareToWait() == NetworkWait())
        #expect(try bytes(driver, data, 8) == [UInt8](repeating: 0, count: 8))
    }

    @Test func `a copy goes on with its buffers, and its host's side learns of the connections`() throws {
        let cable = Cable()
        cable.session.connections = [
            .init(
                guestAddress: IPv4Address(1), guestPort: 2, peerAddress: IPv4Address(3), peerPort: 4, expected: 5)
        ]
        cable.session.resolved = [.init(name: "a.b", address: IPv4Address(0x0102_0304))]
        let driver = try makeDriver(cable)
        driver.lend(writable: [(data, 100)])
        let other = Cable()
        try driver.replace(by: try makeDevice(other))
        // Until the machine runs its memory need not be this guest's.
        #expect(other.resumed == nil)
        #expect(driver.transport.device.hasWork)
        driver.transport.device.poll()
        #expect(other.resumed == cable.session)
        #expect(other.offloads == cable.offloads)
        #expect(!driver.interrupts.isAsserted)
        other.waiting = [[UInt8](repeating: 7, count: 60)]
        driver.transport.device.poll()
        #expect(try #require(driver.takeUsed()) == (0, 72))
        // Without its cable the link is down, of which the driver hears.
        try driver.replace(by: try makeDevice(nil))
        driver.transport.device.poll()
        #expect(driver.read(.interruptStatus) & 2 != 0)
        #expect(driver.transport.read(offset: 0x106, width: .word) == 0)
    }

    @Test func `a session survives a copy whose driver has not started`() throws {
        let cable = Cable()
        cable.session.resolved = [.init(name: "a.b", address: IPv4Address(9))]
        let driver = try GuestDriver(try makeDevice(cable))
        let other = Cable()
        try driver.replace(by: try makeDevice(other))
        #expect(other.resumed == nil)
        #expect(driver.transport.device.saveDeviceState().session == cable.session)
        // A guest that resets its card has no connections any more.
        driver.start()
        driver.transport.device.poll()
        #expect(other.resumed == nil)
    }

    @Test func `states of another card are refused`() throws {
        let device = try makeDevice(Cable())
        let good = device.saveDeviceState()
        try device.validate(good)
        var bad = good
        bad.mtu = 1500
        #expect(throws: SnapshotError.self) { try device.validate(bad) }
        bad = good
        bad.address = try #require(MACAddress("02:00:00:00:00:08"))
        #expect(throws: SnapshotError.self) { try device.validate(bad) }
        bad = good
        bad.session.resolved = Array(
            repeating: .init(name: "a.b", address: IPv4Address(1)), count: NetworkSession.largestResolved + 1)
        #expect(throws: SnapshotError.self) { try device.validate(bad) }
        bad = good
        bad.session.connections = Array(
            repeating: .init(
                guestAddress: IPv4Address(1), guestPort: 2, peerAddress: IPv4Address(3), peerPort: 4, expected: 5),
            count: NetworkSession.largestConnections + 1)
        #expect(throws: SnapshotError.self) { try device.validate(bad) }
    }
}

struct NetworkAddressTests {
    @Test(arguments: [
        "", "02:00:00:00:00", "02:00:00:00:00:00:01", "2:0:0:0:0:1", "03:00:00:00:00:01", "02:00:00:00:00:0g",
        "00:00:00:00:00:00", "+2:00:00:00:00:01",
    ])
    func `what is no card's address is refused`(text: String) { #expect(MACAddress(text) == nil) }

    @Test(arguments: ["", "1.2.3", "1.2.3.4.5", "256.1.1.1", "1.2.3.+4", "1..2.3", "01234.1.1.1", "a.b.c.d"])
    func `what is no IPv4 address is refused`(text: String) { #expect(IPv4Address(text) == nil) }

    @Test func `addresses are what they were`() throws {
        #expect(MACAddress("AA:0b:cc:dd:ee:ff")?.description == "aa:0b:cc:dd:ee:ff")
        #expect(IPv4Address("10.0.2.15") == IPv4Address(0x0a00_020f))
        #expect(IPv4Address(0x0a00_020f).description == "10.0.2.15")
        #expect(MACAddress.random() != MACAddress.random())
    }
}
