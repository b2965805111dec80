// SPDX-License-Identifier: Apache-2.0
// IRET, far JMP, CALL and RET, SYSCALL, SYSRET, SYSENTER, SYSEXIT. Intel SDM volume 2 and volume 3, 5.8.

import X86

extension Core {
    mutating func interruptReturn(_ i: DecodedInstruction) throws(Fault) {
        nmiBlocked = false
        let size = i.operandSize
        let step = UInt64(size)
        let newRIP = try peek(size: size)
        let selector = UInt16(truncatingIfNeeded: try peek(size: size, depth: step))
        let image = try peek(size: size, depth: 2 * step)
        guard isProtected, !isVirtual8086 else {
            drop(3 * step)
            setRealCode(selector)
            rip = newRIP & 0xffff
            writeFlags(image, size: size, writable: Flags.writable.subtracting(isVirtual8086 ? .ioPrivilege : []))
            return
        }
        if has(.nestedTask) { throw .generalProtection(0) }
        let code = selector & 0xfffc
        if code == 0 { throw .generalProtection(0) }
        let level = UInt8(selector & 3)
        guard let target = try descriptor(selector), target.isCode, level >= privilege,
            target.attributes.contains(.conforming) ? target.privilege <= level : target.privilege == level
        else { throw .generalProtection(code) }
        if !target.isPresent { throw .segmentNotPresent(code) }
        let toLong = isLongMode && target.attributes.contains(.long)
        if toLong, !isCanonical(newRIP) { throw .generalProtection(0) }

        let popsStack = mode == .bits64 || level > privilege
        var newRSP: UInt64 = 0
        var stackSelector: UInt16 = 0
        var stack: Descriptor?
        if popsStack {
            newRSP = try peek(size: size, depth: 3 * step)
            stackSelector = UInt16(truncatingIfNeeded: try peek(size: size, depth: 4 * step))
            stack = try returnStack(stackSelector, level: level, toLong: toLong)
        }
        let from = privilege
        try loadCode(selector, target, privilege: level)
        writeFlags(image, size: size, writable: returnFlags(from: from), canResume: true)
        if popsStack {
            if let stack {
                setSegment(SegmentIndex.ss, stackSelector, stack)
            } else {
                setNullSegment(SegmentIndex.ss, stackSelector)
            }
            self[gpr: RegisterIndex.rsp] = size == 2 ? self[gpr: RegisterIndex.rsp] & ~0xffff | newRSP : newRSP
            if level > from { dropPrivilegedSegments() }
        } else {
            drop(3 * step)
        }
        rip = toLong ? newRIP : newRIP & 0xffff_ffff
        updateAccessSet()
    }

    /// What IRET from `from` may write.
    private mutating func returnFlags(from: UInt8) -> Flags {
        var writable = Flags.writable
        if from != 0 { writable.remove(.ioPrivilege) }
        if UInt64(from) > (systemFlags >> 12 & 3) { writable.remove(.interrupt) }
        return writable
    }

    /// The stack segment of a return to `level`; nil is the null selector that 64-bit code may have.
    private mutating func returnStack(_ selector: UInt16, level: UInt8, toLong: Bool) throws(Fault) -> Descriptor? {
        let code = selector & 0xfffc
        if code == 0 {
            if toLong, level != 3 { return nil }
            throw .generalProtection(0)
        }
        guard let stack = try descriptor(selector), UInt8(selector & 3) == level, stack.privilege == level,
            !stack.isSystem, !stack.isCode, stack.attributes.contains(.writable)
        else { throw .generalProtection(code) }
        if !stack.isPresent { throw .stackFault(code) }
        return stack
    }

    /// On a return to less privilege, data segments that it may not see become null.
    private mutating func dropPrivilegedSegments() {
        for index in [SegmentIndex.es, SegmentIndex.ds, SegmentIndex.fs, SegmentIndex.gs] {
            let segment = segments[Int(index)]
            let conforming = segment.attributes.contains([.code, .conforming])
            if segment.attributes.contains(.unusable) || conforming { continue }
            if segment.attributes.privilege < privilege { setNullSegment(index, 0) }
        }
    }

    /// POPF and IRET: the bits of `writable` that `size` bytes hold come from `image`.
    mutating func writeFlags(_ image: UInt64, size: UInt8, writable: Flags, canResume: Bool = false) {
        var mask = writable.rawValue
        if canResume { mask |= Flags.resume.rawValue }
        if size == 2 { mask &= 0xffff }
        rflags = rflags & ~mask & ~(size > 2 && !canResume ? Flags.resume.rawValue : 0) | image & mask
        updateAccessSet()
    }

