// SPDX-License-Identifier: Apache-2.0
// A disk as it was at one instant, while its user goes on writing: what is about to change is copied aside first.

internal import Synchronization

/// A disk that is read once from its start to its end.
public protocol DiskSource: AnyObject {
    /// Bytes.
    var size: UInt64 { get }
    /// The first range at or behind `offset` that may hold something else than zeros; nil when there is none.
    func nextStored(from offset: UInt64) throws(DiskImageError) -> Range<UInt64>?
    /// Fills `buffer` from `offset` on; what is behind the disk's end is zero.
    func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(DiskImageError)
}

/// A view of a disk that later writes do not reach. One thread reads it; the disk's own thread goes on.
public final class FrozenDisk: DiskSource, @unchecked Sendable {
    /// Bytes that are copied aside together.
    static let chunk: UInt64 = 64 << 10

    private enum State {
        static let original: UInt8 = 0
        /// In the scratch file.
        static let copied: UInt8 = 1
        /// Read: nobody asks for it again.
        static let read: UInt8 = 2
    }

    public let size: UInt64
    private unowned let disk: DiskImage
    // Everything below belongs to whoever has the disk's lock.
    private let scratch: ImageFile
    private var states: [UInt8]
    private var slots: [UInt64: UInt64] = [:]
    private var failure: DiskImageError?

    /// Images whose data the view has; nil: all of the chain.
    private let depth: Int?

    fileprivate init(_ disk: DiskImage, folder: String, depth: Int?) throws(DiskImageError) {
        self.disk = disk
        self.depth = depth
        size = disk.top.size
        scratch = try ImageFile.scratch(in: folder)
        states = Array(repeating: State.original, count: Int((size + Self.chunk - 1) / Self.chunk))
    }

    /// Copies what the view needs of a range that is about to change. With the disk's lock held.
    func preserve(_ offset: UInt64, _ count: UInt64) throws(DiskImageError) {
        guard count > 0, offset < size else { return }
        for number in offset / Self.chunk...(min(offset + count, size) - 1) / Self.chunk
        where states[Int(number)] == State.original {
            let start = number * Self.chunk
            let buffer = try AlignedBuffer(count: Int(min(Self.chunk, size - start)))
            unsafe try disk.readNow(at: start, into: buffer.bytes)
            let slot = UInt64(slots.count) * Self.chunk
            // A full scratch disk spoils the snapshot, not the guest.
            do throws(DiskImageError) { try unsafe scratch.write(UnsafeRawBufferPointer(buffer.bytes), at: slot) } catch
            {
                failure = failure ?? error
            }
            slots[number] = slot
            states[Int(number)] = State.copied
        }
    }

    public func nextStored(from offset: UInt64) throws(DiskImageError) -> Range<UInt64>? {
        try disk.locked { () throws(DiskImageError) -> Range<UInt64>? in
            var position = offset
            while position < size {
                if states[Int(position / Self.chunk)] == State.copied {
                    return position..<min(size, (position / Self.chunk + 1) * Self.chunk)
                }
                guard let stored = try disk.storedRange(from: position, depth: depth) else {
                    // Nothing more now; but what was there may have been copied aside.
                    let rest = states[Int(position / Self.chunk)...].firstIndex(of: State.copied)
                    return rest.map { max(position, UInt64($0) * Self.chunk)..<min(size, UInt64($0 + 1) * Self.chunk) }
                }
                let first = states[Int(position / Self.chunk)..<Int((stored.lowerBound + Self.chunk - 1) / Self.chunk)]
                    .firstIndex(of: State.copied)
                if let first {
                    return max(position, UInt64(first) * Self.chunk)..<min(size, UInt64(first + 1) * Self.chunk)
                }
                position = stored.lowerBound
                return position..<min(stored.upperBound, size)
            }
            return nil
        }
    }

    public func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(DiskImageError) {
        var done = 0
        while done < buffer.count {
            let position = offset + UInt64(done)
            let room = Int(Self.chunk - position % Self.chunk)
            // SAFETY: not more than what is left of the buffer.
            let part = unsafe UnsafeMutableRawBufferPointer(
                rebasing: buffer[done..<min(buffer.count, done + room)])
            unsafe try readChunk(position, part)
            done += part.count
        }
    }

