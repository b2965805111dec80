// SPDX-License-Identifier: Apache-2.0
// What leaves the guest arrives at devices as the guest meant it, on every backend.

import Bus
import Hypervisor
import Testing
import X86

struct ExitTests {
    private typealias Device = RecordingDevice

    /// Runs exits.S from real mode.
    private func exits(_ backend: Backend) throws -> GuestProcessor {
        let guest = try GuestProcessor(backend, code: BareGuest.exits)
        try guest.processor.restoreState(ProcessorMode.real.entry)
        #expect(guest.run() == nil)
        return guest
    }

    @Test(arguments: Backend.allCases)
    func `port accesses of each width arrive, one by one and from string instructions`(backend: Backend) throws {
        let widths: [AccessWidth] = [.byte, .word, .doubleWord]
        var expected: [DeviceAccessRecord] = []
        for (index, width) in widths.enumerated() {
            expected += [.read(0, width), .write(0, width, Device.answer(index + 1, width))]
        }
        for (index, width) in widths.enumerated() {
            expected += Array(repeating: .read(0, width), count: 3)
            expected += (1...3).map { .write(0, width, Device.answer(3 + index * 3 + $0, width)) }
        }
        #expect(try exits(backend).ports.accesses == expected)
    }

    @Test(arguments: Backend.allCases)
    func `accesses to a device's memory arrive with their width and value`(backend: Backend) throws {
        let extended = UInt64(UInt32(bitPattern: Int32(Int8(truncatingIfNeeded: Device.answer(6, .byte)))))
        #expect(
            try exits(backend).page.accesses == [
                .read(0x10, .byte), .write(0x11, .byte, Device.answer(1, .byte)),
                .read(0x20, .word), .write(0x22, .word, Device.answer(2, .word)),
                .read(0x30, .doubleWord), .write(0x34, .doubleWord, Device.answer(3, .doubleWord)),
                .read(0x40, .quadWord), .write(0x48, .quadWord, Device.answer(4, .quadWord)),
                .read(0x50, .byte), .write(0x54, .doubleWord, Device.answer(5, .byte)),
                .read(0x58, .byte), .write(0x5c, .doubleWord, extended),
                .read(0x60, .doubleWord), .write(0x60, .doubleWord, Device.answer(7, .doubleWord) + 1),
                .write(0x70, .doubleWord, 0x1234_5678),
                .read(0x80, .doubleWord), .write(0x88, .doubleWord, Device.answer(8, .doubleWord)),
            ])
    }

    @Test(arguments: Backend.onProcessor)
    func `an exception that cannot be delivered shuts the processor down`(backend: Backend) throws {
        // INT3 without an interrupt descriptor table.
        let guest = try GuestProcessor(backend, code: [0xcc])
        var state = ProcessorMode.long.entry
        state.idt.limit = 0
        try guest.processor.restoreState(state)
        #expect(guest.run() == .shutdown)
    }

    @Test(arguments: Backend.allCases)
    func `code that rewrites itself runs as rewritten`(backend: Backend) throws {
        let guest = try GuestProcessor(backend, code: BareGuest.selfModifying)
        try guest.processor.restoreState(ProcessorMode.long.entry)
        #expect(guest.run() == nil)
        #expect(guest.processor.saveState().general[0] == 55)
    }
}
