// SPDX-License-Identifier: Apache-2.0
// The IOAPIC together with local APICs. Spec: Intel 82093AA data sheet.

import Bus
import Hypervisor
import Testing

@testable import Devices

struct IOAPICTests {
    private let fabric = InterruptFabric()
    private let ioapic: IOAPIC
    private let apics: [LocalAPIC]

    init() throws {
        let clock = try GuestClock.standing()
        let fabric = fabric
        ioapic = IOAPIC(fabric: fabric)
        apics = (0..<2).map { LocalAPIC(index: $0, clock: clock, fabric: fabric) }
        fabric.connect(localAPICs: apics, ioapic: ioapic, pic: InterruptController8259 { _ in })
        for apic in apics { apic.write(0x1ff, offset: 0xf0, width: .doubleWord) }
    }

    private func read(_ index: UInt64) -> UInt64 {
        ioapic.write(index, offset: 0, width: .doubleWord)
        return ioapic.read(offset: 0x10, width: .doubleWord)
    }

    private func write(_ index: UInt64, _ value: UInt64) {
        ioapic.write(index, offset: 0, width: .doubleWord)
        ioapic.write(value, offset: 0x10, width: .doubleWord)
    }

    private func setEntry(_ line: UInt64, _ value: UInt64) {
        write(0x11 + line * 2, value >> 32)
        write(0x10 + line * 2, value & 0xffff_ffff)
    }

    private func finish(_ apic: LocalAPIC) { apic.write(0, offset: 0xb0, width: .doubleWord) }

    @Test func `it has 24 entries, an EOI register and a writable id`() {
        #expect(read(1) == 0x0017_0020)
        write(0, 0xff00_0000)
        #expect(read(0) == 0x0f00_0000)
        #expect(read(2) == 0x0f00_0000)
        #expect(read(0x10) == 0x0001_0000)
        #expect(read(0x40) == 0xffff_ffff)
    }

    @Test func `status bits of an entry cannot be written`() {
        setEntry(3, 0xffff_ffff_ffff_ffff)
        #expect(read(0x16) == 0x0001_afff)
        #expect(read(0x17) == 0xff00_0000)
    }

    @Test func `an edge goes once to the processor of its entry`() {
        setEntry(4, 0x0100_0000_0000_0034)
        ioapic.setLine(4, asserted: true)
        #expect(!apics[0].hasPendingInterrupt)
        #expect(apics[1].acknowledgeInterrupt() == 0x34)
        finish(apics[1])
        ioapic.setLine(4, asserted: true)
        #expect(!apics[1].hasPendingInterrupt)
        ioapic.setLine(4, asserted: false)
        ioapic.setLine(4, asserted: true)
        #expect(apics[1].hasPendingInterrupt)
    }

    @Test func `an edge at a masked line waits for the line to be unmasked`() {
        ioapic.setLine(4, asserted: true)
        ioapic.setLine(4, asserted: false)
        setEntry(4, 0x34)
        #expect(apics[0].acknowledgeInterrupt() == 0x34)
    }

    @Test func `a level interrupts again after its end as long as it is asserted`() {
        setEntry(16, 0x8050)
        ioapic.setLine(16, asserted: true)
        #expect(read(0x30) & 0x4000 == 0x4000)
        #expect(apics[0].acknowledgeInterrupt() == 0x50)
        #expect(!apics[0].hasPendingInterrupt)
        finish(apics[0])
        #expect(apics[0].acknowledgeInterrupt() == 0x50)
        ioapic.setLine(16, asserted: false)
        finish(apics[0])
        #expect(!apics[0].hasPendingInterrupt)
        #expect(read(0x30) & 0x4000 == 0)
    }

    @Test func `the EOI register ends a level by its vector`() {
        setEntry(16, 0x8050)
        ioapic.setLine(16, asserted: true)
        ioapic.setLine(16, asserted: false)
        ioapic.write(0x51, offset: 0x40, width: .doubleWord)
        #expect(read(0x30) & 0x4000 == 0x4000)
        ioapic.write(0x50, offset: 0x40, width: .doubleWord)
        #expect(read(0x30) & 0x4000 == 0)
    }

    @Test func `going through edge-triggered clears a stuck remote request`() {
        setEntry(16, 0x8050)
        ioapic.setLine(16, asserted: true)
        setEntry(16, 0x1_0050)
        setEntry(16, 0x1_8050)
        #expect(read(0x30) & 0x4000 == 0)
    }

    @Test func `a logical destination in lowest priority mode picks the idle processor`() {
        apics[0].write(0x0100_0000, offset: 0xd0, width: .doubleWord)
        apics[1].write(0x0200_0000, offset: 0xd0, width: .doubleWord)
        apics[0].write(0x60, offset: 0x80, width: .doubleWord)
        setEntry(5, 0x0300_0000_0000_0940)
        ioapic.setLine(5, asserted: true)
        #expect(!apics[0].hasPendingInterrupt)
        #expect(apics[1].acknowledgeInterrupt() == 0x40)
    }

    @Test func `lines that do not exist are ignored`() {
        ioapic.setLine(24, asserted: true)
        ioapic.setLine(-1, asserted: true)
        #expect(ioapic.saveState() == IOAPIC.State())
    }
}
