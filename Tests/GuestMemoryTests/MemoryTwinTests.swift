// SPDX-License-Identifier: Apache-2.0
// A twin of memory shows what memory was, whoever changes it afterwards.

#if os(Linux)

    import GuestMemory
    import Testing

    struct MemoryTwinTests {
        private func bytes(_ twin: MemoryTwin, at address: UInt64, count: Int) -> [UInt8]? {
            var bytes = [UInt8](repeating: 0xee, count: count)
            let isRead = unsafe bytes.withUnsafeMutableBytes {
                unsafe twin.read(at: GuestPhysicalAddress(address), into: $0)
            }
            return isRead ? bytes : nil
        }

        @Test func `changes that nobody announces do not reach it`() throws {
            let memory = try GuestMemory(size: 4 << 20)
            try memory.write([1, 2, 3], at: GuestPhysicalAddress(0x1000))
            let twin = try MemoryTwin(of: memory)
            let host = unsafe try memory.hostPointer(at: GuestPhysicalAddress(0x1000), count: 3)
            unsafe host.storeBytes(of: 9, as: UInt8.self)
            try memory.write([7], at: GuestPhysicalAddress(0x20_0000))
            #expect(bytes(twin, at: 0x1000, count: 4) == [1, 2, 3, 0])
            #expect(bytes(twin, at: 0x20_0000, count: 1) == [0])
            #expect(try memory.read(at: GuestPhysicalAddress(0x1000), count: 1) == [9])
        }

        @Test func `memory that is given back to the host stays in it`() throws {
            let memory = try GuestMemory(size: 4 << 20)
            try memory.write([5], at: GuestPhysicalAddress(0x3000))
            let twin = try MemoryTwin(of: memory)
            _ = memory.release(GuestPhysicalAddress(0), count: 4 << 20)
            #expect(bytes(twin, at: 0x3000, count: 1) == [5])
        }

        @Test func `what is outside of memory is refused`() throws {
            let memory = try GuestMemory(size: 1 << 20)
            let twin = try MemoryTwin(of: memory)
            #expect(bytes(twin, at: 1 << 20, count: 1) == nil)
            #expect(bytes(twin, at: (1 << 20) - 1, count: 2) == nil)
        }
    }

#endif
