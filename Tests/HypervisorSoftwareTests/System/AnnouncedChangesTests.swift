// SPDX-License-Identifier: Apache-2.0
// The software CPU announces each change of memory that was frozen, whatever way it changes it.

import GuestMemory
import Testing

@testable import HypervisorSoftware

struct AnnouncedChangesTests {
    private static let size = 2 << 20

    private func content(_ memory: GuestMemory) throws -> [UInt8] {
        try memory.read(at: GuestPhysicalAddress(0), count: Self.size)
    }

    private func content(_ view: FrozenMemory) -> [UInt8] {
        unsafe [UInt8](unsafeUninitializedCapacity: Self.size) { buffer, filled in
            // SAFETY: the buffer has `size` bytes.
            unsafe view.read(at: GuestPhysicalAddress(0), into: UnsafeMutableRawBufferPointer(buffer))
            filled = Self.size
        }
    }

    /// Each writes to the data memory, whose address is in RDI.
    private static let programs: [[UInt8]] = [
        [0x48, 0x89, 0x07],  // mov [rdi], rax
        [0x48, 0x89, 0x87, 0xfc, 0x0f, 0x00, 0x00],  // mov [rdi + 4092], rax: two pages
        [0x48, 0x01, 0x07],  // add [rdi], rax
        [0x48, 0x8b, 0x07, 0xf0, 0x48, 0x0f, 0xb1, 0x0f],  // mov rax, [rdi]; lock cmpxchg [rdi], rcx
        [0x48, 0x87, 0x07],  // xchg [rdi], rax
        [0xb9, 0x00, 0x20, 0x00, 0x00, 0xf3, 0xaa],  // mov ecx, 0x2000; rep stosb
        [0xb9, 0x00, 0x04, 0x00, 0x00, 0xbe, 0x00, 0x00, 0x10, 0x00, 0xf3, 0x48, 0xa5],  // rep movsq from 1 MiB
        [0x0f, 0x11, 0x07],  // movups [rdi], xmm0
        [0x48, 0x0f, 0xae, 0x07],  // fxsave64 [rdi]
        [0xdd, 0x1f],  // fstp qword [rdi]
        [0x48, 0x8d, 0x67, 0x40, 0x50, 0x9c, 0xe8, 0x00, 0x00, 0x00, 0x00],  // lea rsp, [rdi + 64]; push; pushf; call
        [0x48, 0x0f, 0xba, 0x2f, 0x02],  // bts qword [rdi], 2
        [0x0f, 0xa3, 0xc0, 0x0f, 0x92, 0x07],  // bt eax, eax; setb [rdi]
    ]

    @Test(arguments: programs, SoftwareEngine.allCases)
    func `a change through a translation that was writable before the freeze is announced`(
        code: [UInt8], engine: SoftwareEngine
    ) throws {
        let machine = try SupervisorMachine(engine)
        try machine.write(code + [0xf4])
        func run() {
            machine.start()
            machine.core.general[0] = 0x0123_4567_89ab_cde7
            machine.core.general[7] = SupervisorMachine.data
            _ = machine.runToHalt()
        }
        run()
        // The soft TLB may write without a look now; what it writes next must differ from what is there.
        try machine.memory.write(
            [UInt8](repeating: 0x5a, count: 0x3000), at: GuestPhysicalAddress(SupervisorMachine.data))
        let before = try content(machine.memory)
        let view = machine.memory.freeze()
        machine.core.code.protectAll()
        run()
        #expect(try content(machine.memory) != before)
        #expect(content(view) == before)
    }

    @Test(arguments: SoftwareEngine.allCases)
    func `accessed and dirty bits are announced`(engine: SoftwareEngine) throws {
        let machine = try SupervisorMachine(engine)
        try machine.map(0, to: 0, SupervisorMachine.present | SupervisorMachine.writable)
        try machine.write([0x48, 0x89, 0x07, 0xf4])  // mov [rdi], rax; hlt
        let before = try content(machine.memory)
        let view = machine.memory.freeze()
        machine.core.code.protectAll()
        machine.core.general[7] = SupervisorMachine.playground
        machine.start()
        _ = machine.runToHalt()
        #expect(try machine.entry(0) & SupervisorMachine.dirty != 0)
        #expect(content(view) == before)
    }
}
