// SPDX-License-Identifier: Apache-2.0
// The platform on its bus: ports and addresses, power and reset, wiring from device to processor.

import Bus
import GuestMemory
import Hypervisor
import Snapshot
import Testing

@testable import Devices

/// A platform around a clock that stands still.
struct Machine {
    let bus = Bus()
    let clock: GuestClock
    let memory: GuestMemory
    let events = RecordingEvents()
    let platform: Platform

    init(processors: Int = 2) throws {
        clock = try GuestClock.standing()
        memory = try GuestMemory(size: 1 << 20)
        platform = try Platform(processors: processors, bus: bus, clock: clock, memory: memory)
        platform.events = events
    }

    func output(_ port: UInt16, _ value: UInt8) { bus.writePort(Port(port), UInt64(value), width: .byte) }
    func input(_ port: UInt16) -> UInt8 { UInt8(bus.readPort(Port(port), width: .byte)) }

    /// Lets local APIC `index` take interrupts, and routes `line` to it as `vector`.
    func route(_ line: Int, to index: Int, vector: UInt8) {
        platform.localAPICs[index].write(0x1ff, offset: 0xf0, width: .doubleWord)
        for (register, value) in [(0x11, UInt64(index) << 24), (0x10, UInt64(vector))] {
            bus.writeMemory(PlatformLayout.ioapic, UInt64(register + line * 2), width: .doubleWord)
            bus.writeMemory(PlatformLayout.ioapic + 0x10, value, width: .doubleWord)
        }
    }
}

struct PlatformTests {
    private let machine: Machine
    private var platform: Platform { machine.platform }

    init() throws { machine = try Machine() }

    @Test(arguments: [0, 241, -1])
    func `a number of processors that cannot be is refused`(processors: Int) throws {
        #expect(throws: DevicesError.processorCount(processors, limit: 240)) { try Machine(processors: processors) }
    }

    @Test func `every device answers at its ports`() {
        #expect(machine.input(0x3fd) == 0x60)
        machine.output(0x70, 13)
        #expect(machine.input(0x71) == 0x80)
        machine.output(0x21, 0xfb)
        machine.output(0xa1, 0xff)
        #expect(machine.input(0x21) == 0xfb)
        #expect(machine.input(0xa1) == 0xff)
        machine.output(0x4d0, 0x20)
        #expect(machine.input(0x4d0) == 0x20)
        machine.output(0x61, 3)
        #expect(machine.input(0x61) & 3 == 3)
        #expect(machine.input(0x64) == 1)
        #expect(machine.input(0x80) == 0xff)
    }

    @Test func `each processor sees its own local APIC`() {
        let identification = PlatformLayout.localAPIC + 0x20
        #expect(machine.bus.readMemory(identification, width: .doubleWord) == 0)
        platform.currentProcessor = 1
        #expect(machine.bus.readMemory(identification, width: .doubleWord) == 0x0100_0000)
    }

    @Test func `serial input interrupts the processor that the IOAPIC names`() {
        machine.route(4, to: 1, vector: 0x34)
        machine.output(0x3fc, 8)
        machine.output(0x3f9, 1)
        platform.serial.receive([1])
        #expect(platform.localAPICs[1].acknowledgeInterrupt() == 0x34)
        #expect(machine.events.wakes == [1])
    }

