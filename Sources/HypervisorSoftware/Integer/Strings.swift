// SPDX-License-Identifier: Apache-2.0
// MOVS, CMPS, STOS, LODS and SCAS, one element at a time or a page at a time. Intel SDM volume 2, 4.3.

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

extension Core {
    /// Bits of RSI, RDI and RCX that an instruction uses.
    private mutating func addressMask(_ i: DecodedInstruction) -> UInt64 {
        i.traits.contains(.address16) ? 0xffff : i.traits.contains(.address32) ? 0xffff_ffff : .max
    }

    /// Adds `delta` to a string register in the address size.
    private mutating func step(_ register: UInt8, _ delta: UInt64, _ mask: UInt64) {
        let value = self[gpr: register] &+ delta
        self[gpr: register] = mask == 0xffff ? self[gpr: register] & ~mask | value & mask : value & mask
    }

    private mutating func destination(_ mask: UInt64) -> UInt64 {
        let offset = self[gpr: RegisterIndex.rdi] & mask
        return mode == .bits64 ? offset : (segmentBase[Int(SegmentIndex.es)] &+ offset) & 0xffff_ffff
    }

    private mutating func origin(_ i: DecodedInstruction, _ mask: UInt64) -> UInt64 {
        let linear = (self[gpr: RegisterIndex.rsi] & mask) &+ segmentBase[Int(i.segment & 7)]
        return mode == .bits64 ? linear : linear & 0xffff_ffff
    }

    /// A fault in a repeated instruction leaves the registers where it got to: they are stepped after each element. So
    /// does the end of the time slice.
    mutating func string<T: MemoryWord>(_ operation: Operation, _ i: DecodedInstruction, _ type: T.Type) throws(Fault) {
        let mask = addressMask(i)
        let size = UInt64(MemoryLayout<T>.size)
        let delta = has(.direction) ? 0 &- size : size
        let repeats = i.traits.contains(.rep) || i.traits.contains(.repne)
        guard repeats else {
            try stringElement(operation, i, type, mask, delta)
            return
        }
        while self[gpr: RegisterIndex.rcx] & mask != 0 {
            if operation == .movs || operation == .stos, !has(.trap) {
                let done = try stringRun(operation, i, type, mask)
                if done > 0 {
                    step(RegisterIndex.rcx, 0 &- done, mask)
                    try spend(Int(truncatingIfNeeded: done &* size) >> 5, i, mask)
                    continue
                }
            }
            if delta == size, operation == .scas || operation == .cmps, !has(.trap) {
                let done = try scanRun(operation, i, type, mask)
                if done > 0 {
                    if flags.zero != i.traits.contains(.rep) { break }
                    try spend(Int(truncatingIfNeeded: done), i, mask)
                    continue
                }
            }
            try stringElement(operation, i, type, mask, delta)
            step(RegisterIndex.rcx, 0 &- 1, mask)
            if operation == .cmps || operation == .scas, flags.zero != i.traits.contains(.rep) { break }
            try spend(1, i, mask)
        }
    }

    /// Takes work of a repeated instruction from the time slice, and leaves the instruction when nothing is left of it:
    /// not in a checked run, for how many elements are done at once depends on what is known of the page.
    @inline(__always)
    mutating func spend(_ work: Int, _ i: DecodedInstruction, _ mask: UInt64) throws(Fault) {
        budget -= work
        if budget < 0, !isChecking, self[gpr: RegisterIndex.rcx] & mask != 0 { throw .interrupted }
    }

