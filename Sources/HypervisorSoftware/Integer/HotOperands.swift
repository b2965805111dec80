// SPDX-License-Identifier: Apache-2.0
// Operands of the hot forms: registers other than AH to BH, and flat 64-bit addresses.

extension Core {
    /// The low bits of register `n`.
    @inline(__always)
    mutating func word<T: MemoryWord>(_ n: UInt8, _ type: T.Type) -> T {
        // SAFETY: the decoder's register numbers are below 32.
        unsafe T(truncatingIfNeeded: general[unchecked: Int(n)])
    }

    /// Writes register `n`: 32 bits clear the upper half, 8 and 16 keep the rest.
    @inline(__always)
    mutating func assign<T: MemoryWord>(_ n: UInt8, _ value: T) {
        // SAFETY: as in `word`.
        switch T.bitWidth {
        case 64, 32: unsafe general[unchecked: Int(n)] = UInt64(truncatingIfNeeded: value)
        default:
            let kept = unsafe general[unchecked: Int(n)] & ~UInt64(truncatingIfNeeded: T.max)
            unsafe general[unchecked: Int(n)] = kept | UInt64(truncatingIfNeeded: value)
        }
    }

    /// The offset of the memory operand.
    @inline(__always)
    mutating func offset(_ i: InstructionCursor) -> UInt64 {
        word(i.base, UInt64.self) &+ (word(i.index, UInt64.self) &<< UInt64(i.scale))
            &+ UInt64(bitPattern: Int64(i.displacement))
    }

    /// The linear address of the memory operand.
    @inline(__always)
    mutating func address(_ i: InstructionCursor) -> UInt64 {
        // SAFETY: the decoder's segment numbers are below 8.
        unsafe offset(i) &+ segmentBase[unchecked: Int(i.segment)]
    }

    @inline(__always)
    mutating func registers<T: MemoryWord>(
        _ i: InstructionCursor, _ type: T.Type, _ operation: (inout LazyFlags, T, T) -> T
    ) {
        let (first, second) = (word(i.rm, type), word(i.reg, type))
        assign(i.rm, operation(&flags, first, second))
    }

    @inline(__always)
    mutating func immediate<T: MemoryWord>(
        _ i: InstructionCursor, _ type: T.Type, _ operation: (inout LazyFlags, T, T) -> T
    ) {
        let first = word(i.rm, type)
        assign(i.rm, operation(&flags, first, T(truncatingIfNeeded: i.immediate)))
    }

    @inline(__always)
    mutating func registerMemory<T: MemoryWord>(
        _ i: InstructionCursor, _ type: T.Type, _ operation: (inout LazyFlags, T, T) -> T
    ) throws(Fault) {
        let second = try load(type, at: address(i))
        let first = word(i.reg, type)
        assign(i.reg, operation(&flags, first, second))
    }

    @inline(__always)
    mutating func memoryRegister<T: MemoryWord>(
        _ i: InstructionCursor, _ type: T.Type, _ operation: (inout LazyFlags, T, T) -> T
    ) throws(Fault) {
        try update(address(i), word(i.reg, type), operation)
    }

    @inline(__always)
    mutating func memoryImmediate<T: MemoryWord>(
        _ i: InstructionCursor, _ type: T.Type, _ operation: (inout LazyFlags, T, T) -> T
    ) throws(Fault) {
        try update(address(i), T(truncatingIfNeeded: i.immediate), operation)
    }

    /// Reads, changes and writes memory; the flags change only if nothing faults.
    @inline(__always)
    private mutating func update<T: MemoryWord>(
        _ address: UInt64, _ operand: T, _ operation: (inout LazyFlags, T, T) -> T
    ) throws(Fault) {
        let value = try loadForWrite(T.self, at: address)
        var new = flags
        try store(operation(&new, value, operand), at: address)
        flags = new
    }

    @inline(__always)
    mutating func compare<T: MemoryWord>(_ first: T, _ second: T) { _ = flags.subtract(first, second) }

    /// Shifts r/m by the immediate, which is not 0.
    @inline(__always)
    mutating func shift<T: MemoryWord>(
        _ i: InstructionCursor, _ type: T.Type, _ operation: (inout LazyFlags, T, UInt8) -> T
    ) {
        let value = word(i.rm, type)
        assign(i.rm, operation(&flags, value, UInt8(truncatingIfNeeded: i.immediate)))
    }

    /// The two-operand IMUL.
    @inline(__always)
    mutating func multiply<T: MemoryWord>(_ n: UInt8, _ source: T) {
        multiply(n, word(n, T.self), source)
    }

    /// The three-operand IMUL.
    @inline(__always)
    mutating func multiply<T: MemoryWord>(_ n: UInt8, _ first: T, _ second: T) {
        let (_, low, lost) = signedProduct(first, second)
        assign(n, low)
        flags.set(low, carry: lost, overflow: lost)
    }

    /// PUSH of 64 bits in 64-bit mode.
    @inline(__always)
    mutating func pushWord(_ value: UInt64) throws(Fault) {
        let pointer = word(RegisterIndex.rsp, UInt64.self) &- 8
        try store(value, at: pointer)
        assign(RegisterIndex.rsp, pointer)
    }

    /// POP of 64 bits in 64-bit mode.
    @inline(__always)
    mutating func popWord() throws(Fault) -> UInt64 {
        let pointer = word(RegisterIndex.rsp, UInt64.self)
        let value = try load(UInt64.self, at: pointer)
        assign(RegisterIndex.rsp, pointer &+ 8)
        return value
    }
}
