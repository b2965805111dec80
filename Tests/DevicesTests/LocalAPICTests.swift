// SPDX-License-Identifier: Apache-2.0
// The local APIC as processor and operating system see it. Spec: Intel SDM volume 3, chapter 11.

import Bus
import GuestMemory
import Hypervisor
import Testing

@testable import Devices

struct LocalAPICTests {
    private let clock: GuestClock
    private let events = RecordingEvents()
    private let fabric = InterruptFabric()
    private let pic: InterruptController8259
    private let apics: [LocalAPIC]
    private var apic: LocalAPIC { apics[0] }

    init() throws {
        let clock = try GuestClock.standing()
        let fabric = fabric
        self.clock = clock
        pic = InterruptController8259 { [weak fabric] in fabric?.setExternalLine($0) }
        apics = (0..<3).map { LocalAPIC(index: $0, clock: clock, fabric: fabric) }
        fabric.connect(localAPICs: apics, ioapic: IOAPIC(fabric: fabric), pic: pic)
        for apic in apics {
            apic.events = events
            write(0xf0, 0x1ff, apic)
        }
    }

    private func read(_ offset: UInt64, _ apic: LocalAPIC? = nil) -> UInt64 {
        (apic ?? self.apic).read(offset: offset, width: .doubleWord)
    }

    private func write(_ offset: UInt64, _ value: UInt64, _ apic: LocalAPIC? = nil) {
        (apic ?? self.apic).write(value, offset: offset, width: .doubleWord)
    }

    private func send(_ vector: UInt8, delivery: InterruptMessage.Delivery = .fixed, to destination: UInt8 = 0) {
        fabric.deliver(InterruptMessage(vector: vector, delivery: delivery, destination: destination))
    }

