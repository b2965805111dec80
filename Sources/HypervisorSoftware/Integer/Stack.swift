// SPDX-License-Identifier: Apache-2.0
// PUSH, POP and their relatives, flag instructions, and what only 16- and 32-bit code has. Intel SDM volume 2.

import X86

extension Core {
    /// Runs `body`; if it throws, RSP is as it was before.
    private mutating func keepingStackPointer(_ body: (inout Core) throws(Fault) -> Void) throws(Fault) {
        let saved = self[gpr: RegisterIndex.rsp]
        do throws(Fault) {
            try body(&self)
        } catch {
            self[gpr: RegisterIndex.rsp] = saved
            throw error
        }
    }

    mutating func stack(_ operation: Operation, _ i: DecodedInstruction) throws(Fault) {
        let size = i.operandSize
        switch operation {
        case .push: try push(try pushedValue(i), size: size)
        case .pop:
            let value = try peek(size: size)
            try keepingStackPointer { core throws(Fault) in
                // An address that uses RSP sees it after the pop.
                core.drop(UInt64(size))
                switch size {
                case 2: try core.writeRM(i, UInt16(truncatingIfNeeded: value))
                case 4: try core.writeRM(i, UInt32(truncatingIfNeeded: value))
                default: try core.writeRM(i, value)
                }
            }
        case .pushf:
            // It would make flags that are undefined part of memory.
            if isChecking { throw .deferred }
            if isVirtual8086, !hasFullIOPrivilege { throw .generalProtection(0) }
            try push(rflags & ~(Flags.resume.rawValue | Flags.virtual8086.rawValue), size: size)
        case .pushSegment: try push(UInt64(segments[Int(i.reg & 7)].selector), size: size)
        case .enter: try enter(i)
        case .leave:
            try keepingStackPointer { core throws(Fault) in
                core[gpr: RegisterIndex.rsp] = core[gpr: RegisterIndex.rbp]
                let value = try core.peek(size: size)
                core.drop(UInt64(size))
                if size == 2 {
                    core.setRegister(RegisterIndex.rbp, UInt16(truncatingIfNeeded: value))
                } else {
                    core[gpr: RegisterIndex.rbp] = value
                }
            }
        case .pusha:
            try keepingStackPointer { core throws(Fault) in
                let original = core[gpr: RegisterIndex.rsp]
                for n in 0..<8 as Range<UInt8> {
                    try core.push(n == RegisterIndex.rsp ? original : core[gpr: n], size: size)
                }
            }
        default:
            for n in 0..<8 as Range<UInt8> {
                let value = try peek(size: size, depth: UInt64(7 - n) &* UInt64(size))
                if n == RegisterIndex.rsp { continue }
                if size == 2 { setRegister(n, UInt16(truncatingIfNeeded: value)) } else { self[gpr: n] = value }
            }
            drop(8 &* UInt64(size))
        }
    }

    private mutating func pushedValue(_ i: DecodedInstruction) throws(Fault) -> UInt64 {
        if i.shape == Form.immediate.rawValue { return i.immediate }
        return switch i.operandSize {
        case 2: UInt64(try readRM(i, UInt16.self))
        case 4: UInt64(try readRM(i, UInt32.self))
        default: try readRM(i, UInt64.self)
        }
    }

    private mutating func enter(_ i: DecodedInstruction) throws(Fault) {
        let bytes = i.immediate & 0xffff
        let level = i.immediate >> 16 & 31
        let size = i.operandSize
        try keepingStackPointer { core throws(Fault) in
            try core.push(core[gpr: RegisterIndex.rbp], size: size)
            let frame = core[gpr: RegisterIndex.rsp]
            if level > 0 {
                for depth in 1..<max(level, 1) {
                    // Copies of the outer frames' pointers, read through the stack segment below RBP.
                    let saved = core[gpr: RegisterIndex.rsp]
                    core[gpr: RegisterIndex.rsp] = core[gpr: RegisterIndex.rbp] &- depth &* UInt64(size)
                    let value = try core.peek(size: size)
                    core[gpr: RegisterIndex.rsp] = saved
                    try core.push(value, size: size)
                }
                try core.push(frame, size: size)
            }
            core.drop(0 &- bytes)
            if size == 2 {
                core.setRegister(RegisterIndex.rbp, UInt16(truncatingIfNeeded: frame))
            } else {
                core[gpr: RegisterIndex.rbp] = frame
            }
        }
    }

