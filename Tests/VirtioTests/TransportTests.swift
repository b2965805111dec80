// SPDX-License-Identifier: Apache-2.0
// Registers, negotiation and interrupts as virtio 1.2 §2 to §4 tell a driver to expect them.

import Bus
import Testing
import Virtio

struct TransportTests {
    @Test func `the registers say what the device is`() throws {
        let driver = try GuestDriver(EntropyDevice())
        #expect(driver.read(.magic) == 0x7472_6976)
        #expect(driver.read(.version) == 2)
        #expect(driver.read(.deviceID) == 4)
        #expect(driver.status == 0)
    }

    @Test func `registers are read and written as 32 bits, and unknown ones are nothing`() throws {
        let driver = try GuestDriver(EntropyDevice())
        #expect(driver.transport.read(offset: 0, width: .byte) == 0xff)
        #expect(driver.transport.read(offset: 2, width: .doubleWord) == 0xffff_ffff)
        #expect(driver.transport.read(offset: 0x1c, width: .doubleWord) == 0xffff_ffff)
        driver.transport.write(1, offset: 0x70, width: .byte)
        driver.transport.write(1, offset: 0x54, width: .doubleWord)
        #expect(driver.status == 0)
    }

    @Test func `features that are not offered, or no VIRTIO_F_VERSION_1, are refused`() throws {
        let driver = try GuestDriver(EntropyDevice())
        for (low, high) in [(UInt32(1), UInt32(1)), (0, 0), (0, 0x8000_0001)] {
            driver.write(.status, 0)
            driver.write(.status, 3)
            driver.write(.driverFeaturesSelect, 0)
            driver.write(.driverFeatures, low)
            driver.write(.driverFeaturesSelect, 1)
            driver.write(.driverFeatures, high)
            driver.write(.status, 0xb)
            #expect(driver.status == 3)
            // No start without features.
            driver.write(.status, 7)
            #expect(driver.status == 3)
        }
        driver.start()
        #expect(driver.status == 0xf)
    }

    @Test func `status bits are only cleared by a reset, which clears everything`() throws {
        let driver = try GuestDriver(EntropyDevice())
        driver.start()
        driver.write(.status, 1)
        #expect(driver.status == 0xf)
        driver.lend(writable: [(GuestDriver<EntropyDevice>.data, 8)])
        #expect(driver.interrupts.isAsserted)
        driver.write(.status, 0)
        #expect(driver.status == 0)
        #expect(driver.read(.queueReady) == 0)
        #expect(driver.read(.interruptStatus) == 0)
        #expect(!driver.interrupts.isAsserted)
    }

    @Test func `the line is up until the driver has acknowledged everything`() throws {
        let guest = try BlockGuest()
        #expect(guest.request(type: 0, sector: 0, count: 512) == 0)
        guest.device.sizeChanged()
        #expect(guest.driver.read(.interruptStatus) == 3)
        guest.driver.write(.interruptAcknowledge, 1)
        #expect(guest.driver.interrupts.isAsserted)
        guest.driver.write(.interruptAcknowledge, 2)
        #expect(!guest.driver.interrupts.isAsserted)
        #expect(guest.driver.read(.generation) == 1)
    }

    @Test func `a driver that wants no interrupt gets none`() throws {
        let guest = try BlockGuest()
        guest.driver.store(UInt16(1), at: GuestDriver<BlockDevice>.ring(0) + 0x4000)
        #expect(guest.request(type: 0, sector: 0, count: 512) == 0)
        #expect(!guest.driver.interrupts.isAsserted)
        guest.driver.store(UInt16(0), at: GuestDriver<BlockDevice>.ring(0) + 0x4000)
        #expect(guest.request(type: 0, sector: 0, count: 512) == 0)
        #expect(guest.driver.interrupts.isAsserted)
    }

    @Test func `with event indexes the interrupt comes when the driver said, past every wrap of the index`() throws {
        let driver = try GuestDriver(EntropyDevice(), size: 4)
        driver.start(eventIndex: true)
        var expected = 0
        for count in 0..<70_000 as Range<UInt32> {
            let index = UInt16(truncatingIfNeeded: count)
            // Asks to be told of every third one.
            if count % 3 == 0 { driver.setUsedEvent(index &+ 2) }
            if count % 3 == 2 { expected += 1 }
            driver.lend(writable: [(GuestDriver<EntropyDevice>.data, 4)])
            guard let used = driver.takeUsed(), used == (0, 4) else {
                Issue.record("request \(count) did not come back")
                return
            }
            driver.acknowledge()
        }
        #expect(driver.interrupts.edges == expected)
    }
}
