// SPDX-License-Identifier: Apache-2.0
// The guest-physical address space: RAM and ROM regions, and bounds-checked access to them.

internal import CHost

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// Why guest memory could not be made or reached.
public enum GuestMemoryError: Error, Equatable, CustomStringConvertible {
    case invalidSize(UInt64)
    case allocationFailed(bytes: UInt64, errno: Int32)
    case outOfRange(address: GuestPhysicalAddress, count: UInt64)
    /// The host has no copy-on-write twin of memory for a snapshot.
    case twinRefused(errno: Int32)

    public var description: String {
        switch self {
        case .invalidSize(let size):
            "guest memory of \(size) bytes: must be a multiple of 4096 from 1 MiB to 1 TiB"
        case .allocationFailed(let bytes, let code):
            "guest memory: the host refused to map \(bytes) bytes (errno \(code)); try a smaller --memory"
        case .outOfRange(let address, let count):
            "guest-physical range of \(count) bytes at \(address) is not all in memory"
        case .twinRefused(let code): "the host refused a copy of guest memory for the snapshot (errno \(code))"
        }
    }
}

/// Keeps something that was derived from guest memory, such as decoded code.
public protocol MemoryObserver: AnyObject {
    /// Somebody other than a processor changes `count` bytes at `address`: about to, or just done.
    func memoryChanges(_ address: GuestPhysicalAddress, count: UInt64)
}

/// Guest RAM (from 0 to 3 GiB, the rest from 4 GiB) and the boot ROM that ends at 4 GiB.
///
/// Thread safety: the mapping never changes after `init`; contents are shared with the guest, which may change them
/// at any time, so readers copy before they check.
@safe public final class GuestMemory: @unchecked Sendable {
    /// One contiguous range of guest-physical memory and where it lies in this process.
    @safe public struct Region: @unchecked Sendable {
        public let start: GuestPhysicalAddress
        /// Bytes, a multiple of 4096.
        public let size: UInt64
        public let isWritable: Bool
        /// The host address of the first byte; valid for `size` bytes while the `GuestMemory` lives.
        public let host: UnsafeMutableRawPointer
    }

    public static let pageSize: UInt64 = 4096
    /// RAM never reaches into [3 GiB, 4 GiB): devices, interrupt controllers and the ROM live there.
    public static let holeStart = GuestPhysicalAddress(3 << 30)
    public static let holeEnd = GuestPhysicalAddress(4 << 30)
    /// The ROM ends at 4 GiB, so that the reset vector 0xffff_fff0 lies in it.
    public static let romSize: UInt64 = 64 << 10
    public static let romStart = GuestPhysicalAddress((4 << 30) - romSize)

    /// Bytes of RAM.
    public let size: UInt64
    /// RAM below the hole, RAM above it if there is any, then the ROM.
    public let regions: [Region]
    /// The view that a snapshot is written from. Only the thread that changes memory touches this.
    private var frozen: FrozenMemory?
    /// Told of every change that `willChange` announces. Only the thread that changes memory touches this.
    public weak var observer: (any MemoryObserver)?

    /// Makes zero-filled RAM of `size` bytes (a multiple of 4096, 1 MiB to 1 TiB) and an empty ROM.
    public init(size: UInt64) throws(GuestMemoryError) {
        guard size >= 1 << 20, size <= 1 << 40, size.isMultiple(of: Self.pageSize) else {
            throw .invalidSize(size)
        }
        let low = min(size, Self.holeStart.rawValue)
        var regions = [try Self.map(GuestPhysicalAddress(0), low, writable: true)]
        if size > low {
            regions.append(try Self.map(Self.holeEnd, size - low, writable: true))
        }
        regions.append(try Self.map(Self.romStart, Self.romSize, writable: false))
        self.size = size
        self.regions = regions
    }

    deinit {
        for region in regions {
            unsafe munmap(region.host, Int(region.size))
        }
    }

    private static func map(
        _ start: GuestPhysicalAddress, _ size: UInt64, writable: Bool
    ) throws(GuestMemoryError) -> Region {
        guard let host = unsafe chost_map_anonymous(Int(size), Int(size)) else {
            throw .allocationFailed(bytes: size, errno: errno)
        }
        return unsafe Region(start: start, size: size, isWritable: writable, host: host)
    }

    // MARK: Freezing

    /// Begins a view of RAM as it is now. Whoever changes memory says so with `willChange` until `thaw`.
    public func freeze() -> FrozenMemory {
        let view = FrozenMemory(self)
        frozen = view
        return view
    }

    /// Nobody reads the frozen view any more.
    public func thaw() { frozen = nil }

