// SPDX-License-Identifier: Apache-2.0
// A device's state in another device over the same memory: it goes on, and refuses states that cannot be.

import Bus
import GuestMemory
import Snapshot
import Testing
@testable import Virtio

/// A state that no device could have saved.
struct BadState: CustomTestStringConvertible, Sendable {
    typealias State = MMIOTransport<BlockDevice>.State

    let testDescription: String
    let change: @Sendable (inout State) -> Void

    init(_ description: String, _ change: @escaping @Sendable (inout State) -> Void) {
        testDescription = description
        self.change = change
    }

    static let all: [Self] = [
        Self("an unknown status") { $0.status |= 0x100 },
        Self("started without features") { $0.status &= ~8 },
        Self("features that are not offered") { $0.driverFeatures |= 1 << 40 },
        Self("an unknown interrupt") { $0.interruptStatus = 4 },
        Self("a queue too few") { $0.queues.removeLast() },
        Self("a queue too many") { $0.queues.append($0.queues[0]) },
        Self("a queue of three entries") { $0.queues[0].size = 3 },
        Self("a queue of 2^32 - 1 entries") { $0.queues[0].size = .max },
        Self("a table behind memory") { $0.queues[0].descriptors = 1 << 40 },
        Self("a misaligned used ring") { $0.queues[0].device |= 1 },
        Self("an available ring among devices") { $0.queues[0].driver = 0xd000_0000 },
        Self("a disk of another size") { $0.device.size += 512 },
        Self("a disk that is not read-only") { $0.device.isReadOnly = true },
    ]
}

struct SaveAndRestoreTests {
    private func block(_ guest: BlockGuest) throws -> BlockDevice {
        BlockDevice(disk: try guest.image.open(isReadOnly: true), serial: "serial", queues: 1)
    }

    @Test func `a disk goes on in another device, with its interrupt pending`() throws {
        let guest = try BlockGuest(isReadOnly: true)
        for sector in 0..<5 as Range<UInt64> { #expect(guest.request(type: 0, sector: sector, count: 512) == 0) }
        #expect(guest.driver.interrupts.isAsserted)
        let pending = guest.driver.read(.interruptStatus)
        try guest.driver.replace(by: try block(guest))
        #expect(guest.driver.interrupts.isAsserted)
        #expect(guest.driver.read(.interruptStatus) == pending)
        guest.driver.acknowledge()
        #expect(!guest.driver.interrupts.isAsserted)
        #expect(guest.request(type: 0, sector: 33, count: 512) == 0)
        #expect(guest.driver.load(UInt8.self, at: BlockGuest.buffer) == 33)
        #expect(guest.driver.usedIndex == 6)
    }

    @Test func `a request that nobody had looked at is done once, after the restore`() throws {
        let guest = try BlockGuest(isReadOnly: true)
        guest.setHeader(type: 0, sector: 44)
        let driver = guest.driver
        driver.put(.init(address: BlockGuest.header, length: 16, flags: TestDescriptor.next, next: 1), 0)
        driver.put(
            .init(address: BlockGuest.buffer, length: 512, flags: TestDescriptor.next | TestDescriptor.write, next: 2),
            1)
        driver.put(.init(address: BlockGuest.status, length: 1, flags: TestDescriptor.write), 2)
        driver.push(0)
        let device = try block(guest)
        try driver.replace(by: device)
        #expect(device.hasWork)
        device.poll()
        #expect(try #require(driver.takeUsed()) == (0, 513))
        #expect(driver.load(UInt8.self, at: BlockGuest.buffer) == 44)
        #expect(driver.interrupts.isAsserted)
        device.poll()
        driver.notify()
        #expect(driver.takeUsed() == nil)
    }

    @Test(arguments: BadState.all)
    func `a state that cannot be is refused and changes nothing`(bad: BadState) throws {
        let guest = try BlockGuest()
        #expect(guest.request(type: 0, sector: 1, count: 512) == 0)
        let transport = guest.driver.transport
        let before = transport.saveState()
        var state = try #require(before as? BadState.State)
        bad.change(&state)
        #expect(throws: SnapshotError.self) { try transport.prepare(state)() }
        #expect("\(transport.saveState())" == "\(before)")
        #expect(throws: SnapshotError.self) { try transport.prepare(nil)() }
        #expect(guest.request(type: 0, sector: 1, count: 512) == 0)
    }

    @Test func `a device that needs a reset still does`() throws {
        let guest = try BlockGuest(isReadOnly: true)
        guest.driver.push(99)
        guest.driver.notify()
        #expect(guest.driver.isBroken)
        try guest.driver.replace(by: try block(guest))
        #expect(guest.driver.isBroken)
        #expect(guest.driver.interrupts.isAsserted)
        #expect(guest.works)
    }

    @Test func `a balloon keeps its target and its pages`() throws {
        let driver = try GuestDriver(BalloonDevice())
        driver.start()
        driver.transport.device.setTarget(pages: 9)
        driver.transport.write(8, offset: 0x104, width: .doubleWord)
        try driver.replace(by: BalloonDevice())
        #expect(driver.read(.configuration) == 9)
        #expect(driver.transport.device.pages == 8)
    }

    @Test func `a console keeps its input, its size and what it has to say`() throws {
        let driver = try GuestDriver(ConsoleDevice())
        driver.start()
        let data = GuestDriver<ConsoleDevice>.data
        for (event, port) in [(UInt16(0), UInt32.max), (3, 0)] {
            driver.store(port, at: data)
            driver.store(event, at: data + 4)
            driver.store(UInt16(1), at: data + 6)
            driver.lend(readable: [(data, 8)], queue: 3)
        }
        let device = driver.transport.device
        device.receive(Array("typed".utf8), port: 0)
        device.resize(columns: 100, rows: 30)
        let before = device.saveDeviceState()
        #expect(!before.control.isEmpty)
        try driver.replace(by: ConsoleDevice())
        #expect(driver.transport.device.saveDeviceState() == before)
        driver.lend(writable: [(data + 0x200, 30)], queue: 0)
        #expect(try #require(driver.takeUsed(0)) == (0, 5))
        #expect(try driver.memory.read(at: .init(data + 0x200), count: 5) == Array("typed".utf8))
        var bad = before
        bad.ports = []
        #expect(throws: SnapshotError.self) { try device.validate(bad) }
        bad = before
        bad.ports[0].input = [UInt8](repeating: 0, count: ConsoleDevice.inputCapacity + 1)
        #expect(throws: SnapshotError.self) { try device.validate(bad) }
        bad = before
        bad.control = Array(repeating: [0], count: 1000)
        #expect(throws: SnapshotError.self) { try device.validate(bad) }
    }
}
