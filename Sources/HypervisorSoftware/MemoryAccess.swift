// SPDX-License-Identifier: Apache-2.0
// Loads and stores at linear addresses: the soft TLB first, then the page walk, page crossings and devices.

import Bus
import GuestMemory

/// Unsigned integers that one memory access moves.
package typealias MemoryWord = FixedWidthInteger & UnsignedInteger & BitwiseCopyable

extension Core {
    /// Reads `T` with the processor's current rights.
    @inline(__always)
    mutating func load<T: MemoryWord>(_ type: T.Type, at linear: UInt64) throws(Fault) -> T {
        try load(type, at: linear, accessSet)
    }

    @inline(__always)
    mutating func load<T: MemoryWord>(_ type: T.Type, at linear: UInt64, _ set: AccessSet) throws(Fault) -> T {
        if let host = unsafe translations.readable(linear, size: UInt64(MemoryLayout<T>.size), set) {
            // SAFETY: `readable` checked the size.
            return unsafe host.loadUnaligned(as: T.self)
        }
        return T(truncatingIfNeeded: try loadSlow(linear, MemoryLayout<T>.size, set))
    }

    /// Reads `T` that will be written back: faults as a write does.
    @inline(__always)
    mutating func loadForWrite<T: MemoryWord>(_ type: T.Type, at linear: UInt64) throws(Fault) -> T {
        if let host = unsafe translations.writable(linear, size: UInt64(MemoryLayout<T>.size), accessSet) {
            // SAFETY: `writable` checked the size.
            return unsafe host.loadUnaligned(as: T.self)
        }
        try checkWritable(linear, MemoryLayout<T>.size, accessSet)
        return T(truncatingIfNeeded: try loadSlow(linear, MemoryLayout<T>.size, accessSet))
    }

    /// Writes `T` with the processor's current rights.
    @inline(__always)
    mutating func store<T: MemoryWord>(_ value: T, at linear: UInt64) throws(Fault) {
        try store(value, at: linear, accessSet)
    }

    @inline(__always)
    mutating func store<T: MemoryWord>(_ value: T, at linear: UInt64, _ set: AccessSet) throws(Fault) {
        if let host = unsafe translations.writable(linear, size: UInt64(MemoryLayout<T>.size), set) {
            // SAFETY: `writable` checked the size.
            unsafe host.storeBytes(of: value, as: T.self)
            return
        }
        try storeSlow(UInt64(truncatingIfNeeded: value), linear, MemoryLayout<T>.size, set)
    }

