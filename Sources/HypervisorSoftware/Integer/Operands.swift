// SPDX-License-Identifier: Apache-2.0
// Operands of integer instructions: registers by width, effective addresses, the stack. Intel SDM volume 1, 3.7.

extension Core {
    /// Register `n` as `T`; `n` may name AH to BH when T is a byte.
    @inline(__always)
    mutating func register<T: MemoryWord>(_ n: UInt8, _ type: T.Type) -> T {
        if T.bitWidth == 8, n & RegisterIndex.highByte != 0 {
            return T(truncatingIfNeeded: general[Int(n & 3)] &>> 8)
        }
        return T(truncatingIfNeeded: general[Int(n & 31)])
    }

    /// Writes `T` to register `n`: 32 bits clear the upper half, 8 and 16 keep the rest.
    @inline(__always)
    mutating func setRegister<T: MemoryWord>(_ n: UInt8, _ value: T) {
        switch T.bitWidth {
        case 64, 32: general[Int(n & 31)] = UInt64(truncatingIfNeeded: value)
        case 16: general[Int(n & 31)] = general[Int(n & 31)] & ~0xffff | UInt64(truncatingIfNeeded: value)
        default:
            if n & RegisterIndex.highByte != 0 {
                let old = general[Int(n & 3)]
                general[Int(n & 3)] = old & ~0xff00 | UInt64(truncatingIfNeeded: value) &<< 8
            } else {
                general[Int(n & 31)] = general[Int(n & 31)] & ~0xff | UInt64(truncatingIfNeeded: value)
            }
        }
    }

    /// The offset of the memory operand within its segment.
    @inline(__always)
    mutating func effectiveOffset(_ i: DecodedInstruction) -> UInt64 {
        let offset =
            general[Int(i.base & 31)] &+ (general[Int(i.index & 31)] &<< UInt64(i.scale))
            &+ UInt64(bitPattern: Int64(i.displacement))
        if i.traits.contains(.legacyAddress) || i.base == RegisterIndex.absolute { return legacyOffset(i, offset) }
        return offset
    }

    @inline(never)
    private mutating func legacyOffset(_ i: DecodedInstruction, _ offset: UInt64) -> UInt64 {
        if i.base == RegisterIndex.absolute { return i.immediate }
        if i.traits.contains(.address16) { return offset & 0xffff }
        return i.traits.contains(.address32) ? offset & 0xffff_ffff : offset
    }

    /// The linear address of the memory operand.
    @inline(__always)
    mutating func effectiveAddress(_ i: DecodedInstruction) -> UInt64 {
        let linear = effectiveOffset(i) &+ segmentBase[Int(i.segment & 7)]
        if i.traits.contains(.legacyAddress), mode != .bits64 { return linear & 0xffff_ffff }
        return linear
    }

    /// The linear address `distance` bytes from the memory operand, within the address size.
    mutating func effectiveAddress(_ i: DecodedInstruction, moved distance: UInt64) -> UInt64 {
        var offset = effectiveOffset(i) &+ distance
        if i.traits.contains(.address16) {
            offset &= 0xffff
        } else if i.traits.contains(.address32) {
            offset &= 0xffff_ffff
        }
        let linear = offset &+ segmentBase[Int(i.segment & 7)]
        return mode == .bits64 ? linear : linear & 0xffff_ffff
    }

    /// The r/m operand.
    @inline(__always)
    mutating func readRM<T: MemoryWord>(_ i: DecodedInstruction, _ type: T.Type) throws(Fault) -> T {
        i.isMemory ? try load(type, at: effectiveAddress(i)) : register(i.rm, type)
    }

    /// The r/m operand of an instruction that writes it back.
    @inline(__always)
    mutating func readRMForWrite<T: MemoryWord>(_ i: DecodedInstruction, _ type: T.Type) throws(Fault) -> T {
        i.isMemory ? try loadForWrite(type, at: effectiveAddress(i)) : register(i.rm, type)
    }

    @inline(__always)
    mutating func writeRM<T: MemoryWord>(_ i: DecodedInstruction, _ value: T) throws(Fault) {
        if i.isMemory { try store(value, at: effectiveAddress(i)) } else { setRegister(i.rm, value) }
    }

    /// Bytes that the stack pointer has: by SS.B outside 64-bit mode.
    private var stackMask: UInt64 {
        mutating get {
            if mode == .bits64 { return .max }
            return segments[Int(SegmentIndex.ss)].attributes.contains(.big) ? 0xffff_ffff : 0xffff
        }
    }

    /// The linear address for stack offset `pointer`.
    private mutating func stackAddress(_ pointer: UInt64) -> UInt64 {
        if mode == .bits64 { return pointer }
        return (segmentBase[Int(SegmentIndex.ss)] &+ pointer) & 0xffff_ffff
    }

    /// RSP with `pointer` in the part that the stack uses.
    private mutating func stackPointer(_ pointer: UInt64) -> UInt64 {
        let mask = stackMask
        return mask == 0xffff ? self[gpr: RegisterIndex.rsp] & ~0xffff | pointer & 0xffff : pointer & mask
    }

    /// A push or pop outside the canonical addresses is a stack fault.
    func onStack(_ fault: Fault) -> Fault { fault.isNonCanonical ? .stackFault(0) : fault }

    /// What a misaligned FXSAVE image raises. SSE operands are checked for alignment first.
    mutating func misaligned(_ linear: UInt64) -> Fault {
        mode != .bits64 || isCanonical(linear) ? .generalProtection(0) : .nonCanonical
    }

    mutating func push<T: MemoryWord>(_ value: T) throws(Fault) {
        let pointer = (self[gpr: RegisterIndex.rsp] &- UInt64(MemoryLayout<T>.size)) & stackMask
        do throws(Fault) { try store(value, at: stackAddress(pointer)) } catch { throw onStack(error) }
        self[gpr: RegisterIndex.rsp] = stackPointer(pointer)
    }

    /// The value `depth` bytes above the top of the stack.
    mutating func peek<T: MemoryWord>(_ type: T.Type, depth: UInt64 = 0) throws(Fault) -> T {
        let pointer = (self[gpr: RegisterIndex.rsp] &+ depth) & stackMask
        do throws(Fault) { return try load(type, at: stackAddress(pointer)) } catch { throw onStack(error) }
    }

    /// Drops `bytes` from the stack.
    mutating func drop(_ bytes: UInt64) {
        self[gpr: RegisterIndex.rsp] = stackPointer(self[gpr: RegisterIndex.rsp] &+ bytes)
    }

    mutating func pop<T: MemoryWord>(_ type: T.Type) throws(Fault) -> T {
        let value = try peek(type)
        drop(UInt64(MemoryLayout<T>.size))
        return value
    }

    /// Pushes `value` as `size` bytes: 2, 4 or 8.
    mutating func push(_ value: UInt64, size: UInt8) throws(Fault) {
        switch size {
        case 2: try push(UInt16(truncatingIfNeeded: value))
        case 4: try push(UInt32(truncatingIfNeeded: value))
        default: try push(value)
        }
    }

    mutating func peek(size: UInt8, depth: UInt64 = 0) throws(Fault) -> UInt64 {
        switch size {
        case 2: UInt64(try peek(UInt16.self, depth: depth))
        case 4: UInt64(try peek(UInt32.self, depth: depth))
        default: try peek(UInt64.self, depth: depth)
        }
    }
}
