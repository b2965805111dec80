// SPDX-License-Identifier: Apache-2.0
// Entropy, balloon and console as their drivers see them.

import Bus
import GuestMemory
import Testing
import Virtio

/// Keeps what a guest wrote to ports.
private final class Ports: ConsolePortSink {
    var output: [Int: [UInt8]] = [:]
    func transmit(_ bytes: [UInt8], port: Int) { output[port, default: []] += bytes }
}

struct EntropyDeviceTests {
    @Test func `each answer fills its buffers with something else`() throws {
        let driver = try GuestDriver(EntropyDevice())
        driver.start()
        let place = GuestDriver<EntropyDevice>.data
        var answers: Set<[UInt8]> = []
        for _ in 0..<4 {
            driver.lend(writable: [(place, 20), (place + 100, 13)])
            #expect(try #require(driver.takeUsed()) == (0, 33))
            answers.insert(try driver.memory.read(at: .init(place), count: 20))
            #expect(try driver.memory.read(at: .init(place + 113), count: 8) == [UInt8](repeating: 0, count: 8))
        }
        #expect(answers.count == 4)
    }
}

struct BalloonDeviceTests {
    private func filled() throws -> GuestDriver<BalloonDevice> {
        let driver = try GuestDriver(BalloonDevice())
        driver.start()
        for page in 1024..<1100 as Range<UInt64> { driver.store(page, at: page * 4096) }
        return driver
    }

    @Test func `inflated and reported pages are empty, others are what they were`() throws {
        let driver = try filled()
        let list: UInt64 = 0x60_0000
        for (index, page) in [UInt32(1030), 1031, .max, 0xc0000].enumerated() {
            driver.store(page, at: list + UInt64(index) * 4)
        }
        driver.lend(readable: [(list, 16)], queue: 0)
        #expect(driver.takeUsed(0) != nil)
        driver.lend(writable: [(1040 * 4096, 8192), (1050 * 4096 + 1, 8191)], queue: 2)
        #expect(driver.takeUsed(2) != nil)
        for (page, isEmpty) in [
            (1029, false), (1030, true), (1031, true), (1032, false), (1040, true), (1041, true), (1042, false),
            (1050, false), (1051, true), (1052, false),
        ] as [(UInt64, Bool)] {
            #expect(driver.load(UInt64.self, at: page * 4096) == (isEmpty ? 0 : page), "page \(page)")
        }
        #expect(driver.transport.device.releasedBytes == 5 * 4096)
        driver.lend(readable: [(list, 3)], queue: 0)
        #expect(!driver.isBroken)
    }

    @Test func `the target is in the configuration, and what the driver says is kept`() throws {
        let driver = try filled()
        driver.transport.device.setTarget(pages: 77)
        #expect(driver.read(.configuration) == 77)
        #expect(driver.read(.interruptStatus) == 2)
        driver.transport.write(76, offset: 0x104, width: .doubleWord)
        #expect(driver.transport.device.pages == 76)
    }
}

struct ConsoleDeviceTests {
    private static let data = GuestDriver<ConsoleDevice>.data

    private func control(_ driver: GuestDriver<ConsoleDevice>, _ port: UInt32, _ event: UInt16, _ value: UInt16) {
        driver.store(port, at: Self.data)
        driver.store(event, at: Self.data + 4)
        driver.store(value, at: Self.data + 6)
        driver.lend(readable: [(Self.data, 8)], queue: 3)
        _ = driver.takeUsed(3)
    }

    /// Control messages for which the driver lends buffers now.
    private func messages(_ driver: GuestDriver<ConsoleDevice>) throws -> [[UInt8]] {
        var list: [[UInt8]] = []
        while true {
            driver.lend(writable: [(Self.data + 0x100, 64)], queue: 2)
            guard let used = driver.takeUsed(2) else { return list }
            list.append(try driver.memory.read(at: .init(Self.data + 0x100), count: Int(used.written)))
        }
    }

    @Test func `ports are introduced, named and opened`() throws {
        let driver = try GuestDriver(ConsoleDevice(names: ["agent"]))
        driver.start()
        control(driver, .max, 0, 1)
        #expect(try messages(driver) == [[0, 0, 0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 1, 0, 0, 0]])
        driver.start()
        control(driver, .max, 0, 1)
        control(driver, 1, 3, 1)
        control(driver, 5, 3, 1)
        let list = try messages(driver)
        #expect(list.contains([1, 0, 0, 0, 7, 0, 1, 0] + Array("agent".utf8)))
        #expect(list.contains([1, 0, 0, 0, 6, 0, 1, 0]))
        control(driver, 1, 6, 1)
        #expect(driver.transport.device.isOpen(port: 1))
        control(driver, 1, 6, 0)
        #expect(!driver.transport.device.isOpen(port: 1))
    }

    @Test func `output goes to its port, input waits for buffers`() throws {
        let device = ConsoleDevice(names: ["agent"])
        let ports = Ports()
        device.sink = ports
        let driver = try GuestDriver(device)
        // Nobody would read it yet.
        #expect(device.receive([1, 2, 3], port: 0) == 0)
        driver.start()
        control(driver, .max, 0, 1)
        control(driver, 0, 3, 1)
        for (offset, byte) in "hello".utf8.enumerated() { driver.store(byte, at: Self.data + UInt64(offset)) }
        driver.lend(readable: [(Self.data, 3), (Self.data + 3, 2)], queue: 1)
        driver.lend(readable: [(Self.data, 1)], queue: 5)
        #expect(ports.output == [0: Array("hello".utf8), 1: Array("h".utf8)])
        #expect(device.receive(Array("typed".utf8), port: 0) == 5)
        driver.lend(writable: [(Self.data + 0x200, 3)], queue: 0)
        #expect(try #require(driver.takeUsed(0)) == (0, 3))
        driver.lend(writable: [(Self.data + 0x203, 30)], queue: 0)
        #expect(try #require(driver.takeUsed(0)) == (0, 2))
        #expect(try driver.memory.read(at: .init(Self.data + 0x200), count: 5) == Array("typed".utf8))
        let much = [UInt8](repeating: 7, count: ConsoleDevice.inputCapacity + 10)
        #expect(device.receive(much, port: 0) == ConsoleDevice.inputCapacity)
        #expect(device.receiveSpace(port: 0) == 0)
    }

    @Test func `the terminal's size is in the configuration and a message`() throws {
        let driver = try GuestDriver(ConsoleDevice())
        driver.start()
        control(driver, .max, 0, 1)
        control(driver, 0, 3, 1)
        _ = try messages(driver)
        driver.transport.device.resize(columns: 132, rows: 43)
        #expect(driver.read(.configuration) == 43 << 16 | 132)
        // A buffer was waiting for it.
        #expect(driver.takeUsed(2) != nil)
    }
}
