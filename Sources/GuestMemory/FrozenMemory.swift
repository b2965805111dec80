// SPDX-License-Identifier: Apache-2.0
// Guest RAM as it was at one instant, while the guest goes on: a page is copied before it is changed for the first time.

internal import Synchronization

/// A view of guest RAM that later changes do not reach.
///
/// It is begun with `GuestMemory.freeze`. From then on whoever changes memory calls `GuestMemory.willChange` first; all
/// changes come from one thread. Any number of threads may read the view; each page is meant to be read once, after
/// which changes to it cost nothing any more.
public final class FrozenMemory: Sendable {
    private enum Page: UInt8 {
        /// Neither read nor changed: memory has it.
        case original
        /// Changed: `copies` has what it was.
        case copied
        /// Read: nobody asks for it again.
        case read
    }

    private struct State {
        var pages: [Page]
        var copies: [Int: [UInt8]] = [:]
    }

    private let memory: GuestMemory
    private let state: Mutex<State>

    init(_ memory: GuestMemory) {
        self.memory = memory
        state = Mutex(State(pages: Array(repeating: .original, count: Int(memory.size / GuestMemory.pageSize))))
    }

    /// RAM (no ROM), ascending.
    public var ranges: [(start: GuestPhysicalAddress, size: UInt64)] {
        memory.regions.filter(\.isWritable).map { ($0.start, $0.size) }
    }

    /// The number of the page at `address` among all pages of RAM; nil where there is none.
    private func number(_ address: GuestPhysicalAddress) -> Int? {
        var before: UInt64 = 0
        for region in memory.regions where region.isWritable {
            if address >= region.start, address - region.start < region.size {
                return Int((before + (address - region.start)) / GuestMemory.pageSize)
            }
            before += region.size
        }
        return nil
    }

    /// Keeps the page at `address`, which is about to change.
    func preserve(_ address: GuestPhysicalAddress) {
        guard let number = number(address) else { return }
        let page = GuestPhysicalAddress(address.rawValue & ~(GuestMemory.pageSize - 1))
        state.withLock { state in
            guard state.pages[number] == .original,
                let bytes = try? memory.read(at: page, count: Int(GuestMemory.pageSize))
            else { return }
            state.copies[number] = bytes
            state.pages[number] = .copied
        }
    }

    /// Fills `buffer`, a whole number of pages, with the pages from `address` as they were; false unless all lie in one of
    /// `ranges`.
    @discardableResult
    public func read(at address: GuestPhysicalAddress, into buffer: UnsafeMutableRawBufferPointer) -> Bool {
        let size = Int(GuestMemory.pageSize)
        guard let first = number(address),
            let host = unsafe try? memory.hostPointer(at: address, count: UInt64(buffer.count))
        else {
            return false
        }
        state.withLock { state in
            for (index, offset) in stride(from: 0, to: buffer.count, by: size).enumerated() {
                // SAFETY: `offset` is below the buffer's count, a multiple of the page size.
                let page = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[offset..<offset + size])
                if let copy = state.copies.removeValue(forKey: first + index) {
                    unsafe page.copyBytes(from: copy)
                } else {
                    // SAFETY: `hostPointer` checked the buffer's count.
                    unsafe page.copyMemory(from: UnsafeRawBufferPointer(start: host + offset, count: size))
                }
                state.pages[first + index] = .read
            }
        }
        return true
    }
}