    /// JMP and CALL to another segment; `i` has selector and offset in the instruction or in memory.
    mutating func farTransfer(_ i: DecodedInstruction, isCall: Bool) throws(Fault) {
        let size = i.operandSize
        let offset: UInt64
        let selector: UInt16
        if i.isMemory {
            let address = effectiveAddress(i)
            switch size {
            case 2: offset = UInt64(try load(UInt16.self, at: address))
            case 4: offset = UInt64(try load(UInt32.self, at: address))
            default: offset = try load(UInt64.self, at: address)
            }
            selector = try load(UInt16.self, at: address &+ UInt64(size))
        } else {
            offset = i.immediate & 0xffff_ffff
            selector = UInt16(truncatingIfNeeded: i.immediate >> 32)
        }
        let oldCode = UInt64(segments[Int(SegmentIndex.cs)].selector)
        guard isProtected, !isVirtual8086 else {
            if isCall {
                try push(oldCode, size: size)
                try push(rip, size: size)
            }
            setRealCode(selector)
            rip = offset
            return
        }
        let code = selector & 0xfffc
        if code == 0 { throw .generalProtection(0) }
        // Call gates and task switches are not offered: no operating system for this machine uses them.
        guard let target = try descriptor(selector), target.isCode else { throw .generalProtection(code) }
        let conforming = target.attributes.contains(.conforming)
        let permitted =
            conforming
            ? target.privilege <= privilege : target.privilege == privilege && UInt8(selector & 3) <= privilege
        if !permitted { throw .generalProtection(code) }
        if !target.isPresent { throw .segmentNotPresent(code) }
        if isLongMode, target.attributes.contains(.long), !isCanonical(offset) { throw .generalProtection(0) }
        let saved = self[gpr: RegisterIndex.rsp]
        do throws(Fault) {
            if isCall {
                try push(oldCode, size: size)
                try push(rip, size: size)
            }
            try loadCode(selector, target, privilege: privilege)
        } catch {
            self[gpr: RegisterIndex.rsp] = saved
            throw error
        }
        rip = offset
    }

    /// RETF.
    mutating func farReturn(_ i: DecodedInstruction) throws(Fault) {
        let size = i.operandSize
        let step = UInt64(size)
        let offset = try peek(size: size)
        let selector = UInt16(truncatingIfNeeded: try peek(size: size, depth: step))
        let released = i.immediate & 0xffff
        guard isProtected, !isVirtual8086 else {
            drop(2 * step + released)
            setRealCode(selector)
            rip = offset
            return
        }
        let code = selector & 0xfffc
        let level = UInt8(selector & 3)
        if code == 0 { throw .generalProtection(0) }
        guard let target = try descriptor(selector), target.isCode, level >= privilege,
            target.attributes.contains(.conforming) ? target.privilege <= level : target.privilege == level
        else { throw .generalProtection(code) }
        if !target.isPresent { throw .segmentNotPresent(code) }
        let toLong = isLongMode && target.attributes.contains(.long)
        if toLong, !isCanonical(offset) { throw .generalProtection(0) }
        guard level > privilege else {
            try loadCode(selector, target, privilege: level)
            drop(2 * step + released)
            rip = offset
            return
        }
        let newRSP = try peek(size: size, depth: 2 * step + released)
        let stackSelector = UInt16(truncatingIfNeeded: try peek(size: size, depth: 3 * step + released))
        let stack = try returnStack(stackSelector, level: level, toLong: toLong)
        try loadCode(selector, target, privilege: level)
        if let stack {
            setSegment(SegmentIndex.ss, stackSelector, stack)
        } else {
            setNullSegment(SegmentIndex.ss, stackSelector)
        }
        self[gpr: RegisterIndex.rsp] = newRSP &+ released
        dropPrivilegedSegments()
        rip = offset
    }

    /// A flat segment as the fast system calls load it.
    private static func flat(_ selector: UInt16, _ attributes: UInt32, level: UInt8) -> Segment {
        Segment(
            selector: selector, limit: .max,
            attributes: SegmentAttributes(rawValue: attributes | UInt32(level) << 5))
    }

    private mutating func setFlat(_ index: UInt8, _ segment: Segment) {
        segments[Int(index)] = segment
        segmentBase[Int(index)] = 0
    }

    private mutating func setFlat(_ index: UInt8, _ selector: UInt16, _ attributes: UInt32, level: UInt8) {
        setFlat(index, Self.flat(selector, attributes, level: level))
    }