    private func readChunk(_ offset: UInt64, _ buffer: UnsafeMutableRawBufferPointer) throws(DiskImageError) {
        let number = Int(offset / Self.chunk)
        guard number < states.count else {
            unsafe _ = buffer.initializeMemory(as: UInt8.self, repeating: 0)
            return
        }
        // What is where is asked with the lock held, then read without it: only if nothing has changed in between, it counts.
        let pieces = try disk.locked { () throws(DiskImageError) -> [(ImageFile, UInt64, Int, Int)]? in
            if let failure { throw failure }
            if let slot = slots[UInt64(number)] {
                unsafe try scratch.read(at: slot + offset % Self.chunk, into: buffer)
                return nil
            }
            return unsafe try disk.pieces(offset, buffer)
        }
        guard let pieces else { return }
        for (file, host, start, count) in pieces {
            // SAFETY: pieces lie in the buffer.
            unsafe try file.read(
                at: host, into: UnsafeMutableRawBufferPointer(rebasing: buffer[start..<start + count]))
        }
        try disk.locked { () throws(DiskImageError) in
            guard let slot = slots[UInt64(number)] else {
                // The caller reads in order: the last part of a chunk is the last that is asked for.
                if (offset + UInt64(buffer.count)).isMultiple(of: Self.chunk) { states[number] = State.read }
                return
            }
            unsafe try scratch.read(at: slot + offset % Self.chunk, into: buffer)
        }
    }
}

extension DiskImage {
    /// Begins a view of the disk as it is now, with all requests ended. Copies go to a scratch file in `folder`.
    /// - Parameter aboveBases: what `bases` have is not stored in the view, though it can be read there.
    public func freeze(scratchFolder folder: String, aboveBases: Bool) throws(DiskImageError) -> FrozenDisk {
        drain()
        return try locked { () throws(DiskImageError) in
            let view = try FrozenDisk(self, folder: folder, depth: aboveBases ? firstBase : nil)
            frozen = view
            return view
        }
    }

    /// Nobody reads the frozen view any more.
    public func thaw() { locked { frozen = nil } }

    /// The first range at or behind `offset` that any image of the chain stores, or of its first `depth` images, which
    /// then store zeros, too. With the lock held.
    func storedRange(from offset: UInt64, depth: Int? = nil) throws(DiskImageError) -> Range<UInt64>? {
        var position = offset
        while position < top.size {
            let (layer, extent) = try locate(position, limit: top.size - position, depth: depth)
            guard extent.mapping != (depth == nil ? .zero : .hole) else {
                position += extent.count
                continue
            }
            guard depth == nil, layer.format == .raw, case .data(let host) = extent.mapping else {
                return position..<position + extent.count
            }
            guard let data = layer.file.nextData(from: host), data.lowerBound < host + extent.count else {
                position += extent.count
                continue
            }
            let start = position + (max(data.lowerBound, host) - host)
            return start..<min(position + extent.count, position + (data.upperBound - host))
        }
        return nil
    }

    /// Where the bytes of `buffer` are to be read from: file, offset, and place in the buffer. What needs no file is
    /// filled in. With the lock held.
    func pieces(
        _ offset: UInt64, _ buffer: UnsafeMutableRawBufferPointer
    ) throws(DiskImageError) -> [(ImageFile, UInt64, Int, Int)] {
        var list: [(ImageFile, UInt64, Int, Int)] = []
        var done = 0
        while done < buffer.count {
            let (layer, extent) = try locate(offset + UInt64(done), limit: UInt64(buffer.count - done))
            let count = Int(extent.count)
            if case .data(let host) = extent.mapping {
                list.append((layer.file, host, done, count))
            } else {
                // SAFETY: extents are at most as long as what is left.
                unsafe try readNow(
                    at: offset + UInt64(done),
                    into: UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + count]))
            }
            done += count
        }
        return list
    }
}

extension DiskImage: DiskSource {
    public func nextStored(from offset: UInt64) throws(DiskImageError) -> Range<UInt64>? {
        try locked { () throws(DiskImageError) in try storedRange(from: offset) }
    }

    public func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(DiskImageError) {
        try locked { () throws(DiskImageError) in unsafe try readNow(at: offset, into: buffer) }
    }
}