    mutating func load128(at linear: UInt64) throws(Fault) -> Vector128 {
        if let host = unsafe translations.readable(linear, size: 16, accessSet) {
            // SAFETY: `readable` checked 16 bytes.
            return unsafe Vector128(
                low: host.loadUnaligned(as: UInt64.self), high: host.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        }
        try checkCanonical(linear, 16)
        let low = try load(UInt64.self, at: linear)
        return Vector128(low: low, high: try load(UInt64.self, at: linear &+ 8))
    }

    mutating func store128(_ value: Vector128, at linear: UInt64) throws(Fault) {
        if let host = unsafe translations.writable(linear, size: 16, accessSet) {
            // SAFETY: `writable` checked 16 bytes.
            unsafe host.storeBytes(of: value.low, as: UInt64.self)
            unsafe host.storeBytes(of: value.high, toByteOffset: 8, as: UInt64.self)
            return
        }
        try checkWritable(linear, 16, accessSet)
        try store(value.low, at: linear)
        try store(value.high, at: linear &+ 8)
    }

    /// Linear addresses wrap at 4 GiB outside 64-bit mode.
    @inline(__always)
    private mutating func wrapped(_ linear: UInt64) -> UInt64 { mode == .bits64 ? linear : linear & 0xffff_ffff }

    @inline(never)
    private mutating func loadSlow(_ linear: UInt64, _ size: Int, _ set: AccessSet) throws(Fault) -> UInt64 {
        let room = 4096 - Int(linear & 4095)
        if size > room {
            try checkCanonical(linear, size)
            let low = try loadSlow(linear, splitting: room, set)
            let high = try loadSlow(wrapped(linear &+ UInt64(room)), splitting: size - room, set)
            return low | high << UInt64(room * 8)
        }
        let translation = try translate(linear, .read, set)
        guard let host = unsafe physical.pointer(translation.physical) else {
            return try readDevice(translation.physical, size)
        }
        if isWatched(linear) { noteDataAccess(linear, UInt64(size), isWrite: false) }
        unsafe enter(linear, translation, set, host: host, access: .read)
        // SAFETY: `host` is valid to the end of its page, and `size` fits in it.
        switch size {
        case 1: return UInt64(unsafe host.load(as: UInt8.self))
        case 2: return UInt64(unsafe host.loadUnaligned(as: UInt16.self))
        case 4: return UInt64(unsafe host.loadUnaligned(as: UInt32.self))
        default: return unsafe host.loadUnaligned(as: UInt64.self)
        }
    }

    /// Reads 1 to 7 bytes that lie in one page.
    private mutating func loadSlow(_ linear: UInt64, splitting size: Int, _ set: AccessSet) throws(Fault) -> UInt64 {
        var value: UInt64 = 0
        for position in 0..<size {
            value |= UInt64(try load(UInt8.self, at: linear &+ UInt64(position), set)) << UInt64(position * 8)
        }
        return value
    }

    @inline(never)
    private mutating func storeSlow(_ value: UInt64, _ linear: UInt64, _ size: Int, _ set: AccessSet) throws(Fault) {
        let room = 4096 - Int(linear & 4095)
        if size > room {
            try checkWritable(linear, size, set)
            for position in 0..<size {
                let byte = UInt8(truncatingIfNeeded: value >> UInt64(position * 8))
                try store(byte, at: wrapped(linear &+ UInt64(position)), set)
            }
            return
        }
        let translation = try translate(linear, .write, set)
        guard physical.isWritable(translation.physical), let host = unsafe physical.pointer(translation.physical) else {
            try writeDevice(translation.physical, value, size)
            return
        }
        if isWatched(linear) { noteDataAccess(linear, UInt64(size), isWrite: true) }
        noteWrite(translation.physical, UInt64(size))
        code.willChange(translation.physical)
        unsafe enter(linear, translation, set, host: host, access: .write)
        // SAFETY: `host` is valid to the end of its page, and `size` fits in it.
        switch size {
        case 1: unsafe host.storeBytes(of: UInt8(truncatingIfNeeded: value), as: UInt8.self)
        case 2: unsafe host.storeBytes(of: UInt16(truncatingIfNeeded: value), as: UInt16.self)
        case 4: unsafe host.storeBytes(of: UInt32(truncatingIfNeeded: value), as: UInt32.self)
        default: unsafe host.storeBytes(of: value, as: UInt64.self)
        }
    }

    /// Throws what a write of `size` bytes (1 to 4096) would.
    @inline(never)
    mutating func checkWritable(_ linear: UInt64, _ size: Int, _ set: AccessSet) throws(Fault) {
        try checkCanonical(linear, size)
        try checkWritable(linear, set)
        let last = wrapped(linear &+ UInt64(size - 1))
        if last & ~4095 != linear & ~4095 { try checkWritable(last & ~4095, set) }
    }

    private mutating func checkWritable(_ linear: UInt64, _ set: AccessSet) throws(Fault) {
        if unsafe translations.writable(linear, size: 1, set) == nil { _ = try translate(linear, .write, set) }
    }

    /// An access that reaches into the non-canonical addresses faults so whatever its first page would do.
    private mutating func checkCanonical(_ linear: UInt64, _ size: Int) throws(Fault) {
        if mode == .bits64, !isCanonical(linear &+ UInt64(size - 1)) { throw .nonCanonical }
    }

    /// Puts a translation that was just made for `access` into the TLB.
    private mutating func enter(
        _ linear: UInt64, _ translation: Translation, _ set: AccessSet, host: UnsafeMutableRawPointer, access: Access
    ) {
        if access != .fetch, isWatched(linear) { return }
        let page = translation.physical & ~4095
        physical.noteUse(page)
        let canWrite =
            access == .write && physical.isWritable(page) && physical.codeMask(page) == 0
        if canWrite { physical.allowWrites(page) }
        // SAFETY: `host` points into the page of `translation.physical`; stepping back by the offset stays in it.
        let start = unsafe host - Int(translation.physical & 4095)
        unsafe translations.fill(
            linear, set, frame: page, host: start, read: access != .fetch, write: canWrite, fetch: access == .fetch,
            global: translation.isGlobal)
    }

    /// Host addresses for a run of bytes from `linear` to the end of its page, for string instructions; nil where
    /// there is a device, or decoded code that a write must be seen by.
    mutating func hostRun(_ linear: UInt64, _ access: Access) throws(Fault) -> UnsafeMutableRawPointer? {
        if access == .write {
            if let host = unsafe translations.writable(linear, size: 1, accessSet) { return unsafe host }
        } else if let host = unsafe translations.readable(linear, size: 1, accessSet) {
            return unsafe host
        }
        let translation = try translate(linear, access, accessSet)
        guard let host = unsafe physical.pointer(translation.physical), !isWatched(linear) else { return nil }
        if access == .write, !physical.isWritable(translation.physical) || physical.codeMask(translation.physical) != 0
        {
            return nil
        }
        if access == .write { code.willChange(translation.physical) }
        unsafe enter(linear, translation, accessSet, host: host, access: access)
        return unsafe host
    }

    /// The physical page that instructions at `linear` come from.
    mutating func fetchFrame(_ linear: UInt64) throws(Fault) -> UInt64 {
        if let frame = translations.fetchable(linear, accessSet) { return frame }
        let translation = try translate(linear, .fetch, accessSet)
        let page = translation.physical & ~4095
        if let host = unsafe physical.pointer(page) {
            unsafe enter(linear & ~4095, Translation(copying: translation, page), accessSet, host: host, access: .fetch)
            blocks.noteFetch(linear, accessSet)
        }
        return page
    }

    /// Forgets blocks decoded from bytes that are about to change.
    @inline(__always)
    private mutating func noteWrite(_ address: UInt64, _ count: UInt64) {
        let mask = physical.codeMask(address)
        if mask != 0 {
            let granules = PhysicalMemory.granules(offset: address & 4095, count: count)
            if mask & granules != 0 {
                blocks.invalidate(address & ~4095, granules: granules)
            } else if physical.countWriteBesideCode(address) {
                blocks.invalidatePage(address & ~4095)
            }
        }
    }

    private mutating func readDevice(_ address: UInt64, _ size: Int) throws(Fault) -> UInt64 {
        if isChecking { throw .deferred }
        guard let width = AccessWidth(rawValue: size) else { return .max }
        translations.noteInterrupt()
        return bus.readMemory(GuestPhysicalAddress(address), width: width)
    }

    /// ROM and absent memory swallow writes.
    private mutating func writeDevice(_ address: UInt64, _ value: UInt64, _ size: Int) throws(Fault) {
        if isChecking { throw .deferred }
        guard let width = AccessWidth(rawValue: size) else { return }
        translations.noteInterrupt()
        bus.writeMemory(GuestPhysicalAddress(address), value, width: width)
    }
}

extension Translation {
    /// `other` for the start of its page.
    init(copying other: Translation, _ physical: UInt64) {
        self = other
        self.physical = physical
    }
}