    private static var longCode: UInt32 { 0xa09b }
    private static var compatibilityCode: UInt32 { 0xc09b }
    private static var flatData: UInt32 { 0xc093 }

    /// CS and SS as SYSCALL makes them, and as SYSRET to 64-bit code does.
    func systemCallSegments() -> (call: (code: Segment, stack: Segment), back: (code: Segment, stack: Segment)) {
        let call = UInt16(truncatingIfNeeded: msr.star >> 32) & 0xfffc
        let back = UInt16(truncatingIfNeeded: msr.star >> 48)
        return (
            (Self.flat(call, Self.longCode, level: 0), Self.flat(call &+ 8, Self.flatData, level: 0)),
            (
                Self.flat((back &+ 16) | 3, Self.longCode, level: 3),
                Self.flat((back &+ 8) | 3, Self.flatData, level: 3)
            )
        )
    }

    mutating func systemCall() throws(Fault) {
        guard msr.efer & ExtendedFeatures.syscall != 0, isLongMode else { throw .invalidOpcode }
        self[gpr: RegisterIndex.rcx] = rip
        self[gpr: RegisterIndex.r11] = rflags & ~Flags.resume.rawValue
        rip = mode == .bits64 ? msr.lstar : msr.cstar
        let segments = systemCallSegments().call
        setFlat(SegmentIndex.cs, segments.code)
        setFlat(SegmentIndex.ss, segments.stack)
        rflags = rflags & ~msr.syscallMask & ~Flags.resume.rawValue
        privilege = 0
        updateMode()
    }

    mutating func systemReturn(_ i: DecodedInstruction) throws(Fault) {
        guard msr.efer & ExtendedFeatures.syscall != 0, isLongMode else { throw .invalidOpcode }
        let target = self[gpr: RegisterIndex.rcx]
        let segments = systemCallSegments().back
        if i.operandSize == 8 {
            if !isCanonical(target) { throw .generalProtection(0) }
            setFlat(SegmentIndex.cs, segments.code)
            rip = target
        } else {
            setFlat(
                SegmentIndex.cs, UInt16(truncatingIfNeeded: msr.star >> 48) | 3, Self.compatibilityCode, level: 3)
            rip = target & 0xffff_ffff
        }
        setFlat(SegmentIndex.ss, segments.stack)
        rflags =
            self[gpr: RegisterIndex.r11] & (Flags.writable.rawValue | Flags.virtual8086.rawValue) & ~Flags.virtual8086
            .rawValue
        privilege = 3
        updateMode()
    }

    mutating func systemEnter() throws(Fault) {
        let selector = UInt16(truncatingIfNeeded: msr.sysenterCS)
        guard isProtected, selector & 0xfffc != 0 else { throw .generalProtection(0) }
        setFlat(SegmentIndex.cs, selector & ~3, isLongMode ? Self.longCode : Self.compatibilityCode, level: 0)
        setFlat(SegmentIndex.ss, (selector & ~3) &+ 8, Self.flatData, level: 0)
        systemFlags &= ~(Flags.interrupt.rawValue | Flags.virtual8086.rawValue | Flags.resume.rawValue)
        self[gpr: RegisterIndex.rsp] = isLongMode ? msr.sysenterESP : msr.sysenterESP & 0xffff_ffff
        rip = isLongMode ? msr.sysenterEIP : msr.sysenterEIP & 0xffff_ffff
        privilege = 0
        updateMode()
    }

    mutating func systemExit(_ i: DecodedInstruction) throws(Fault) {
        let selector = UInt16(truncatingIfNeeded: msr.sysenterCS)
        guard isProtected, selector & 0xfffc != 0 else { throw .generalProtection(0) }
        let newRSP = self[gpr: RegisterIndex.rcx]
        let target = self[gpr: RegisterIndex.rdx]
        if i.operandSize == 8 {
            guard isCanonical(newRSP), isCanonical(target) else { throw .generalProtection(0) }
            setFlat(SegmentIndex.cs, (selector &+ 32) | 3, Self.longCode, level: 3)
            setFlat(SegmentIndex.ss, (selector &+ 40) | 3, Self.flatData, level: 3)
            self[gpr: RegisterIndex.rsp] = newRSP
            rip = target
        } else {
            setFlat(SegmentIndex.cs, (selector &+ 16) | 3, Self.compatibilityCode, level: 3)
            setFlat(SegmentIndex.ss, (selector &+ 24) | 3, Self.flatData, level: 3)
            self[gpr: RegisterIndex.rsp] = newRSP & 0xffff_ffff
            rip = target & 0xffff_ffff
        }
        privilege = 3
        updateMode()
    }
}
