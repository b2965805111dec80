// SPDX-License-Identifier: Apache-2.0
// A view of memory at one instant that later changes must not reach.

import GuestMemory
import Testing

struct FrozenMemoryTests {
    private static let pages: UInt64 = 256

    private func bytes(_ view: FrozenMemory, page: UInt64, count: UInt64 = 1) -> [UInt8] {
        let size = Int(count * GuestMemory.pageSize)
        return unsafe [UInt8](unsafeUninitializedCapacity: size) { buffer, filled in
            // SAFETY: the buffer has `size` bytes.
            unsafe view.read(
                at: GuestPhysicalAddress(page * GuestMemory.pageSize), into: UnsafeMutableRawBufferPointer(buffer))
            filled = size
        }
    }

    private func address(page: UInt64, offset: UInt64 = 0) -> GuestPhysicalAddress {
        GuestPhysicalAddress(page * GuestMemory.pageSize + offset)
    }

    /// Memory in which each page has its number in all of its bytes.
    private func numbered() throws -> GuestMemory {
        let memory = try GuestMemory(size: Self.pages * GuestMemory.pageSize)
        for page in 0..<Self.pages {
            let content = [UInt8](repeating: UInt8(page), count: Int(GuestMemory.pageSize))
            try memory.write(content, at: address(page: page))
        }
        return memory
    }

    @Test func `what is written after the freeze is not in the view`() throws {
        let memory = try numbered()
        let view = memory.freeze()
        try memory.store(UInt32.max, at: address(page: 3, offset: 8))
        try memory.write([UInt8](repeating: 0xff, count: 3 * 4096), at: address(page: 9, offset: 100))
        memory.willChange(address(page: 20), count: 4096)
        let host = unsafe try memory.hostPointer(at: address(page: 20), count: 4096)
        // SAFETY: `hostPointer` checked one page.
        unsafe host.storeBytes(of: UInt64.max, as: UInt64.self)
        for page in 0..<Self.pages {
            #expect(bytes(view, page: page).allSatisfy { $0 == UInt8(page) }, "page \(page)")
        }
        #expect(try memory.load(UInt32.self, at: address(page: 3, offset: 8)) == .max)
    }

    @Test func `a range of pages is read as it was, changed or not`() throws {
        let memory = try numbered()
        let view = memory.freeze()
        try memory.store(UInt8(0xee), at: address(page: 33))
        let range = bytes(view, page: 32, count: 3)
        #expect(range == (0..<3).flatMap { [UInt8](repeating: UInt8(32 + $0), count: 4096) })
    }

    @Test func `memory above the hole is in the view`() throws {
        let memory = try GuestMemory(size: 4 << 30)
        let start = GuestMemory.holeEnd
        try memory.store(UInt64(7), at: start)
        let view = memory.freeze()
        try memory.store(UInt64(8), at: start)
        #expect(bytes(view, page: start.rawValue / GuestMemory.pageSize)[0] == 7)
        #expect(view.ranges.map(\.size) == [3 << 30, 1 << 30])
    }

    @Test func `after the thaw a new freeze shows the new memory`() throws {
        let memory = try numbered()
        _ = memory.freeze()
        memory.thaw()
        #expect(!memory.isFrozen)
        try memory.store(UInt8(0xaa), at: address(page: 5))
        let view = memory.freeze()
        try memory.store(UInt8(0xbb), at: address(page: 5))
        #expect(bytes(view, page: 5)[0] == 0xaa)
    }

    @Test func `readers on other threads see the instant while memory changes all the time`() async throws {
        let memory = try numbered()
        for round in 0..<20 {
            let base = UInt8(round)
            for page in 0..<Self.pages { try memory.store(base &+ UInt8(page), at: address(page: page, offset: 77)) }
            let view = memory.freeze()
            async let first = wrongPages(view, in: 0..<Self.pages / 2, base)
            async let second = wrongPages(view, in: Self.pages / 2..<Self.pages, base)
            for turn in 0..<4 {
                for page in 0..<Self.pages {
                    try memory.store(UInt8(turn) &+ 0x80, at: address(page: page, offset: 77))
                }
            }
            #expect(await first + second == [])
            memory.thaw()
        }
    }

    private func wrongPages(_ view: FrozenMemory, in range: Range<UInt64>, _ base: UInt8) async -> [UInt64] {
        range.filter { bytes(view, page: $0)[77] != base &+ UInt8($0) }
    }
}
