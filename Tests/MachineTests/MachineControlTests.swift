// SPDX-License-Identifier: Apache-2.0
// The mailbox between the machine's thread and the others.

import Testing

@testable import Machine

struct MachineControlTests {
    @Test func `requests come in order and once`() throws {
        let control = try MachineControl()
        #expect(!control.hasMail)
        control.stop()
        control.sendInput([1, 2, 3])
        #expect(control.hasMail)
        #expect(control.takeRequests().count == 1)
        #expect(control.takeRequests().isEmpty)
        #expect(!control.hasMail)
    }

    @Test func `input is taken as far as the guest has room`() throws {
        let control = try MachineControl()
        control.sendInput([1, 2, 3])
        let first = control.takeInput(2)
        #expect(first.bytes == [1, 2])
        #expect(first.isMore)
        let second = control.takeInput(10)
        #expect(second.bytes == [3])
        #expect(!second.isMore)
    }

    @Test func `input that the guest does not read holds the sender back`() throws {
        let control = try MachineControl()
        control.sendInput([UInt8](repeating: 0, count: 65_535))
        #expect(control.hasRoomForInput)
        control.sendInput([0])
        #expect(!control.hasRoomForInput)
        _ = control.takeInput(1)
        #expect(control.hasRoomForInput)
    }

    @Test func `whoever asks a machine that has ended is told so`() throws {
        let control = try MachineControl()
        control.close()
        #expect(control.activity == .ended)
        #expect(throws: MachineError.ended) { try control.pause() }
        #expect(throws: MachineError.ended) { try control.resume() }
        #expect(throws: MachineError.ended) { try control.snapshot(to: "/nowhere") }
    }

    @Test func `whoever waits when the machine ends is told so`() throws {
        let control = try MachineControl()
        let outcome = try Promise<Result<Bool, MachineError>>()
        try HostThread.start {
            outcome.deliver(Result { () throws(MachineError) in try control.pause() }.map { true })
        }
        while !control.hasMail { control.wake.wait(nanoseconds: 1_000_000) }
        control.close()
        #expect(outcome.wait() == .failure(.ended))
    }
}
