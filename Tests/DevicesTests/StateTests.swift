// SPDX-License-Identifier: Apache-2.0
// The contract of every stateful device: save, mutate, restore, equal; hostile state throws and changes nothing.

import Bus
import GuestMemory
import Hypervisor
import Snapshot
import Testing
import X86

@testable import Devices

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

struct StateTests {
    private let machine: Machine
    private var platform: Platform { machine.platform }

    init() throws {
        machine = try Machine()
        // Something to save that is not the state of power-on.
        machine.route(4, to: 0, vector: 0x34)
        machine.output(0x3fc, 8)
        machine.output(0x3f9, 7)
        platform.serial.receive([1, 2, 3])
        platform.localAPICs[0].write(0x2_0040, offset: 0x320, width: .doubleWord)
        platform.localAPICs[0].write(5_000_000, offset: 0x380, width: .doubleWord)
        machine.output(0x43, 0x34)
        machine.output(0x40, 0)
        machine.output(0x40, 0x10)
    }

    /// The contract for one device: `mutate` changes what the guest sees, each of `hostile` is a state to refuse.
    private func expectContract<Device: PlatformDevice>(
        _ device: Device, mutate: (Device) -> Void, hostile: [(inout Device.State) -> Void],
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let saved = device.saveState()
        mutate(device)
        let mutated = device.saveState()
        #expect(mutated != saved, "nothing was mutated", sourceLocation: sourceLocation)

        for (index, corrupt) in hostile.enumerated() {
            var state = saved
            corrupt(&state)
            #expect(throws: SnapshotError.self, "hostile state \(index)", sourceLocation: sourceLocation) {
                try device.restoreState(state)
            }
            #expect(device.saveState() == mutated, "hostile state \(index)", sourceLocation: sourceLocation)
        }