    /// Whether changes must be announced.
    public var isFrozen: Bool { frozen != nil }

    /// To be called before bytes change that do not go through `store` or `write`: `count` bytes at `address`. A device
    /// whose data comes later calls it again when the data is there.
    public func willChange(_ address: GuestPhysicalAddress, count: UInt64 = 1) {
        if let observer { observer.memoryChanges(address, count: count) }
        preserve(address, count: count)
    }

    /// The same for a processor, which keeps what it has derived up to date by itself.
    public func preserve(_ address: GuestPhysicalAddress, count: UInt64 = 1) {
        guard let frozen, count > 0 else { return }
        let first = address.rawValue / Self.pageSize
        let last = (address.rawValue &+ (count - 1)) / Self.pageSize
        guard first <= last else { return }
        for page in first...last { frozen.preserve(GuestPhysicalAddress(page * Self.pageSize)) }
    }

    // MARK: Releasing

    /// Gives whole pages of RAM in a range back to the host: they read as zero from now on, and hold no memory.
    /// - Returns: bytes given back; 0 where there is no RAM.
    public func release(_ address: GuestPhysicalAddress, count: UInt64) -> UInt64 {
        guard let region = region(holding: address, count: count), region.isWritable else { return 0 }
        let mask = Self.pageSize - 1
        let start = (address.rawValue + mask) & ~mask
        let end = (address.rawValue + count) & ~mask
        guard start < end else { return 0 }
        willChange(GuestPhysicalAddress(start), count: end - start)
        // SAFETY: whole pages of `region`.
        let host = unsafe region.host + Int(start - region.start.rawValue)
        return unsafe chost_release_memory(host, Int(end - start)) == 0 ? end - start : 0
    }

    // MARK: Access

    /// The region that holds all `count` bytes from `address`.
    public func region(holding address: GuestPhysicalAddress, count: UInt64 = 1) -> Region? {
        for region in regions where address >= region.start {
            let offset = address - region.start
            if offset < region.size, count <= region.size - offset { return region }
        }
        return nil
    }

    /// The host address of `count` bytes at `address`.
    /// - Throws: `outOfRange` unless they lie in one region.
    public func hostPointer(
        at address: GuestPhysicalAddress, count: UInt64
    ) throws(GuestMemoryError) -> UnsafeMutableRawPointer {
        guard let region = region(holding: address, count: count) else {
            throw .outOfRange(address: address, count: count)
        }
        // SAFETY: `region` holds address ..< address + count.
        return unsafe region.host + Int(address - region.start)
    }

    /// Reads one little-endian integer.
    public func load<T: FixedWidthInteger & BitwiseCopyable>(
        _ type: T.Type, at address: GuestPhysicalAddress
    ) throws(GuestMemoryError) -> T {
        let host = unsafe try hostPointer(at: address, count: UInt64(MemoryLayout<T>.size))
        // SAFETY: `hostPointer` checked the size of T.
        return T(littleEndian: unsafe host.loadUnaligned(as: T.self))
    }

    /// Writes one little-endian integer. The VMM may write to ROM; the guest may not.
    public func store<T: FixedWidthInteger & BitwiseCopyable>(
        _ value: T, at address: GuestPhysicalAddress
    ) throws(GuestMemoryError) {
        let host = unsafe try hostPointer(at: address, count: UInt64(MemoryLayout<T>.size))
        willChange(address, count: UInt64(MemoryLayout<T>.size))
        // SAFETY: `hostPointer` checked the size of T.
        unsafe host.storeBytes(of: value.littleEndian, as: T.self)
    }

    /// Copies `count` bytes out.
    public func read(at address: GuestPhysicalAddress, count: Int) throws(GuestMemoryError) -> [UInt8] {
        let host = unsafe try hostPointer(at: address, count: UInt64(count))
        // SAFETY: `hostPointer` checked `count`.
        return unsafe [UInt8](UnsafeRawBufferPointer(start: host, count: count))
    }

    /// Copies `bytes` in.
    public func write(_ bytes: [UInt8], at address: GuestPhysicalAddress) throws(GuestMemoryError) {
        try write(bytes.span, at: address)
    }

    /// Copies `bytes` in.
    public func write(_ bytes: borrowing Span<UInt8>, at address: GuestPhysicalAddress) throws(GuestMemoryError) {
        let host = unsafe try hostPointer(at: address, count: UInt64(bytes.count))
        willChange(address, count: UInt64(bytes.count))
        unsafe bytes.withUnsafeBytes { bytes in
            // SAFETY: `hostPointer` checked the count.
            unsafe UnsafeMutableRawBufferPointer(start: host, count: bytes.count).copyMemory(from: bytes)
        }
    }
}
