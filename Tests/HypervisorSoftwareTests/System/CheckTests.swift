// SPDX-License-Identifier: Apache-2.0
// `--cpu-engine check`: what both engines agree on goes on, and what they do not is told.

#if arch(x86_64) && os(Linux)
    import Bus
    import GuestMemory
    import Testing

    @testable import HypervisorSoftware

    /// Counts what reaches it.
    private final class CountingDevice: BusDevice {
        var reads = 0
        var writes: [UInt64] = []

        func read(offset: UInt64, width: AccessWidth) -> UInt64 {
            reads += 1
            return 0x10 + UInt64(reads)
        }

        func write(_ value: UInt64, offset: UInt64, width: AccessWidth) { writes.append(value) }
    }

    struct CheckTests {
        /// Changes every place in the translator's code that has `old`.
        private func corrupt(_ machine: SupervisorMachine, _ old: [UInt8], _ new: [UInt8]) throws {
            let candidate = machine.core.code.translator
            let translator = try #require(candidate)
            let code = translator.bytes(at: 0, count: translator.buffer.size)
            let places = (0..<code.count - old.count).filter { Array(code[$0..<$0 + old.count]) == old }
            try #require(!places.isEmpty)
            for place in places {
                for (offset, byte) in new.enumerated() {
                    // SAFETY: below the end of the code.
                    unsafe translator.buffer.writable[place + offset] = byte
                }
            }
        }

        @Test func `a register that translated code gets wrong is reported with both values`() throws {
            let machine = try SupervisorMachine(.check)
            // MOV EAX, 12345678; NOP; HLT
            try machine.write([0xb8, 0x78, 0x56, 0x34, 0x12, 0x90, 0xf4])
            machine.start()
            #expect(machine.runToHalt() == nil)
            #expect(machine.core.failure == nil)
            #expect(machine.core.general[0] == 0x1234_5678)
            try corrupt(machine, [0x78, 0x56, 0x34, 0x12], [0x79, 0x56, 0x34, 0x12])
            machine.start()
            _ = machine.runToHalt()
            let failure = machine.core.failure ?? ""
            #expect(failure.contains("rax: "))
            #expect(failure.contains(" 0x12345679 0x12345678"))
        }

        @Test func `memory that translated code gets wrong is reported with its address`() throws {
            let machine = try SupervisorMachine(.check)
            // MOV DWORD [RDI + 4], 0, which makes the page writable without a look; MOV DWORD [RDI], 12345678; HLT
            try machine.write([0xc7, 0x47, 4, 0, 0, 0, 0, 0xc7, 0x07, 0x78, 0x56, 0x34, 0x12, 0xf4])
            machine.core.general[7] = SupervisorMachine.data + 8
            machine.start()
            #expect(machine.runToHalt() == nil)
            try corrupt(machine, [0x78, 0x56, 0x34, 0x12], [0x79, 0x56, 0x34, 0x12])
            machine.start()
            _ = machine.runToHalt()
            let failure = machine.core.failure ?? ""
            #expect(failure.contains("memory 0x40008: 0x79 0x78"))
        }

        @Test func `what a device has done is not done again`() throws {
            let machine = try SupervisorMachine(.check)
            let device = CountingDevice()
            // The playground's first page is where no memory is.
            try machine.core.bus.attach(device, memory: GuestPhysicalAddress(0x80_0000), size: 4096)
            try machine.put(0x80_0000 | 3, at: 0x4000)
            machine.core.flushTranslations()
            machine.core.general[7] = SupervisorMachine.playground
            machine.core.general[0] = 0
            // MOV ECX, 5; loop: ADD EAX, [RDI]; MOV [RDI], EAX; DEC ECX; JNZ loop; HLT
            try machine.write([0xb9, 5, 0, 0, 0, 0x03, 0x07, 0x89, 0x07, 0xff, 0xc9, 0x75, 0xf8, 0xf4])
            machine.start()
            #expect(machine.runToHalt() == nil)
            #expect(machine.core.failure == nil)
            #expect(device.reads == 5)
            #expect(device.writes == [0x11, 0x23, 0x36, 0x4a, 0x5f])
        }

        @Test func `both engines agree on exceptions, page tables that change, and repeated instructions`() throws {
            let machine = try SupervisorMachine(.check)
            try machine.map(0, to: 0, SupervisorMachine.present | SupervisorMachine.writable)
            machine.core.general[7] = SupervisorMachine.playground
            // MOV ECX, 1200; REP STOSD: faults at the second page, which is not there.
            try machine.write([0xb9, 0xb0, 4, 0, 0, 0xf3, 0xab, 0xf4])
            machine.start()
            let caught = machine.runToHalt()
            #expect(machine.core.failure == nil)
            #expect(caught == Caught(vector: 14, errorCode: 2, rip: SupervisorMachine.code + 5))
            #expect(machine.core.general[1] == 176)
            #expect(try machine.entry(0) & SupervisorMachine.dirty != 0)
        }
    }
#endif
