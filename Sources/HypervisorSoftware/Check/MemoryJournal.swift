// SPDX-License-Identifier: Apache-2.0
// The guest's pages that a checked run has written, so that it can be taken back, run again, and compared.

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// Images of the pages that change between `open` and `close`. Every first write to a page must be announced.
///
/// What else writes guest memory meanwhile, as the host's kernel does for a disk, must not write to the same pages.
@safe final class MemoryJournal {
    private static let pageSize = 4096
    /// Each page has two images: before the first run, and after it.
    private static let entrySize = 2 * pageSize
    private static let granule = 64

    private let physical: PhysicalMemory
    private var isOpen = false
    private var places: [UInt64: Int] = [:]
    private var frames: [UInt64] = []
    private var images: UnsafeMutableRawPointer
    private var capacity = 64
    /// Page-table entries in which accessed or dirty bits were set: both runs need not walk the tables at the same place.
    private var entries: Set<UInt64> = []

    init(_ physical: PhysicalMemory) {
        self.physical = physical
        unsafe images = .allocate(byteCount: 64 * Self.entrySize, alignment: 64)
    }

    deinit { unsafe images.deallocate() }

    func open() {
        places.removeAll(keepingCapacity: true)
        frames.removeAll(keepingCapacity: true)
        entries.removeAll(keepingCapacity: true)
        isOpen = true
    }

    func close() { isOpen = false }

    var hasEntries: Bool { !entries.isEmpty }

    /// To be called before the page of `address` changes.
    func note(_ address: UInt64) {
        let frame = address & ~4095
        guard isOpen, places[frame] == nil, let host = unsafe physical.pointer(frame) else { return }
        if frames.count == capacity { grow() }
        let place = frames.count
        places[frame] = place
        frames.append(frame)
        // SAFETY: both images lie below `capacity`, and a page of guest memory has as many bytes.
        unsafe before(place).copyMemory(from: host, byteCount: Self.pageSize)
        unsafe after(place).copyMemory(from: host, byteCount: Self.pageSize)
    }

    /// To be called when accessed or dirty bits are set in the low byte of an entry at `address`.
    func noteEntry(_ address: UInt64) { if isOpen { entries.insert(address) } }

    private func grow() {
        let larger = UnsafeMutableRawPointer.allocate(byteCount: capacity * 2 * Self.entrySize, alignment: 64)
        // SAFETY: all of the old images fit.
        unsafe larger.copyMemory(from: images, byteCount: capacity * Self.entrySize)
        unsafe images.deallocate()
        unsafe images = larger
        capacity *= 2
    }

    // SAFETY: callers pass places below `frames.count`, which is at most `capacity`.
    private func before(_ place: Int) -> UnsafeMutableRawPointer { unsafe images + place * Self.entrySize }
    private func after(_ place: Int) -> UnsafeMutableRawPointer { unsafe before(place) + Self.pageSize }

    /// Keeps what the first run made of memory, for `difference`.
    func keep() {
        for (place, frame) in frames.enumerated() {
            guard let host = unsafe physical.pointer(frame) else { continue }
            // SAFETY: as in `note`.
            unsafe after(place).copyMemory(from: host, byteCount: Self.pageSize)
        }
    }

    /// Puts memory back to what it was. `changed` is told of each 64 bytes that are different then.
    func rewind(_ changed: (UInt64) -> Void) {
        for (place, frame) in frames.enumerated() {
            guard let host = unsafe physical.pointer(frame) else { continue }
            for offset in stride(from: 0, to: Self.pageSize, by: Self.granule) {
                // SAFETY: the offset leaves a granule in each page.
                let old = unsafe before(place) + offset
                guard unsafe memcmp(old, host + offset, Self.granule) != 0 else { continue }
                changed(frame + UInt64(offset))
                unsafe (host + offset).copyMemory(from: old, byteCount: Self.granule)
            }
        }
    }

    /// A byte that is not what the first run made of it.
    struct Difference {
        var address: UInt64
        var first: UInt8
        var second: UInt8
    }

    /// Where memory differs from what the first run made of it, at most `limit` places.
    func differences(limit: Int) -> [Difference] {
        var found: [Difference] = []
        for (place, frame) in frames.enumerated() {
            guard let host = unsafe physical.pointer(frame) else { continue }
            // SAFETY: as in `note`.
            let kept = unsafe after(place)
            if unsafe memcmp(kept, host, Self.pageSize) == 0 { continue }
            for offset in 0..<Self.pageSize {
                let (first, second) = unsafe (
                    kept.load(fromByteOffset: offset, as: UInt8.self), host.load(fromByteOffset: offset, as: UInt8.self)
                )
                let address = frame + UInt64(offset)
                let bits = entries.contains(address) ? ~UInt8(PageEntry.accessed | PageEntry.dirty) : .max
                guard (first ^ second) & bits != 0 else { continue }
                found.append(Difference(address: address, first: first, second: second))
                if found.count == limit { return found }
            }
        }
        return found
    }
}
