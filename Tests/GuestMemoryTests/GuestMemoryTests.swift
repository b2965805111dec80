// SPDX-License-Identifier: Apache-2.0
// Guest memory: layout around the hole, bounds, byte order.

import GuestMemory
import Testing

struct GuestMemoryTests {
    @Test func `RAM leaves the hole below 4 GiB free`() throws {
        let memory = try GuestMemory(size: 4 << 30)
        #expect(memory.region(holding: GuestPhysicalAddress((3 << 30) - 1)) != nil)
        #expect(memory.region(holding: GuestPhysicalAddress(3 << 30)) == nil)
        #expect(memory.region(holding: GuestPhysicalAddress((5 << 30) - 1)) != nil)
        #expect(memory.region(holding: GuestPhysicalAddress(5 << 30)) == nil)
    }

    @Test(arguments: [0, 4096, (1 << 20) + 1, (1 << 40) + 4096] as [UInt64])
    func `a size that cannot be is refused`(size: UInt64) {
        #expect(throws: GuestMemoryError.invalidSize(size)) { try GuestMemory(size: size) }
    }

    @Test func `an access over the end of RAM is refused and writes nothing`() throws {
        let memory = try GuestMemory(size: 1 << 20)
        let address = GuestPhysicalAddress((1 << 20) - 4)
        #expect(throws: GuestMemoryError.outOfRange(address: address, count: 8)) {
            try memory.store(UInt64.max, at: address)
        }
        #expect(try memory.load(UInt32.self, at: address) == 0)
    }

    @Test func `integers are little-endian`() throws {
        let memory = try GuestMemory(size: 1 << 20)
        try memory.store(UInt32(0x1122_3344), at: GuestPhysicalAddress(64))
        #expect(try memory.read(at: GuestPhysicalAddress(64), count: 4) == [0x44, 0x33, 0x22, 0x11])
    }
}