        let text = try JSONEncoder().encode(saved)
        try device.restoreState(try JSONDecoder().decode(Device.State.self, from: text))
        #expect(device.saveState() == saved, sourceLocation: sourceLocation)
    }

    @Test func `the serial port keeps the contract`() throws {
        try expectContract(
            platform.serial, mutate: { $0.writeByte(0x55, offset: 7) },
            hostile: [
                { $0.interruptEnable = 0x10 }, { $0.fifoControl = 0x02 }, { $0.modemControl = 0x20 },
                { $0.modemChanges = 0x10 }, { $0.receiverFIFO = [1, 2] },
                { ($0.fifoControl, $0.receiverFIFO) = (1, Array(repeating: 0, count: 17)) },
                { $0.waiting = Array(repeating: 0, count: 4097) },
            ])
    }

    @Test func `a restored serial port asserts its line as before`() throws {
        let saved = platform.serial.saveState()
        #expect(platform.localAPICs[0].acknowledgeInterrupt() == 0x34)
        platform.localAPICs[0].write(0, offset: 0xb0, width: .doubleWord)
        for _ in 0..<3 { _ = machine.input(0x3f8) }
        _ = machine.input(0x3fa)
        try platform.serial.restoreState(saved)
        #expect(machine.input(0x3fa) == 0x04)
        for byte: UInt8 in 1...3 { #expect(machine.input(0x3f8) == byte) }
    }

    @Test func `the real-time clock keeps the contract`() throws {
        try expectContract(
            platform.realTimeClock,
            mutate: {
                $0.writeByte(0x40, offset: 0)
                $0.writeByte(1, offset: 1)
            },
            hostile: [
                { $0.index = 0x80 }, { $0.ram = [] }, { $0.ram.append(0) }, { $0.ram[10] = 0x80 },
                { $0.offset = .max }, { $0.offset = .min }, { $0.lastSecond = .max }, { $0.events = 0x80 },
                { $0.lastTick = .max },
            ])
    }

    @Test func `the timer keeps the contract`() throws {
        try expectContract(
            platform.timer, mutate: { $0.writeByte(1, offset: 0x61) },
            hostile: [
                { $0.channels = [] }, { $0.channels.append(.init()) }, { $0.speaker = 0x10 }, { $0.speaker = 0x01 },
                { $0.channels[0].gate = false }, { $0.channels[1].latchedCount = [1, 2, 3] },
                { $0.channels[0].start = .max }, { $0.channels[0].stoppedAfter = .max }, { $0.nextInterrupt = .max },
            ])
    }

    @Test func `the PICs keep the contract`() throws {
        try expectContract(
            platform.pic, mutate: { $0.writeByte(0x11, offset: 0x20) },
            hostile: [
                { $0.chips = [] }, { $0.chips.append(.init()) }, { $0.chips[0].vectorBase = 1 },
                { $0.chips[1].lowestPriority = 8 }, { $0.chips[0].edgeLevel = 1 }, { $0.chips[1].edgeLevel = 1 },
            ])
    }

    @Test func `the IOAPIC keeps the contract`() throws {
        try expectContract(
            platform.ioapic, mutate: { $0.setLine(20, asserted: true) },
            hostile: [
                { $0.identification = 1 }, { $0.lines = 1 << 24 }, { $0.pendingEdges = 1 << 31 }, { $0.entries = [] },
                { $0.entries.append(0) }, { $0.entries[0] = 0x1000 }, { $0.entries[0] = 0x4000 },
            ])
    }

    @Test func `power control keeps the contract`() throws {
        try expectContract(
            platform.power, mutate: { $0.writeByte(4, offset: 0x600) },
            hostile: [{ $0.sleepControl = 0x20 }, { $0.sleepStatus = 1 }, { $0.resetControl = 4 }])
    }

    @Test func `the generation id keeps the contract`() throws {
        try expectContract(
            platform.generation, mutate: { try? $0.regenerate() },
            hostile: [{ $0.identifier = [] }, { $0.identifier.append(0) }])
    }

    @Test func `the local APIC keeps the contract`() throws {
        let apic = platform.localAPICs[0]
        machine.clock.pass(1_234_567)
        let count = apic.read(offset: 0x390, width: .doubleWord)
        try expectContract(
            apic, mutate: { _ = $0.acknowledgeInterrupt() },
            hostile: [
                { $0.id = 1 }, { $0.apicBase = 0xfee0_0c00 }, { $0.apicBase = 0 }, { $0.taskPriority = 0x100 },
                { $0.logicalDestination = 1 }, { $0.destinationFormat = 0 }, { $0.spuriousVector = 0x400 },
                { $0.errorStatus = 0x100 }, { $0.pendingErrors = 0x100 }, { $0.inService = [] },
                { $0.requested.append(0) }, { $0.levelTriggered[0] = 1 }, { $0.requested[0] = 0x8000 },
                { $0.interruptCommand = 0x1000 }, { $0.lvtTimer = 0x8_0000 }, { $0.lvtThermal = 0x800 },
                { $0.lvtPerformance = 0x800 }, { $0.lvtInterrupt0 = 0x1000 }, { $0.lvtInterrupt1 = 0x4000 },
                { $0.lvtError = 0x100 }, { $0.divideConfiguration = 4 }, { $0.timerStart = .max },
                { $0.initialCount = 0 },
            ])
        #expect(apic.hasPendingInterrupt)
        #expect(apic.read(offset: 0x390, width: .doubleWord) == count)
        #expect(apic.nextDeadline == machine.clock.now - 1_234_567 + 10_000_000)
        #expect(apic.acknowledgeInterrupt() == 0x34)
    }

    // MARK: The whole platform

    private func states() -> [String: any Codable & Sendable] {
        Dictionary(uniqueKeysWithValues: platform.saveStates().map { ($0.name, $0.state) })
    }

    private func encodedStates() throws -> [Data] {
        var encoded: [Data] = []
        for (_, state) in platform.saveStates() { encoded.append(try JSONEncoder.sorted.encode(state)) }
        return encoded
    }

    @Test func `every layer has a name of its own and a state type`() {
        let names = platform.layers.map(\.layerName)
        #expect(
            names == ["serial", "rtc", "pit", "pic", "ioapic", "power", "generation", "apic0", "apic1"])
        for name in names { #expect(platform.stateType(of: name) != nil) }
        #expect(platform.stateType(of: "nothing") == nil)
    }

    @Test func `a platform restored through JSON into another process goes on where the first was`() throws {
        var decoded: [String: any Codable & Sendable] = [:]
        for (name, state) in platform.saveStates() {
            let type = try #require(platform.stateType(of: name))
            decoded[name] = try JSONDecoder().decode(type, from: try JSONEncoder().encode(state))
        }
        let other = try Machine()
        try other.clock.restoreState(machine.clock.saveState())
        try other.platform.restoreStates(decoded)
        #expect(other.platform.nextDeadline == platform.nextDeadline)
        #expect(other.platform.localAPICs[0].acknowledgeInterrupt() == 0x34)
        #expect(other.input(0x3fa) == 0x04)
        #expect(other.input(0x3f8) == 1)
        #expect(other.platform.pic.output == platform.pic.output)
    }

    @Test(arguments: ["serial", "apic1"])
    func `a layer that is missing, unknown or wrong changes no layer at all`(name: String) throws {
        let good = states()
        platform.localAPICs[0].taskPriorityClass = 9
        machine.output(0x3ff, 0x77)
        let before = try encodedStates()

        var missing = good
        missing[name] = nil
        var unknown = good
        unknown["toaster"] = good[name]
        var mistyped = good
        mistyped[name] = PowerControl.State()
        var hostile = good
        var apic = LocalAPICState.reset(id: 1)
        apic.taskPriority = .max
        hostile["apic1"] = apic
        for states in [missing, unknown, mistyped, hostile] {
            #expect(throws: SnapshotError.self) { try platform.restoreStates(states) }
            #expect(try encodedStates() == before)
        }
    }

    @Test func `the PICs' output reaches LINT0 after a restore without a new edge`() throws {
        for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1)] as [(UInt16, UInt8)] {
            machine.output(port, value)
        }
        platform.localAPICs[1].write(0x1ff, offset: 0xf0, width: .doubleWord)
        platform.localAPICs[1].write(0x700, offset: 0x350, width: .doubleWord)
        machine.platform.interrupts.setLine(5, asserted: true)
        let saved = states()
        let other = try Machine()
        try other.platform.restoreStates(saved)
        #expect(other.platform.localAPICs[1].hasPendingInterrupt)
        #expect(other.events.wakes == [0, 1])
        let vector = other.platform.localAPICs[1].acknowledgeInterrupt()
        #expect(vector == 0x24 || vector == 0x25)
    }
}

extension JSONEncoder {
    fileprivate static var sorted: JSONEncoder {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        return encoder
    }
}
