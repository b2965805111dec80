// SPDX-License-Identifier: Apache-2.0
// The forms that run most often, each with a handler of its own.

extension Core {
    @inline(__always)
    mutating func executeHot(_ i: DecodedInstruction) throws(Fault) {
        switch i.handler {
        case .move32RR: setRegister(i.rm, register(i.reg, UInt32.self))
        case .move64RR: self[gpr: i.rm] = self[gpr: i.reg]
        case .moveRI: self[gpr: i.rm] = i.immediate & 0xffff_ffff
        case .move64RI: self[gpr: i.rm] = i.immediate
        case .load8: setRegister(i.reg, try load(UInt8.self, at: effectiveAddress(i)))
        case .load32: setRegister(i.reg, try load(UInt32.self, at: effectiveAddress(i)))
        case .load64: self[gpr: i.reg] = try load(UInt64.self, at: effectiveAddress(i))
        case .store8: try store(register(i.reg, UInt8.self), at: effectiveAddress(i))
        case .store32: try store(register(i.reg, UInt32.self), at: effectiveAddress(i))
        case .store64: try store(self[gpr: i.reg], at: effectiveAddress(i))
        case .store8I: try store(UInt8(truncatingIfNeeded: i.immediate), at: effectiveAddress(i))
        case .store32I: try store(UInt32(truncatingIfNeeded: i.immediate), at: effectiveAddress(i))
        case .store64I: try store(i.immediate, at: effectiveAddress(i))
        case .lea32: self[gpr: i.reg] = effectiveOffset(i) & 0xffff_ffff
        case .lea64: self[gpr: i.reg] = effectiveOffset(i)
        case .zero8R: self[gpr: i.reg] = self[gpr: i.rm] & 0xff
        case .zero8M: self[gpr: i.reg] = UInt64(try load(UInt8.self, at: effectiveAddress(i)))
        case .zero16M: self[gpr: i.reg] = UInt64(try load(UInt16.self, at: effectiveAddress(i)))
        case .signed32R: self[gpr: i.reg] = signExtended(register(i.rm, UInt32.self))
        case .signed32M: self[gpr: i.reg] = signExtended(try load(UInt32.self, at: effectiveAddress(i)))
        case .push64:
            let pointer = self[gpr: RegisterIndex.rsp] &- 8
            try store(self[gpr: i.rm], at: pointer)
            self[gpr: RegisterIndex.rsp] = pointer
        case .pop64:
            let pointer = self[gpr: RegisterIndex.rsp]
            let value = try load(UInt64.self, at: pointer)
            self[gpr: RegisterIndex.rsp] = pointer &+ 8
            self[gpr: i.rm] = value
        case .add32RR: setRegister(i.rm, flags.add(register(i.rm, UInt32.self), register(i.reg, UInt32.self)))
        case .add64RR: self[gpr: i.rm] = flags.add(self[gpr: i.rm], self[gpr: i.reg])
        case .add32RI: setRegister(i.rm, flags.add(register(i.rm, UInt32.self), immediate32(i)))
        case .add64RI: self[gpr: i.rm] = flags.add(self[gpr: i.rm], i.immediate)
        case .add32RM:
            let value = try load(UInt32.self, at: effectiveAddress(i))
            setRegister(i.reg, flags.add(register(i.reg, UInt32.self), value))
        case .add64RM:
            let value = try load(UInt64.self, at: effectiveAddress(i))
            self[gpr: i.reg] = flags.add(self[gpr: i.reg], value)
        case .sub32RR: setRegister(i.rm, flags.subtract(register(i.rm, UInt32.self), register(i.reg, UInt32.self)))
        case .sub64RR: self[gpr: i.rm] = flags.subtract(self[gpr: i.rm], self[gpr: i.reg])
        case .sub32RI: setRegister(i.rm, flags.subtract(register(i.rm, UInt32.self), immediate32(i)))
        case .sub64RI: self[gpr: i.rm] = flags.subtract(self[gpr: i.rm], i.immediate)
        case .and32RR: logical32(i.rm, register(i.rm, UInt32.self) & register(i.reg, UInt32.self))
        case .and64RR: logical64(i.rm, self[gpr: i.rm] & self[gpr: i.reg])
        case .and32RI: logical32(i.rm, register(i.rm, UInt32.self) & immediate32(i))
        case .and64RI: logical64(i.rm, self[gpr: i.rm] & i.immediate)
        case .or32RR: logical32(i.rm, register(i.rm, UInt32.self) | register(i.reg, UInt32.self))
        case .or64RR: logical64(i.rm, self[gpr: i.rm] | self[gpr: i.reg])
        case .xor32RR: logical32(i.rm, register(i.rm, UInt32.self) ^ register(i.reg, UInt32.self))
        case .xor64RR: logical64(i.rm, self[gpr: i.rm] ^ self[gpr: i.reg])
        case .cmp32RR: _ = flags.subtract(register(i.rm, UInt32.self), register(i.reg, UInt32.self))
        case .cmp64RR: _ = flags.subtract(self[gpr: i.rm], self[gpr: i.reg])
        case .cmp32RI: _ = flags.subtract(register(i.rm, UInt32.self), immediate32(i))
        case .cmp64RI: _ = flags.subtract(self[gpr: i.rm], i.immediate)
        case .cmp8RI: _ = flags.subtract(register(i.rm, UInt8.self), UInt8(truncatingIfNeeded: i.immediate))
        case .cmp32RM:
            let value = try load(UInt32.self, at: effectiveAddress(i))
            _ = flags.subtract(register(i.reg, UInt32.self), value)
        case .cmp64RM:
            let value = try load(UInt64.self, at: effectiveAddress(i))
            _ = flags.subtract(self[gpr: i.reg], value)
        case .cmp8MI:
            let value = try load(UInt8.self, at: effectiveAddress(i))
            _ = flags.subtract(value, UInt8(truncatingIfNeeded: i.immediate))
        case .cmp32MI: _ = flags.subtract(try load(UInt32.self, at: effectiveAddress(i)), immediate32(i))
        case .cmp64MI: _ = flags.subtract(try load(UInt64.self, at: effectiveAddress(i)), i.immediate)
        case .test32RR: flags.setLogical(register(i.rm, UInt32.self) & register(i.reg, UInt32.self))
        case .test64RR: flags.setLogical(self[gpr: i.rm] & self[gpr: i.reg])
        case .test8RR: flags.setLogical(register(i.rm, UInt8.self) & register(i.reg, UInt8.self))
        case .test8RI: flags.setLogical(register(i.rm, UInt8.self) & UInt8(truncatingIfNeeded: i.immediate))
        case .test8MI:
            let value = try load(UInt8.self, at: effectiveAddress(i))
            flags.setLogical(value & UInt8(truncatingIfNeeded: i.immediate))
        case .inc32: setRegister(i.rm, flags.increment(register(i.rm, UInt32.self)))
        case .inc64: self[gpr: i.rm] = flags.increment(self[gpr: i.rm])
        case .dec32: setRegister(i.rm, flags.decrement(register(i.rm, UInt32.self)))
        case .dec64: self[gpr: i.rm] = flags.decrement(self[gpr: i.rm])
        case .shl32I:
            let count = UInt8(truncatingIfNeeded: i.immediate) & 31
            let value = register(i.rm, UInt32.self)
            setRegister(i.rm, count == 0 ? value : flags.shiftLeft(value, count))
        case .shl64I:
            let count = UInt8(truncatingIfNeeded: i.immediate) & 63
            if count != 0 { self[gpr: i.rm] = flags.shiftLeft(self[gpr: i.rm], count) }
        case .shr32I:
            let count = UInt8(truncatingIfNeeded: i.immediate) & 31
            let value = register(i.rm, UInt32.self)
            setRegister(i.rm, count == 0 ? value : flags.shiftRight(value, count))
        case .shr64I:
            let count = UInt8(truncatingIfNeeded: i.immediate) & 63
            if count != 0 { self[gpr: i.rm] = flags.shiftRight(self[gpr: i.rm], count) }
        default: throw .invalidOpcode
        }
    }

    @inline(__always)
    private func immediate32(_ i: DecodedInstruction) -> UInt32 { UInt32(truncatingIfNeeded: i.immediate) }

    @inline(__always)
    private mutating func logical32(_ n: UInt8, _ value: UInt32) {
        flags.setLogical(value)
        setRegister(n, value)
    }

    @inline(__always)
    private mutating func logical64(_ n: UInt8, _ value: UInt64) {
        flags.setLogical(value)
        self[gpr: n] = value
    }
}
