// SPDX-License-Identifier: Apache-2.0
// Drivers that break the rules: the device asks for a reset, touches nothing else, and works again after it.

import Bus
import GuestMemory
import TestSupport
import Testing
import Virtio

/// One thing that a driver can do wrong with a chain.
struct BadChain: CustomTestStringConvertible, Sendable {
    typealias Driver = GuestDriver<BlockDevice>

    let testDescription: String
    let change: @Sendable (Driver) -> Void

    init(_ description: String, _ change: @escaping @Sendable (Driver) -> Void) {
        testDescription = description
        self.change = change
    }

    private static func chain(_ description: String, _ descriptors: [TestDescriptor]) -> Self {
        Self(description) { driver in
            for (index, descriptor) in descriptors.enumerated() { driver.put(descriptor, UInt16(index)) }
            driver.push(0)
        }
    }

    private static func indirect(_ description: String, length: UInt32, _ table: [TestDescriptor]) -> Self {
        Self(description) { driver in
            let place = Driver.data + 0x10000
            for (index, descriptor) in table.enumerated() { driver.put(descriptor, at: place + UInt64(index) * 16) }
            driver.put(TestDescriptor(address: place, length: length, flags: TestDescriptor.indirect), 0)
            driver.push(0)
        }
    }

    private static let data = Driver.data
    private static let next = TestDescriptor.next
    private static let write = TestDescriptor.write
    private static let indirectFlag = TestDescriptor.indirect

    static let all: [Self] = [
        chain("a descriptor that leads to itself", [.init(address: data, length: 16, flags: next, next: 0)]),
        chain(
            "two descriptors that lead to each other",
            [
                .init(address: data, length: 16, flags: next, next: 1),
                .init(address: data, length: 16, flags: next, next: 0),
            ]),
        chain("a next descriptor behind the table", [.init(address: data, length: 16, flags: next, next: 16)]),
        chain("an empty buffer", [.init(address: data, length: 0)]),
        chain("a buffer behind memory", [.init(address: Driver.memorySize, length: 16)]),
        chain("a buffer over the end of memory", [.init(address: Driver.memorySize - 8, length: 16)]),
        chain("a buffer over the end of 64 bits", [.init(address: .max - 7, length: 16)]),
        chain("a buffer among devices", [.init(address: 0xd000_0000, length: 16)]),
        chain("a buffer in the boot ROM", [.init(address: 0xffff_0000, length: 16, flags: write)]),
        chain("a buffer of 4 GiB", [.init(address: 0, length: .max)]),
        chain(
            "a readable buffer behind a writable one",
            [
                .init(address: data, length: 16, flags: write | next, next: 1),
                .init(address: data, length: 16),
            ]),
        chain("a chain without a writable byte", [.init(address: data, length: 16)]),
        Self("a head behind the table") { $0.push(16) },
        Self("an index that jumps") { driver in
            driver.store(UInt16(17), at: Driver.ring(0) + 0x4002)
        },
        Self("an index that goes back") { driver in
            driver.store(UInt16.max, at: Driver.ring(0) + 0x4002)
        },
        indirect("an empty indirect table", length: 0, []),
        indirect("an indirect table of half a descriptor", length: 24, []),
        indirect("an indirect table of more than 65536 descriptors", length: 0x10_0010, []),
        indirect(
            "a loop in an indirect table", length: 32,
            [
                .init(address: data, length: 16, flags: next, next: 1),
                .init(address: data, length: 16, flags: next, next: 0),
            ]),
        indirect(
            "a next descriptor behind an indirect table", length: 16,
            [.init(address: data, length: 16, flags: next, next: 1)]),
        indirect(
            "an indirect table in an indirect table", length: 16,
            [.init(address: data, length: 16, flags: indirectFlag)]),
        chain(
            "an indirect table that is chained on",
            [.init(address: data, length: 16, flags: indirectFlag | next, next: 1), .init(address: data, length: 16)]),
        chain("an indirect table behind memory", [.init(address: 1 << 40, length: 16, flags: indirectFlag)]),
    ]
}

/// One setting that a queue cannot have.
struct BadQueue: CustomTestStringConvertible, Sendable {
    let testDescription: String
    let change: @Sendable (GuestDriver<BlockDevice>) -> Void

    init(_ description: String, _ change: @escaping @Sendable (GuestDriver<BlockDevice>) -> Void) {
        testDescription = description
        self.change = change
    }

    static let all: [Self] = [
        Self("no entries") { $0.write(.queueSize, 0) },
        Self("entries that are no power of two") { $0.write(.queueSize, 3) },
        Self("more entries than the device has") { $0.write(.queueSize, 512) },
        Self("2^31 entries") { $0.write(.queueSize, 1 << 31) },
        Self("a misaligned table") { $0.write(.descriptors, address: 0x10_0008) },
        Self("a misaligned available ring") { $0.write(.driver, address: 0x10_4001) },
        Self("a misaligned used ring") { $0.write(.device, address: 0x10_8002) },
        Self("a table behind memory") { $0.write(.descriptors, address: 8 << 20) },
        Self("a table over the end of memory") { $0.write(.descriptors, address: 8 << 20 - 128) },
        Self("an available ring over the end of 64 bits") { $0.write(.driver, address: .max - 1) },
        Self("a used ring in the boot ROM") { $0.write(.device, address: 0xffff_0000) },
    ]
}

