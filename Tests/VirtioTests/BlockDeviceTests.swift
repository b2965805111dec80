// SPDX-License-Identifier: Apache-2.0
// Requests of a block device, good ones and those that must fail by themselves. Spec: virtio 1.2 §5.2.6.

import Bus
import DiskImage
import GuestMemory
import Testing
import Virtio

struct BlockDeviceTests {
    private enum Kind {
        static let read: UInt32 = 0
        static let write: UInt32 = 1
        static let flush: UInt32 = 4
        static let identify: UInt32 = 8
        static let discard: UInt32 = 11
        static let zero: UInt32 = 13
    }

    private static let ok: UInt8 = 0
    private static let ioError: UInt8 = 1
    private static let unsupported: UInt8 = 2

    @Test func `what is written is read back, and flushed`() throws {
        let guest = try BlockGuest(queues: 2)
        for offset in stride(from: UInt64(0), to: 8192, by: 8) {
            guest.driver.store(offset &* 0x9e37_79b9_7f4a_7c15, at: BlockGuest.buffer + offset)
        }
        #expect(guest.request(type: Kind.write, sector: 100, count: 8192, queue: 1) == Self.ok)
        #expect(guest.request(type: Kind.flush, sector: 0, count: 0) == Self.ok)
        for offset in stride(from: UInt64(0), to: 8192, by: 8) {
            guest.driver.store(UInt64(0), at: BlockGuest.buffer + offset)
        }
        #expect(guest.request(type: Kind.read, sector: 100, count: 8192) == Self.ok)
        for offset in stride(from: UInt64(0), to: 8192, by: 8) {
            guard guest.driver.load(UInt64.self, at: BlockGuest.buffer + offset) == offset &* 0x9e37_79b9_7f4a_7c15
            else {
                Issue.record("byte \(offset) is wrong")
                return
            }
        }
        #expect(guest.request(type: Kind.read, sector: 116, count: 512) == Self.ok)
        #expect(guest.driver.load(UInt8.self, at: BlockGuest.buffer) == 116)
    }

    @Test func `data may be cut anywhere, through an indirect table, too`() throws {
        let guest = try BlockGuest()
        guest.setHeader(type: Kind.read, sector: 5)
        let table = GuestDriver<BlockDevice>.data + 0x20000
        let pieces: [(UInt64, UInt32, UInt16)] = [
            (BlockGuest.header, 9, 0), (BlockGuest.header + 9, 7, 0), (BlockGuest.buffer, 1, 2),
            (BlockGuest.buffer + 1, 700, 2), (BlockGuest.buffer + 701, 323, 2), (BlockGuest.status, 1, 2),
        ]
        for (index, (address, length, flags)) in pieces.enumerated() {
            let isLast = index == pieces.count - 1
            guest.driver.put(
                TestDescriptor(
                    address: address, length: length, flags: flags | (isLast ? 0 : TestDescriptor.next),
                    next: UInt16(index + 1)), at: table + UInt64(index) * 16)
        }
        guest.driver.put(TestDescriptor(address: table, length: 96, flags: TestDescriptor.indirect), 0)
        guest.driver.push(0)
        guest.driver.notify()
        #expect(try #require(guest.driver.takeUsed()) == (0, 1025))
        #expect(guest.driver.load(UInt8.self, at: BlockGuest.status) == Self.ok)
        #expect(guest.driver.load(UInt8.self, at: BlockGuest.buffer + 511) == 5)
        #expect(guest.driver.load(UInt8.self, at: BlockGuest.buffer + 512) == 6)
    }