    private mutating func stringElement<T: MemoryWord>(
        _ operation: Operation, _ i: DecodedInstruction, _ type: T.Type, _ mask: UInt64, _ delta: UInt64
    ) throws(Fault) {
        switch operation {
        case .movs:
            try store(try load(type, at: origin(i, mask)), at: destination(mask))
            step(RegisterIndex.rsi, delta, mask)
            step(RegisterIndex.rdi, delta, mask)
        case .stos:
            try store(register(RegisterIndex.rax, type), at: destination(mask))
            step(RegisterIndex.rdi, delta, mask)
        case .lods:
            setRegister(RegisterIndex.rax, try load(type, at: origin(i, mask)))
            step(RegisterIndex.rsi, delta, mask)
        case .scas:
            let value = try load(type, at: destination(mask))
            _ = flags.subtract(register(RegisterIndex.rax, type), value)
            step(RegisterIndex.rdi, delta, mask)
        default:
            let first = try load(type, at: origin(i, mask))
            let second = try load(type, at: destination(mask))
            _ = flags.subtract(first, second)
            step(RegisterIndex.rsi, delta, mask)
            step(RegisterIndex.rdi, delta, mask)
        }
    }

    /// Does as many elements as lie in one page at each end. Returns how many; 0 where elements must go one by one: a
    /// device, decoded code, an element across pages, or a copy into its own source that changes what it reads.
    private mutating func stringRun<T: MemoryWord>(
        _ operation: Operation, _ i: DecodedInstruction, _ type: T.Type, _ mask: UInt64
    ) throws(Fault) -> UInt64 {
        let size = UInt64(MemoryLayout<T>.size)
        let isDown = has(.direction)
        let to = destination(mask)
        var count = min(Self.elements(from: to, size, isDown), self[gpr: RegisterIndex.rcx] & mask)
        if operation == .stos {
            guard count > 0, let host = unsafe try hostRun(to, .write) else { return 0 }
            let below = isDown ? Int((count - 1) * size) : 0
            // SAFETY: the elements below are in the same page.
            unsafe fill(host - below, register(RegisterIndex.rax, type), count: Int(count))
        } else {
            let from = origin(i, mask)
            count = min(count, Self.elements(from: from, size, isDown))
            // A fault is at the element that comes first.
            guard count > 0, let source = unsafe try hostRun(from, .read), let target = unsafe try hostRun(to, .write)
            else { return 0 }
            let below = isDown ? Int((count - 1) * size) : 0
            // SAFETY: as above.
            guard unsafe copy(source - below, to: target - below, length: Int(count * size), size: Int(size), isDown)
            else { return 0 }
            step(RegisterIndex.rsi, isDown ? 0 &- count * size : count * size, mask)
        }
        step(RegisterIndex.rdi, isDown ? 0 &- count * size : count * size, mask)
        return count
    }

    /// Elements of `size` bytes in the page of `address`, from the one there up or down.
    private static func elements(from address: UInt64, _ size: UInt64, _ isDown: Bool) -> UInt64 {
        let offset = address & 4095
        guard isDown else { return (4096 - offset) / size }
        return offset + size <= 4096 ? offset / size + 1 : 0
    }

    /// Copies `length` bytes as elements of `size` bytes one after the other would be. Returns whether it could.
    private func copy(
        _ source: UnsafeMutableRawPointer, to target: UnsafeMutableRawPointer, length: Int, size: Int, _ isDown: Bool
    ) -> Bool {
        let distance = unsafe target - source
        let overlaps = abs(distance) < length
        if overlaps, isDown, distance < 0 { return false }
        guard overlaps, !isDown, distance > 0 else {
            // SAFETY: both runs end in their own page, which `length` does not pass.
            unsafe memmove(target, source, length)
            return true
        }
        // Upwards into its own source: the first `distance` bytes come again and again, unless elements overlap themselves.
        guard distance >= size else { return false }
        var done = 0
        while done < length {
            let piece = min(distance + done, length - done)
            // SAFETY: as above; what is copied ends where its place begins.
            unsafe memcpy(target + done, source, piece)
            done += piece
        }
        return true
    }