    private func initializePIC() {
        for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 0x04), (0x21, 0x01), (0x21, 0)] as [(UInt64, UInt8)] {
            pic[port] = value
        }
    }

    // MARK: Registers

    @Test func `registers have their values of power-on`() throws {
        let fresh = LocalAPIC(index: 1, clock: clock, fabric: fabric)
        #expect(read(0x20, fresh) == 0x0100_0000)
        #expect(read(0x30, fresh) == 0x0005_0014)
        #expect(read(0xe0, fresh) == 0xffff_ffff)
        #expect(read(0xf0, fresh) == 0xff)
        for offset: UInt64 in [0x320, 0x330, 0x340, 0x350, 0x360, 0x370] { #expect(read(offset, fresh) == 0x1_0000) }
        #expect(fresh.apicBase == 0xfee0_0800)
        #expect(apic.apicBase == 0xfee0_0900)
    }

    @Test(
        arguments: [
            (0x80, 0xff), (0xd0, 0xff00_0000), (0xe0, 0xffff_ffff), (0xf0, 0x3ff), (0x320, 0x7_00ff), (0x330, 0x1_07ff),
            (0x340, 0x1_07ff), (0x350, 0x1_a7ff), (0x360, 0x1_a7ff), (0x370, 0x1_00ff), (0x380, 0xffff_ffff),
            (0x3e0, 0xb), (0x310, 0xff00_0000),
        ] as [(UInt64, UInt64)])
    func `only defined bits of a register can be set`(offset: UInt64, bits: UInt64) {
        write(offset, 0xffff_ffff)
        #expect(read(offset) == bits)
    }

    @Test func `a register that does not exist is an error that is shown after a write to ESR`() {
        _ = read(0x3f0)
        #expect(read(0x280) == 0)
        write(0x280, 0)
        #expect(read(0x280) == 0x80)
        write(0x280, 0)
        #expect(read(0x280) == 0)
    }

    @Test func `a disabled local APIC does not answer and comes back reset`() {
        write(0x80, 0x20)
        apic.apicBase = 0xfee0_0100
        #expect(read(0x80) == 0xffff_ffff)
        apic.apicBase = 0xfee0_0900
        #expect(read(0x80) == 0)
        #expect(read(0xf0) == 0xff)
    }

    @Test func `disabling by software masks the local vectors`() {
        write(0x370, 0xfe)
        write(0xf0, 0xff)
        #expect(read(0x370) == 0x1_00fe)
        write(0x370, 0xfe)
        #expect(read(0x370) == 0x1_00fe)
        send(0x40)
        #expect(!apic.hasPendingInterrupt)
    }

    // MARK: Priorities

    @Test func `the highest vector is taken first and lower ones wait for its end`() {
        send(0x41)
        send(0x62)
        #expect(read(0x220) == 1 << 1)
        #expect(apic.acknowledgeInterrupt() == 0x62)
        #expect(read(0x130) == 1 << 2)
        #expect(read(0xa0) == 0x60)
        #expect(!apic.hasPendingInterrupt)
        #expect(apic.acknowledgeInterrupt() == nil)
        send(0x71)
        #expect(apic.acknowledgeInterrupt() == 0x71)
        write(0xb0, 0)
        #expect(!apic.hasPendingInterrupt)
        write(0xb0, 0)
        #expect(apic.acknowledgeInterrupt() == 0x41)
    }

    @Test func `vectors of the same class do not interrupt each other`() {
        send(0x41)
        #expect(apic.acknowledgeInterrupt() == 0x41)
        send(0x4f)
        #expect(!apic.hasPendingInterrupt)
    }

    @Test func `the task priority holds back interrupts of its class and below`() {
        apic.taskPriorityClass = 4
        #expect(read(0x80) == 0x40)
        send(0x4f)
        #expect(!apic.hasPendingInterrupt)
        send(0x50)
        #expect(apic.hasPendingInterrupt)
        write(0x80, 0x50)
        #expect(apic.taskPriorityClass == 5)
        #expect(!apic.hasPendingInterrupt)
        apic.taskPriorityClass = 0
        #expect(apic.acknowledgeInterrupt() == 0x50)
    }

    @Test func `an interrupt wakes its processor once`() {
        send(0x41, to: 2)
        send(0x42, to: 2)
        #expect(events.wakes == [2])
    }

    @Test func `an illegal vector is an error and no interrupt`() {
        write(0x370, 0xfe)
        send(0x0f)
        #expect(!apic.hasPendingInterrupt)
        write(0x280, 0)
        #expect(read(0x280) == 0x40)
        write(0x300, 0x0f)
        write(0x280, 0)
        #expect(read(0x280) == 0x20)
        #expect(apic.acknowledgeInterrupt() == 0xfe)
    }

    // MARK: Messages between processors

    @Test func `a physical destination reaches one processor and 0xff all`() {
        write(0x310, 0x0200_0000)
        write(0x300, 0x40)
        #expect(apics.map(\.hasPendingInterrupt) == [false, false, true])
        write(0x310, 0xff00_0000)
        write(0x300, 0x41)
        #expect(apics.map(\.hasPendingInterrupt) == [true, true, true])
    }

    @Test(
        arguments: [(1, [true, false, false]), (2, [true, true, true]), (3, [false, true, true])] as [(UInt64, [Bool])])
    func `shorthands reach the sender, all, or the others`(shorthand: UInt64, reached: [Bool]) {
        write(0x300, shorthand << 18 | 0x40)
        #expect(apics.map(\.hasPendingInterrupt) == reached)
    }

    @Test func `logical destinations are bits in the flat model and members of a cluster in the other`() {
        for (index, apic) in apics.enumerated() { write(0xd0, 1 << UInt64(24 + index), apic) }
        write(0x310, 0x0600_0000)
        write(0x300, 0x840)
        #expect(apics.map(\.hasPendingInterrupt) == [false, true, true])
        for apic in apics { write(0xe0, 0x0fff_ffff, apic) }
        write(0xd0, 0x1100_0000, apics[0])
        write(0xd0, 0x2200_0000, apics[1])
        write(0x310, 0x1300_0000)
        write(0x300, 0x850)
        #expect(apics[0].acknowledgeInterrupt() == 0x50)
        #expect(apics[1].acknowledgeInterrupt() == 0x40)
    }

    @Test func `INIT, start-up and NMI go to the machine`() {
        write(0x80, 0x20, apics[1])
        write(0x310, 0x0100_0000)
        write(0x300, 0xc500)
        write(0x300, 0x8500)
        write(0x300, 0x0699)
        write(0x300, 0x0400)
        #expect(events.events == [.initialize(1), .startup(1, page: 0x99), .nonMaskable(1)])
        #expect(read(0x80, apics[1]) == 0)
        #expect(read(0xf0, apics[1]) == 0xff)
    }

    @Test func `a message-signalled interrupt names destination and vector`() throws {
        let message = try #require(InterruptMessage(address: GuestPhysicalAddress(0xfee0_2000), data: 0x61))
        #expect(fabric.deliver(message))
        #expect(apics[2].acknowledgeInterrupt() == 0x61)
        #expect(InterruptMessage(address: GuestPhysicalAddress(0xfed0_2000), data: 0x61) == nil)
    }

    // MARK: Local interrupts

    @Test func `the PICs' interrupt comes through LINT0 in ExtINT mode, whatever the task priority`() {
        initializePIC()
        apic.taskPriorityClass = 15
        pic.setLine(4, asserted: true)
        #expect(!apic.hasPendingInterrupt)
        write(0x350, 0x700)
        #expect(apic.hasPendingInterrupt)
        #expect(apic.acknowledgeInterrupt() == 0x34)
        #expect(!apic.hasPendingInterrupt)
        #expect(read(0x110) == 0)
    }

    @Test func `the PICs' interrupt reaches a processor whose local APIC is off`() {
        initializePIC()
        apic.apicBase = 0xfee0_0100
        pic.setLine(4, asserted: true)
        #expect(apic.acknowledgeInterrupt() == 0x34)
    }

    @Test func `LINT1 in NMI mode is an NMI`() {
        apic.pulseLocalInterrupt1()
        #expect(events.events.isEmpty)
        write(0x360, 0x400)
        apic.pulseLocalInterrupt1()
        #expect(events.events == [.nonMaskable(0)])
    }

    // MARK: Timer

    private func pass(_ nanoseconds: UInt64) {
        clock.pass(nanoseconds)
        if let due = apic.nextDeadline, due <= clock.now { apic.expire(now: clock.now) }
    }

    @Test(arguments: [(0xb, 1), (0x0, 2), (0x3, 16), (0x8, 32), (0xa, 128)] as [(UInt64, UInt64)])
    func `the timer counts nanoseconds through its divider`(code: UInt64, divisor: UInt64) {
        write(0x3e0, code)
        write(0x320, 0x30)
        write(0x380, 1000)
        #expect(apic.nextDeadline == clock.now + 1000 * divisor)
        clock.pass(400 * divisor)
        #expect(read(0x390) == 600)
        clock.pass(600 * divisor)
        #expect(read(0x390) == 0)
        #expect(apic.acknowledgeInterrupt() == 0x30)
    }

    @Test func `a one-shot timer expires once`() {
        write(0x3e0, 0xb)
        write(0x320, 0x30)
        write(0x380, 50_000)
        pass(49_999)
        #expect(!apic.hasPendingInterrupt)
        pass(1)
        #expect(apic.acknowledgeInterrupt() == 0x30)
        #expect(apic.nextDeadline == nil)
    }

    @Test func `a periodic timer keeps its rhythm over a long sleep`() {
        let start = clock.now
        write(0x3e0, 0xb)
        write(0x320, 0x2_0030)
        write(0x380, 1_000_000)
        pass(1_000_000)
        #expect(apic.acknowledgeInterrupt() == 0x30)
        write(0xb0, 0)
        pass(10_500_000)
        #expect(apic.acknowledgeInterrupt() == 0x30)
        write(0xb0, 0)
        #expect(!apic.hasPendingInterrupt)
        #expect(apic.nextDeadline == start + 12_000_000)
        #expect(read(0x390) == 500_000)
    }

    @Test func `a periodic timer cannot make the host spin`() throws {
        write(0x3e0, 0xb)
        write(0x320, 0x2_0030)
        write(0x380, 1)
        #expect(try #require(apic.nextDeadline) >= clock.now + 20_000)
    }

    @Test func `a TSC deadline expires once and reads as 0 then`() {
        apic.tscDeadline = clock.now + 5
        #expect(apic.tscDeadline == 0)
        write(0x320, 0x4_0030)
        apic.tscDeadline = clock.now + 1000
        write(0x380, 77)
        #expect(apic.nextDeadline == clock.now + 1000)
        #expect(read(0x390) == 0)
        pass(1000)
        #expect(apic.tscDeadline == 0)
        #expect(apic.acknowledgeInterrupt() == 0x30)
    }

    @Test func `a TSC deadline in the past expires at once`() {
        write(0x320, 0x4_0030)
        apic.tscDeadline = 1
        #expect(apic.acknowledgeInterrupt() == 0x30)
        #expect(apic.nextDeadline == nil)
    }

    @Test func `what expires while it is masked is not delivered later`() {
        write(0x3e0, 0xb)
        write(0x320, 0x1_0030)
        write(0x380, 1000)
        #expect(apic.nextDeadline == nil)
        clock.pass(2000)
        write(0x320, 0x30)
        #expect(!apic.hasPendingInterrupt)
        #expect(apic.nextDeadline == nil)
    }

    @Test func `changing the divider goes on with the current count`() {
        write(0x3e0, 0xb)
        write(0x320, 0x30)
        write(0x380, 1000)
        clock.pass(400)
        write(0x3e0, 0x0)
        #expect(read(0x390) == 600)
        #expect(apic.nextDeadline == clock.now + 1200)
    }
}
