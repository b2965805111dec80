// SPDX-License-Identifier: Apache-2.0
// What the devices' tests put around a device: lines, events, a clock that stands still.

import Bus
import Hypervisor
import Snapshot

@testable import Devices

/// Records what lines do.
final class RecordingLines: InterruptController {
    private(set) var asserted: Set<Int> = []
    /// Rising edges, in order.
    private(set) var edges: [Int] = []

    func setLine(_ line: Int, asserted level: Bool) {
        if level, asserted.insert(line).inserted { edges.append(line) }
        if !level { asserted.remove(line) }
    }
}

/// Records what the guest asks of the machine.
final class RecordingEvents: PlatformEvents {
    enum Event: Equatable {
        case reset
        case powerOff
        case initialize(Int)
        case startup(Int, page: UInt8)
        case nonMaskable(Int)
    }

    private(set) var events: [Event] = []
    /// Processors that were told of an interrupt, in order.
    private(set) var wakes: [Int] = []

    func platformRequestsReset() { events.append(.reset) }
    func platformRequestsPowerOff() { events.append(.powerOff) }
    func platformRequestsInit(processor index: Int) { events.append(.initialize(index)) }
    func platformRequestsStartup(processor index: Int, page: UInt8) { events.append(.startup(index, page: page)) }
    func platformRequestsNonMaskableInterrupt(processor index: Int) { events.append(.nonMaskable(index)) }
    func platformInterrupts(processor index: Int) { wakes.append(index) }
}

/// Collects what the serial port sends.
final class RecordingSink: SerialSink {
    private(set) var bytes: [UInt8] = []
    func transmit(_ byte: UInt8) { bytes.append(byte) }
}

extension GuestClock {
    /// A clock that stands at guest time 1 s and the given second since 1970.
    static func standing(at second: UInt64 = 1_700_000_000) throws -> GuestClock {
        let clock = GuestClock()
        try clock.restoreState(
            .init(nanoseconds: 1_000_000_000, wallClock: second * 1_000_000_000, timeStampCounter: 1_000_000_000))
        return clock
    }

    /// Lets `nanoseconds` pass while the clock stands still otherwise.
    func pass(_ nanoseconds: UInt64) { advance(toWallClock: wallClock + nanoseconds) }
}

extension ByteDevice {
    subscript(offset: UInt64) -> UInt8 {
        get { readByte(offset: offset) }
        set { writeByte(newValue, offset: offset) }
    }
}