    @Test func `the serial number is 20 bytes`() throws {
        let guest = try BlockGuest()
        #expect(guest.request(type: Kind.identify, sector: 0, count: 20) == Self.ok)
        #expect(
            try guest.driver.memory.read(at: .init(BlockGuest.buffer), count: 20) == Array("serial".utf8)
                + [UInt8](repeating: 0, count: 14))
        #expect(guest.request(type: Kind.identify, sector: 0, count: 19) == Self.ioError)
    }

    /// One range of a discard or of zeroes.
    private func setRange(_ guest: BlockGuest, _ index: UInt64 = 0, sector: UInt64, count: UInt32, flags: UInt32 = 0) {
        guest.driver.store(sector, at: BlockGuest.buffer + index * 16)
        guest.driver.store(count, at: BlockGuest.buffer + index * 16 + 8)
        guest.driver.store(flags, at: BlockGuest.buffer + index * 16 + 12)
    }

    @Test func `zeroes and discards reach the disk, several ranges at once`() throws {
        let guest = try BlockGuest()
        setRange(guest, sector: 10, count: 3)
        setRange(guest, 1, sector: 20, count: 1, flags: 1)
        #expect(guest.request(type: Kind.zero, sector: 0, count: 32) == Self.ok)
        for (sector, value) in [(9, 9), (10, 0), (12, 0), (13, 13), (20, 0), (21, 21)] as [(UInt64, UInt8)] {
            #expect(guest.request(type: Kind.read, sector: sector, count: 512) == Self.ok)
            #expect(guest.driver.load(UInt8.self, at: BlockGuest.buffer) == value)
        }
        setRange(guest, sector: 64, count: 64)
        #expect(guest.request(type: Kind.discard, sector: 0, count: 16) == Self.ok)
    }

    @Test func `a request that cannot be done fails, and the next one works`() throws {
        let guest = try BlockGuest()
        let sectors = TestImage.sectors
        func expect(_ status: UInt8, _ type: UInt32, _ sector: UInt64, _ count: UInt32, _ line: Comment) {
            #expect(guest.request(type: type, sector: sector, count: count) == status, line)
            #expect(!guest.driver.isBroken, line)
        }
        expect(Self.ioError, Kind.read, sectors, 512, "behind the end")
        expect(Self.ioError, Kind.read, sectors - 1, 1024, "over the end")
        expect(Self.ioError, Kind.write, .max, 512, "a sector that no disk has")
        expect(Self.ioError, Kind.read, 1 << 55, 512, "a byte beyond 64 bits")
        expect(Self.ioError, Kind.read, 0, 511, "a part of a sector")
        expect(Self.ioError, Kind.write, 0, 700, "a part of a sector")
        expect(Self.unsupported, 99, 0, 512, "an unknown type")
        setRange(guest, sector: sectors - 1, count: 2)
        expect(Self.ioError, Kind.discard, 0, 16, "a range over the end")
        setRange(guest, sector: .max, count: 1)
        expect(Self.ioError, Kind.zero, 0, 16, "a range that no disk has")
        setRange(guest, sector: 0, count: .max)
        expect(Self.ioError, Kind.zero, 0, 16, "a range that is too large")
        setRange(guest, sector: 0, count: 1, flags: 1)
        expect(Self.unsupported, Kind.discard, 0, 16, "a discard with a flag")
        setRange(guest, sector: 0, count: 1, flags: 0x8000_0000)
        expect(Self.unsupported, Kind.zero, 0, 16, "an unknown flag")
        expect(Self.ioError, Kind.discard, 0, 15, "a part of a range")
        expect(Self.ioError, Kind.discard, 0, 17 * 16, "too many ranges")
        guest.driver.lend(readable: [(BlockGuest.header, 15)], writable: [(BlockGuest.status, 1)])
        #expect(guest.driver.takeUsed() != nil)
        #expect(guest.driver.load(UInt8.self, at: BlockGuest.status) == Self.ioError)
        #expect(guest.request(type: Kind.read, sector: 1, count: 512) == Self.ok)
    }

    @Test func `a read-only disk says so, and is not written`() throws {
        let guest = try BlockGuest(isReadOnly: true)
        guest.driver.write(.deviceFeaturesSelect, 0)
        #expect(guest.driver.read(.deviceFeatures) & (1 << 5) != 0)
        #expect(guest.request(type: Kind.write, sector: 3, count: 512) == Self.ioError)
        setRange(guest, sector: 3, count: 1)
        #expect(guest.request(type: Kind.zero, sector: 0, count: 16) == Self.ioError)
        #expect(guest.request(type: Kind.flush, sector: 0, count: 0) == Self.ok)
        #expect(guest.request(type: Kind.read, sector: 3, count: 512) == Self.ok)
        #expect(guest.driver.load(UInt8.self, at: BlockGuest.buffer) == 3)
    }

    @Test func `the configuration has the size, also after it has changed`() throws {
        let guest = try BlockGuest(queues: 2)
        #expect(guest.driver.read(.configuration) == UInt32(TestImage.sectors))
        try guest.device.disk.grow(to: 2 << 20)
        guest.device.sizeChanged()
        #expect(guest.driver.read(.configuration) == 4096)
        #expect(guest.driver.read(.interruptStatus) & 2 != 0)
        #expect(guest.request(type: Kind.write, sector: 4095, count: 512) == Self.ok)
        #expect(guest.driver.transport.read(offset: 0x100 + 34, width: .word) == 2)
        #expect(guest.driver.transport.read(offset: 0x100 + 60, width: .doubleWord) == 0)
        #expect(guest.driver.transport.read(offset: 0x1fff, width: .quadWord) == 0)
    }
}
