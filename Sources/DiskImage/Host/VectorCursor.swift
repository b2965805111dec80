// SPDX-License-Identifier: Apache-2.0
// Scattered memory of a request, walked from its start to its end.

internal import CHost

#if canImport(Glibc)
    internal import Glibc
#else
    internal import Darwin
#endif

/// A position in a list of `iovec`. Whoever makes one keeps list and memory alive.
@safe struct VectorCursor {
    private let vectors: UnsafeMutablePointer<iovec>
    private let count: Int
    private var index = 0
    private var offset = 0

    init(_ vectors: UnsafeMutablePointer<iovec>, _ count: Int) {
        unsafe self.vectors = vectors
        self.count = count
        skipEmpty()
    }

    private mutating func skipEmpty() {
        // SAFETY: `index` is below `count`.
        while index < count, unsafe offset >= vectors[index].iov_len {
            offset = 0
            index += 1
        }
    }

    var isAtVectorStart: Bool { offset == 0 }

    /// What is left of the current vector; (nil, 0) at the end.
    var current: (start: UnsafeMutableRawPointer?, count: Int) {
        guard index < count else { return (nil, 0) }
        // SAFETY: `index` is below `count`, `offset` below the vector's length.
        let vector = unsafe vectors[index]
        return unsafe (vector.iov_base + offset, vector.iov_len - offset)
    }

    /// The vectors that are left; only at the start of one.
    var rest: (vectors: UnsafeMutablePointer<iovec>, count: Int) { unsafe (vectors + index, count - index) }

    mutating func advance(_ bytes: Int) {
        var left = bytes
        while left > 0, index < count {
            // SAFETY: `index` is below `count`.
            let step = unsafe min(left, vectors[index].iov_len - offset)
            offset += step
            left -= step
            skipEmpty()
        }
    }

    /// Calls `body` with each piece of the next `bytes` bytes, and moves behind them.
    private mutating func forEach(_ bytes: Int, _ body: (UnsafeMutableRawPointer, Int) -> Void) {
        var left = bytes
        while left > 0 {
            let (start, length) = unsafe current
            guard let start = unsafe start else { return }
            let step = min(left, length)
            unsafe body(start, step)
            left -= step
            advance(step)
        }
    }

    mutating func zero(_ bytes: Int) {
        // SAFETY: pieces lie in the request's memory.
        unsafe forEach(bytes) { start, length in unsafe memset(start, 0, length) }
    }

    /// Fills the next bytes from `source`.
    mutating func copy(from source: UnsafeRawBufferPointer) {
        var done = 0
        unsafe forEach(source.count) { start, length in
            guard let from = source.baseAddress else { return }
            // SAFETY: pieces add up to at most `source.count`.
            unsafe memcpy(start, from + done, length)
            done += length
        }
    }

    /// Fills `target` from the next bytes.
    mutating func copy(to target: UnsafeMutableRawBufferPointer) {
        var done = 0
        unsafe forEach(target.count) { start, length in
            guard let to = target.baseAddress else { return }
            // SAFETY: pieces add up to at most `target.count`.
            unsafe memcpy(to + done, start, length)
            done += length
        }
    }

    mutating func copyBytes(_ bytes: Int) -> [UInt8] {
        unsafe [UInt8](unsafeUninitializedCapacity: bytes) { buffer, initialized in
            unsafe copy(to: UnsafeMutableRawBufferPointer(buffer))
            initialized = bytes
        }
    }

    /// Appends the next `bytes` bytes as vectors to `list`, which has room for them.
    mutating func slice(_ bytes: Int, to list: inout VectorList) {
        unsafe forEach(bytes) { start, length in unsafe list.append(start, length) }
    }
}

/// Vectors of one operation in memory that does not move.
@safe struct VectorList {
    private(set) var start: UnsafeMutablePointer<iovec>
    private(set) var count = 0
    private(set) var bytes = 0

    /// Room for at least `capacity` vectors; freed with `deallocate`.
    init(capacity: Int) {
        unsafe start = .allocate(capacity: max(capacity, 1))
    }

    func deallocate() { unsafe start.deallocate() }

    mutating func append(_ base: UnsafeMutableRawPointer, _ length: Int) {
        guard length > 0 else { return }
        // SAFETY: whoever makes the list knows how many vectors it gets.
        unsafe (start + count).initialize(to: iovec(iov_base: base, iov_len: length))
        count += 1
        bytes += length
    }
}