    @Test func `the timer arrives at line 2 of the IOAPIC and input 0 of the PIC`() throws {
        machine.route(2, to: 0, vector: 0x30)
        for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1)] as [(UInt16, UInt8)] {
            machine.output(port, value)
        }
        machine.output(0x43, 0x30)
        machine.output(0x40, 0)
        machine.output(0x40, 1)
        let due = try #require(platform.nextDeadline)
        machine.clock.pass(due - machine.clock.now)
        platform.expire(now: machine.clock.now)
        #expect(platform.localAPICs[0].acknowledgeInterrupt() == 0x30)
        #expect(platform.pic.output)
    }

    @Test func `the next deadline is the earliest of all`() {
        #expect(platform.nextDeadline == nil)
        for (apic, delay) in zip(platform.localAPICs, [3000, 2000] as [UInt64]) {
            apic.write(0x1ff, offset: 0xf0, width: .doubleWord)
            apic.write(0x4_0040, offset: 0x320, width: .doubleWord)
            apic.tscDeadline = machine.clock.now + delay
        }
        #expect(platform.nextDeadline == machine.clock.now + 2000)
        machine.clock.pass(2500)
        platform.expire(now: machine.clock.now)
        #expect(platform.localAPICs.map(\.hasPendingInterrupt) == [false, true])
    }

    // MARK: Power and reset

    @Test func `sleep type 5 powers off and any other does not`() {
        machine.output(0x600, 0x20 | 4 << 2)
        #expect(machine.events.events.isEmpty)
        machine.output(0x600, 0x20 | 5 << 2)
        #expect(machine.events.events == [.powerOff])
    }

    @Test(arguments: [(0xcf9, 0x06), (0x64, 0xfe)] as [(UInt16, UInt8)])
    func `the reset register and the keyboard controller reset`(port: UInt16, value: UInt8) {
        machine.output(port, 0x02)
        #expect(machine.events.events.isEmpty)
        machine.output(port, value)
        #expect(machine.events.events == [.reset])
    }

    @Test func `the power button and a new generation id signal the event device`() throws {
        machine.route(9, to: 0, vector: 0x50)
        machine.route(10, to: 0, vector: 0x60)
        platform.power.pressPowerButton()
        #expect(platform.localAPICs[0].acknowledgeInterrupt() == 0x50)
        let before = try machine.memory.read(at: PlatformLayout.generationPage, count: 16)
        #expect(before == platform.generation.identifier)
        // What ADDR does in the guest.
        try machine.memory.write([2], at: PlatformLayout.generationPage + 16)
        try platform.generation.regenerate()
        #expect(platform.localAPICs[0].acknowledgeInterrupt() == 0x60)
        let after = try machine.memory.read(at: PlatformLayout.generationPage, count: 16)
        #expect(after != before)
        #expect(after == platform.generation.identifier)
    }

    @Test(arguments: [(0, true), (1, false), (2, true)] as [(UInt8, Bool)])
    func `a guest is told of a new generation id unless no driver has asked for it`(note: UInt8, isTold: Bool) throws {
        machine.route(10, to: 0, vector: 0x60)
        let place = PlatformLayout.generationPage + 16
        #expect(try machine.memory.read(at: place, count: 1) == [1])
        // Tables of older machines leave zero there.
        try machine.memory.write([note], at: place)
        try platform.generation.regenerate()
        #expect(platform.localAPICs[0].acknowledgeInterrupt() == (isTold ? 0x60 : nil))
        #expect(try machine.memory.read(at: place, count: 1) == [note])
    }

    @Test func `an injected NMI reaches processors that listen on LINT1`() {
        platform.localAPICs[1].write(0x1ff, offset: 0xf0, width: .doubleWord)
        platform.localAPICs[1].write(0x400, offset: 0x360, width: .doubleWord)
        platform.injectNonMaskableInterrupt()
        #expect(machine.events.events == [.nonMaskable(1)])
    }

    @Test func `a reset gives the state of power-on and the tables back`() throws {
        let fresh = try Machine().platform
        machine.route(4, to: 1, vector: 0x34)
        machine.output(0x3fb, 3)
        machine.output(0x61, 1)
        try machine.memory.write(Array(repeating: 0, count: 64), at: ACPITables.rootPointer)
        try platform.reset()
        #expect(platform.serial.saveState() == fresh.serial.saveState())
        #expect(platform.timer.saveState() == fresh.timer.saveState())
        #expect(platform.pic.saveState() == fresh.pic.saveState())
        #expect(platform.ioapic.saveState() == fresh.ioapic.saveState())
        #expect(platform.power.saveState() == fresh.power.saveState())
        #expect(platform.localAPICs.map { $0.saveState() } == fresh.localAPICs.map { $0.saveState() })
        #expect(try machine.memory.read(at: ACPITables.rootPointer, count: 8) == Array("RSD PTR ".utf8))
    }

    @Test func `what the memory map must reserve covers every table and register page`() throws {
        func isReserved(_ address: GuestPhysicalAddress) -> Bool {
            PlatformLayout.reserved.contains { address >= $0.start && address - $0.start < $0.size }
        }
        for table in try ACPITables.build(.init(processors: 240)) {
            #expect(isReserved(table.address))
            #expect(isReserved(table.address + UInt64(table.bytes.count - 1)))
        }
        #expect(isReserved(PlatformLayout.generationPage + 15))
        #expect(isReserved(PlatformLayout.ioapic))
        #expect(isReserved(PlatformLayout.localAPIC))
    }
}
