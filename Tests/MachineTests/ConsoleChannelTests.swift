// SPDX-License-Identifier: Apache-2.0
// Console output between threads.

import Testing

@testable import Machine

struct ConsoleChannelTests {
    @Test func `what is put in comes out once, in order`() throws {
        let channel = try ConsoleChannel(machineWake: WakeSignal())
        channel.put([1, 2])
        channel.put([3])
        #expect(channel.take() == [1, 2, 3])
        #expect(channel.take().isEmpty)
    }

    @Test func `a channel that nobody empties is full, and taking wakes the machine`() throws {
        let wake = try WakeSignal()
        let channel = try ConsoleChannel(machineWake: wake)
        channel.put([UInt8](repeating: 0, count: ConsoleChannel.capacity - 1))
        #expect(!channel.isFull)
        channel.put([0])
        #expect(channel.isFull)
        #expect(channel.take().count == ConsoleChannel.capacity)
        #expect(!channel.isFull)
        // Would hang if nothing had woken it.
        wake.wait()
    }

    @Test func `a signal that is set before the wait is not lost, and a wait ends`() throws {
        let signal = try WakeSignal()
        for _ in 0..<100_000 { signal.set() }
        signal.wait()
        let clock = ContinuousClock()
        let waited = clock.measure { signal.wait(nanoseconds: 20_000_000) }
        #expect(waited >= .milliseconds(15))
        #expect(waited < .seconds(10))
    }
}
