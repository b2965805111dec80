// SPDX-License-Identifier: Apache-2.0
// Calls, returns and jumps within the code segment. Intel SDM volume 1, 6.4.

extension Core {
    /// RIP for a near transfer to `target` with operand size `size`.
    @inline(__always)
    mutating func transferTarget(_ target: UInt64, _ size: UInt8) -> UInt64 {
        size == 8 ? target : size == 4 ? target & 0xffff_ffff : target & 0xffff
    }

    @inline(__always)
    mutating func pushReturn(_ address: UInt64, _ size: UInt8) throws(Fault) {
        if size == 8, mode == .bits64 {
            let pointer = general[Int(RegisterIndex.rsp)] &- 8
            do throws(Fault) { try store(address, at: pointer) } catch { throw onStack(error) }
            general[Int(RegisterIndex.rsp)] = pointer
        } else {
            try push(address, size: size)
        }
    }

    @inline(__always)
    mutating func executeReturn(_ i: DecodedInstruction) throws(Fault) {
        if i.operandSize == 8, mode == .bits64 {
            let pointer = general[Int(RegisterIndex.rsp)]
            rip = try checkedTarget(try load(UInt64.self, at: pointer))
            general[Int(RegisterIndex.rsp)] = pointer &+ 8 &+ i.immediate
        } else {
            rip = try peek(size: i.operandSize)
            drop(UInt64(i.operandSize) &+ i.immediate)
        }
    }

    /// A near transfer to a non-canonical address faults at the transfer.
    @inline(__always)
    private mutating func checkedTarget(_ target: UInt64) throws(Fault) -> UInt64 {
        if !isCanonical(target) { throw .generalProtection(0) }
        return target
    }

    @inline(__always)
    mutating func indirectTarget(_ i: DecodedInstruction) throws(Fault) -> UInt64 {
        switch i.operandSize {
        case 8: try checkedTarget(try readRM(i, UInt64.self))
        case 4: UInt64(try readRM(i, UInt32.self))
        default: UInt64(try readRM(i, UInt16.self))
        }
    }

    /// LOOP, LOOPE, LOOPNE and JCXZ: whether they jump.
    mutating func executeLoop(_ i: DecodedInstruction) -> Bool {
        let mask: UInt64 = i.traits.contains(.address16) ? 0xffff : i.traits.contains(.address32) ? 0xffff_ffff : .max
        if i.operation == Operation.jcxz.rawValue { return self[gpr: RegisterIndex.rcx] & mask == 0 }
        let count = (self[gpr: RegisterIndex.rcx] &- 1) & mask
        if mask == 0xffff {
            setRegister(RegisterIndex.rcx, UInt16(truncatingIfNeeded: count))
        } else {
            self[gpr: RegisterIndex.rcx] = count
        }
        if count == 0 { return false }
        if i.operation == Operation.loope.rawValue { return flags.zero }
        return i.operation == Operation.loopne.rawValue ? !flags.zero : true
    }
}