    /// Compares elements that lie in one page at each end, upwards, until one ends the repetition. Returns how many; the
    /// registers and flags are as they leave them. 0 where elements must go one by one.
    private mutating func scanRun<T: MemoryWord>(
        _ operation: Operation, _ i: DecodedInstruction, _ type: T.Type, _ mask: UInt64
    ) throws(Fault) -> UInt64 {
        let size = UInt64(MemoryLayout<T>.size)
        let to = destination(mask)
        var count = min((4096 - (to & 4095)) / size, self[gpr: RegisterIndex.rcx] & mask)
        var other: UnsafeMutableRawPointer?
        if operation == .cmps {
            let from = origin(i, mask)
            count = min(count, (4096 - (from & 4095)) / size)
            guard count > 0, let host = unsafe try hostRun(from, .read) else { return 0 }
            unsafe other = host
        }
        // No longer than the rest of the time slice.
        count = min(count, UInt64(max(budget, 1)))
        guard count > 0, let host = unsafe try hostRun(to, .read) else { return 0 }
        let whileEqual = i.traits.contains(.rep)
        let accumulator = register(RegisterIndex.rax, type)
        // SAFETY: both runs have `count` elements.
        var done = unsafe Self.skippable(
            host, other, accumulator, whileEqual: whileEqual, bytes: Int(truncatingIfNeeded: (count &- 1) &* size))
        var first = accumulator
        var second = accumulator
        repeat {
            let offset = Int(truncatingIfNeeded: done &* size)
            // SAFETY: as above.
            unsafe second = host.loadUnaligned(fromByteOffset: offset, as: type)
            if let other = unsafe other { unsafe first = other.loadUnaligned(fromByteOffset: offset, as: type) }
            done &+= 1
        } while done < count && (first == second) == whileEqual
        _ = flags.subtract(first, second)
        if operation == .cmps { step(RegisterIndex.rsi, done &* size, mask) }
        step(RegisterIndex.rdi, done &* size, mask)
        step(RegisterIndex.rcx, 0 &- done, mask)
        return done
    }

    /// A number of elements at the start of a run that do not end the repetition, which are found many at a time; it may be
    /// lower than it could be.
    /// - Parameters:
    ///   - other: what is compared with the run; nil if that is `value`.
    ///   - bytes: how many of the run, and of the other, may be read.
    private static func skippable<T: MemoryWord>(
        _ host: UnsafeMutableRawPointer, _ other: UnsafeMutableRawPointer?, _ value: T, whileEqual: Bool, bytes: Int
    ) -> UInt64 {
        let size = MemoryLayout<T>.size
        if let other = unsafe other {
            guard whileEqual else { return 0 }
            var position = 0
            while position + 8 <= bytes {
                // SAFETY: both have `bytes` bytes.
                let difference =
                    unsafe host.loadUnaligned(fromByteOffset: position, as: UInt64.self)
                    ^ other.loadUnaligned(fromByteOffset: position, as: UInt64.self)
                guard difference == 0 else {
                    return UInt64(position + difference.trailingZeroBitCount / 8) / UInt64(size)
                }
                position += 8
            }
            return UInt64(position / size)
        }
        guard size == 1, !whileEqual else { return 0 }
        // SAFETY: as above.
        guard let found = unsafe memchr(host, Int32(truncatingIfNeeded: value), bytes) else { return UInt64(bytes) }
        return unsafe UInt64(found - host)
    }

    /// Writes `count` copies of `value`.
    private func fill<T: MemoryWord>(_ host: UnsafeMutableRawPointer, _ value: T, count: Int) {
        let pattern = UInt8(truncatingIfNeeded: value)
        // SAFETY: the caller's run has `count` elements of room.
        if value == T(truncatingIfNeeded: UInt64(pattern) &* 0x0101_0101_0101_0101) {
            unsafe memset(host, Int32(pattern), count * MemoryLayout<T>.size)
            return
        }
        for position in 0..<count {
            unsafe host.storeBytes(of: value, toByteOffset: position * MemoryLayout<T>.size, as: T.self)
        }
    }
}