    /// Flag instructions and the rest without operands.
    mutating func miscellaneous(_ operation: Operation, _ i: DecodedInstruction) throws(Fault) {
        switch operation {
        case .clc: flags.setCarryOverflow(carry: false, overflow: flags.overflow)
        case .stc: flags.setCarryOverflow(carry: true, overflow: flags.overflow)
        case .cmc: flags.setCarryOverflow(carry: !flags.carry, overflow: flags.overflow)
        case .cld: systemFlags &= ~Flags.direction.rawValue
        case .std: systemFlags |= Flags.direction.rawValue
        case .lahf: setRegister(RegisterIndex.highByte, UInt8(truncatingIfNeeded: flags.bits | 2))
        case .sahf:
            let loaded = UInt64(register(RegisterIndex.highByte, UInt8.self))
            flags.bits = flags.bits & Flags.overflow.rawValue | loaded & ~Flags.overflow.rawValue
        case .xlat:
            let mask: UInt64 =
                i.traits.contains(.address16) ? 0xffff : i.traits.contains(.address32) ? 0xffff_ffff : .max
            let offset = (self[gpr: RegisterIndex.rbx] &+ (self[gpr: RegisterIndex.rax] & 0xff)) & mask
            let linear = offset &+ segmentBase[Int(i.segment & 7)]
            setRegister(RegisterIndex.rax, try load(UInt8.self, at: mode == .bits64 ? linear : linear & 0xffff_ffff))
        case .nop, .pause: break
        // CLFLUSH faults as a read does.
        case .fence: if i.isMemory { _ = try translate(effectiveAddress(i), .read, accessSet) }
        case .fwait:
            let both = ControlRegister0.monitorCoprocessor | ControlRegister0.taskSwitched
            if cr0 & both == both { throw .deviceNotAvailable }
            if x87.hasPendingException { throw .x87Error }
        case .fxsave: try saveFloatingPoint(i)
        case .fxrstor: try restoreFloatingPoint(i)
        case .ldmxcsr:
            try checkVectorAvailable(mmx: false)
            let value = try load(UInt32.self, at: effectiveAddress(i))
            if value & 0xffff_0000 != 0 { throw .generalProtection(0) }
            mxcsr = value
        case .stmxcsr:
            try checkVectorAvailable(mmx: false)
            try store(mxcsr, at: effectiveAddress(i))
        default: throw .invalidOpcode
        }
    }

    /// Decimal adjustment and other instructions that 64-bit mode dropped.
    mutating func legacy(_ operation: Operation, _ i: DecodedInstruction) throws(Fault) {
        let al = register(RegisterIndex.rax, UInt8.self)
        switch operation {
        case .salc: setRegister(RegisterIndex.rax, flags.carry ? UInt8.max : 0)
        case .aam:
            let base = UInt8(truncatingIfNeeded: i.immediate)
            if base == 0 { throw .divideError }
            setRegister(RegisterIndex.rax, UInt16(al / base) << 8 | UInt16(al % base))
            flags.setLogical(al % base)
        case .aad:
            let high = register(RegisterIndex.highByte, UInt8.self)
            let value = al &+ high &* UInt8(truncatingIfNeeded: i.immediate)
            setRegister(RegisterIndex.rax, UInt16(value))
            flags.setLogical(value)
        case .daa, .das: decimalAdjust(operation, al)
        case .aaa, .aas:
            let adjust = al & 15 > 9 || flags.auxiliary
            let ax = register(RegisterIndex.rax, UInt16.self)
            let new = adjust ? (operation == .aaa ? ax &+ 0x106 : ax &- 0x106) : ax
            setRegister(RegisterIndex.rax, new & 0xff0f)
            let kept = Flags(rawValue: flags.bits)
            setFlags(
                cf: adjust, pf: kept.contains(.parity), af: adjust, zf: kept.contains(.zero),
                sf: kept.contains(.sign), of: kept.contains(.overflow))
        case .bound:
            let address = effectiveAddress(i)
            let index: Int64
            let low: Int64
            let high: Int64
            if i.operandSize == 2 {
                index = Int64(Int16(bitPattern: register(i.reg, UInt16.self)))
                low = Int64(Int16(bitPattern: try load(UInt16.self, at: address)))
                high = Int64(Int16(bitPattern: try load(UInt16.self, at: address &+ 2)))
            } else {
                index = Int64(Int32(bitPattern: register(i.reg, UInt32.self)))
                low = Int64(Int32(bitPattern: try load(UInt32.self, at: address)))
                high = Int64(Int32(bitPattern: try load(UInt32.self, at: address &+ 4)))
            }
            if index < low || index > high { throw .boundRange }
        default:  // ARPL
            if !isProtected || isVirtual8086 { throw .invalidOpcode }
            let selector = try readRMForWrite(i, UInt16.self)
            let wanted = register(i.reg, UInt16.self) & 3
            let lower = selector & 3 < wanted
            try writeRM(i, lower ? selector & ~3 | wanted : selector)
            var status = Flags(rawValue: flags.bits)
            if lower { status.insert(.zero) } else { status.remove(.zero) }
            flags.bits = status.rawValue
        }
    }

    private mutating func decimalAdjust(_ operation: Operation, _ al: UInt8) {
        let adjustLow = al & 15 > 9 || flags.auxiliary
        let adjustHigh = al > 0x99 || flags.carry
        let correction: UInt8 = (adjustLow ? 6 : 0) &+ (adjustHigh ? 0x60 : 0)
        let result = operation == .daa ? al &+ correction : al &- correction
        let borrowed = operation == .das && adjustLow && al < 6
        setRegister(RegisterIndex.rax, result)
        setFlags(
            cf: adjustHigh || borrowed, pf: result.nonzeroBitCount & 1 == 0, af: adjustLow, zf: result == 0,
            sf: result & 0x80 != 0, of: false)
    }
}