struct HostileDriverTests {
    @Test(arguments: BadChain.all)
    func `a bad chain makes the device ask for a reset, after which it works`(bad: BadChain) throws {
        let guest = try BlockGuest()
        // Something good before.
        #expect(guest.request(type: 0, sector: 3, count: 512) == 0)
        guest.driver.acknowledge()
        guest.driver.start()
        bad.change(guest.driver)
        guest.driver.notify()
        #expect(guest.driver.isBroken)
        #expect(guest.driver.takeUsed() == nil)
        // The driver is told of it, and nothing is done for it any more.
        #expect(guest.driver.read(.interruptStatus) & 2 != 0)
        #expect(guest.driver.interrupts.isAsserted)
        let before = guest.driver.usedIndex
        guest.driver.lend(readable: [(BlockGuest.header, 16)], writable: [(BlockGuest.status, 1)])
        #expect(guest.driver.usedIndex == before)
        #expect(guest.works)
    }

    @Test(arguments: BadQueue.all)
    func `a queue that cannot be does not become ready`(bad: BadQueue) throws {
        let guest = try BlockGuest()
        guest.driver.negotiate()
        guest.driver.setUp(0)
        guest.driver.write(.queueReady, 0)
        bad.change(guest.driver)
        guest.driver.write(.queueReady, 1)
        #expect(guest.driver.read(.queueReady) == 0)
        guest.driver.write(.status, 0xf)
        guest.driver.push(0)
        guest.driver.notify()
        #expect(guest.driver.usedIndex == 0)
        #expect(guest.works)
    }

    @Test func `a queue that is in use keeps its size and place`() throws {
        let guest = try BlockGuest()
        guest.driver.write(.queueSelect, 0)
        guest.driver.write(.queueSize, 4)
        guest.driver.write(.descriptors, address: 0x70_0000)
        guest.driver.write(.device, address: 0x70_8000)
        guest.driver.write(.queueReady, 0)
        #expect(guest.request(type: 0, sector: 9, count: 512) == 0)
        #expect(guest.driver.load(UInt8.self, at: BlockGuest.buffer) == 9)
    }

    @Test func `data that is read over the queue's own ring does not keep the device busy for ever`() throws {
        let guest = try BlockGuest()
        // Each request reads a sector over the available ring, whose index then says that there is more.
        guest.setHeader(type: 0, sector: 0)
        guest.driver.put(.init(address: BlockGuest.header, length: 16, flags: TestDescriptor.next, next: 1), 0)
        guest.driver.put(
            .init(
                address: GuestDriver<BlockDevice>.ring(0) + 0x4000, length: 512,
                flags: TestDescriptor.next | TestDescriptor.write, next: 2), 1)
        guest.driver.put(.init(address: BlockGuest.status, length: 1, flags: TestDescriptor.write), 2)
        guest.driver.push(0)
        guest.driver.notify()
        guest.driver.write(.status, 0)
        #expect(guest.works)
    }

    @Test func `the device lives through anything in rings and registers`() throws {
        var chance = SplitMix64(seed: 5)
        for round in 0..<300 {
            let guest = try BlockGuest(queues: 2)
            for _ in 0..<40 {
                switch chance.next() % 8 {
                case 0: guest.driver.start(eventIndex: chance.next() % 2 == 0)
                case 1:
                    guest.driver.transport.write(
                        chance.next(), offset: chance.next() % 0x140, width: round % 7 == 0 ? .byte : .doubleWord)
                case 2: _ = guest.driver.transport.read(offset: chance.next() % 0x200, width: .quadWord)
                case 3:
                    guest.setHeader(type: UInt32(chance.next() % 16), sector: chance.next() % 4096)
                default:
                    let queue = Int(chance.next() % 2)
                    let ring = GuestDriver<BlockDevice>.ring(queue)
                    for _ in 0..<8 {
                        let descriptor = TestDescriptor(
                            address: chance.next() % (9 << 20),
                            length: UInt32(
                                truncatingIfNeeded: chance.next() % 3 == 0 ? chance.next() : chance.next() % 4096),
                            flags: UInt16(chance.next() % 8), next: UInt16(chance.next() % 20))
                        guest.driver.put(descriptor, UInt16(chance.next() % 16), queue: queue)
                    }
                    guest.driver.store(UInt16(truncatingIfNeeded: chance.next() % 24), at: ring + 0x4002)
                    guest.driver.store(chance.next() & 0x000f_000f_000f_000f, at: ring + 0x4004)
                    guest.driver.notify(queue)
                }
            }
            #expect(guest.works, "round \(round)")
        }
    }
}
