// SPDX-License-Identifier: Apache-2.0
// Delivery of exceptions and interrupts through the IDT, and IRET. Intel SDM volume 3, chapter 6.

import X86

/// What is delivered through the interrupt descriptor table.
struct Event {
    enum Kind {
        case exception
        /// INT n, INT3, INTO: gates check the caller's privilege.
        case software
        case external
    }

    var vector: UInt8
    var errorCode: UInt32?
    var kind: Kind

    init(vector: UInt8, kind: Kind) {
        self.vector = vector
        self.kind = kind
    }

    init(_ fault: Fault) {
        vector = fault.vector
        errorCode = fault.hasErrorCode ? fault.errorCode : nil
        kind = .exception
    }

    init(_ pending: PendingEvent) {
        vector = pending.vector
        errorCode = pending.errorCode
        kind =
            switch pending.kind {
            case .exception: .exception
            case .software: .software
            case .external: .external
            }
    }

    /// Exceptions whose failing delivery makes a double fault. SDM volume 3, table 6-5.
    var isContributory: Bool { kind == .exception && (vector == 0 || (10...13).contains(vector)) }
    var isPageFault: Bool { kind == .exception && vector == 14 }
}

extension Core {
    /// Delivers what an instruction raised. RIP is the instruction's own.
    mutating func deliver(_ fault: Fault) {
        if failure != nil { return }
        deliver(Event(fault))
    }

    /// Delivers an event; one that cannot be delivered becomes a double fault, and that one a shutdown.
    mutating func deliver(_ event: Event) {
        do throws(Fault) {
            try enterHandler(event)
            return
        } catch {
            let second = Event(error)
            if event.kind == .exception, event.vector == 8 {
                activity = .shutdown
                return
            }
            let double =
                (event.isContributory && second.isContributory)
                || (event.isPageFault && (second.isContributory || second.isPageFault))
            if double {
                deliver(Event(Fault(vector: 8, errorCode: 0)))
            } else {
                deliver(second)
            }
        }
    }

    /// Enters the handler of `event`; when it throws nothing has changed.
    mutating func enterHandler(_ event: Event) throws(Fault) {
        guard isProtected else {
            try enterRealHandler(event)
            return
        }
        let external: UInt16 = event.kind == .software ? 0 : 1
        let selectorCode = UInt16(event.vector) << 3 | 2 | external
        let size: UInt64 = isLongMode ? 16 : 8
        let offset = UInt64(event.vector) &* size
        guard offset &+ size &- 1 <= UInt64(idt.limit) else { throw .generalProtection(selectorCode) }
        let low = try load(UInt64.self, at: idt.base &+ offset, .supervisor)
        let high = isLongMode ? try load(UInt32.self, at: idt.base &+ offset &+ 8, .supervisor) : 0
        let type = UInt8(low >> 40 & 0x1f)
        let gatePrivilege = UInt8(low >> 45 & 3)
        let isTrap = type & 1 != 0
        let is32 = type & 8 != 0
        guard type & 0x17 == 6 || type & 0x17 == 7, !isLongMode || is32 else { throw .generalProtection(selectorCode) }
        if event.kind == .software, gatePrivilege < privilege { throw .generalProtection(selectorCode) }
        guard low >> 47 & 1 != 0 else { throw .segmentNotPresent(selectorCode) }

        let selector = UInt16(truncatingIfNeeded: low >> 16)
        let code = selector & 0xfffc
        if code == 0 { throw .generalProtection(external) }
        guard let target = try descriptor(selector) else { throw .generalProtection(code | external) }
        guard target.isCode, target.privilege <= privilege else { throw .generalProtection(code | external) }
        guard target.isPresent else { throw .segmentNotPresent(code | external) }
        let entry = (low & 0xffff) | (low >> 32 & 0xffff_0000) | UInt64(high) << 32
        let conforming = target.attributes.contains(.conforming)
        let level = conforming ? privilege : target.privilege
        if isLongMode {
            guard target.attributes.contains(.long), isCanonical(entry) else {
                throw .generalProtection(code | external)
            }
            try enterLong(event, selector, target, level, entry, stackTable: UInt8(low >> 32 & 7))
        } else {
            try enterProtected(event, selector, target, level, is32 ? entry & 0xffff_ffff : entry & 0xffff, is32: is32)
        }
        systemFlags &=
            ~(Flags.trap.rawValue | Flags.nestedTask.rawValue | Flags.resume.rawValue | Flags.virtual8086.rawValue)
        if !isTrap { systemFlags &= ~Flags.interrupt.rawValue }
    }

    private mutating func enterLong(
        _ event: Event, _ selector: UInt16, _ target: Descriptor, _ level: UInt8, _ entry: UInt64, stackTable: UInt8
    ) throws(Fault) {
        var pointer = self[gpr: RegisterIndex.rsp]
        if stackTable != 0 {
            pointer = try taskStack(at: 0x24 + UInt64(stackTable - 1) * 8)
        } else if level < privilege {
            pointer = try taskStack(at: 4 + UInt64(level) * 8)
        }
        pointer &= ~15
        let set: AccessSet = level == 3 ? .user : .supervisor
        let oldStack = UInt64(segments[Int(SegmentIndex.ss)].selector)
        let frame: InlineArray<6, UInt64> = [
            UInt64(event.errorCode ?? 0), rip, UInt64(segments[Int(SegmentIndex.cs)].selector), flagsImage(event),
            self[gpr: RegisterIndex.rsp], oldStack,
        ]
        let first = event.errorCode == nil ? 1 : 0
        pointer &-= UInt64((frame.count - first) * 8)
        for position in first..<frame.count {
            do throws(Fault) { try store(frame[position], at: pointer &+ UInt64((position - first) * 8), set) } catch {
                throw onStack(error)
            }
        }
        let changes = level != privilege
        try loadCode(selector, target, privilege: level)
        if changes { setNullSegment(SegmentIndex.ss, UInt16(level)) }
        self[gpr: RegisterIndex.rsp] = pointer
        rip = entry
        updateAccessSet()
    }

    /// RFLAGS as the frame has them: faults set RF.
    private mutating func flagsImage(_ event: Event) -> UInt64 {
        let isFault = event.kind == .exception && event.vector != 1 && event.vector != 3 && event.vector != 4
        return rflags | (isFault ? Flags.resume.rawValue : 0)
    }

    /// A stack pointer from the task state segment.
    private mutating func taskStack(at offset: UInt64) throws(Fault) -> UInt64 {
        guard offset &+ 7 <= UInt64(task.limit) else { throw .invalidTSS(task.selector & 0xfffc) }
        let pointer = try load(UInt64.self, at: taskBase &+ offset, .supervisor)
        if !isCanonical(pointer) { throw .stackFault(0) }
        return pointer
    }

    private mutating func enterProtected(
        _ event: Event, _ selector: UInt16, _ target: Descriptor, _ level: UInt8, _ entry: UInt64, is32: Bool
    ) throws(Fault) {
        let size: UInt8 = is32 ? 4 : 2
        let saved = self[gpr: RegisterIndex.rsp]
        let oldStack = segments[Int(SegmentIndex.ss)]
        let oldStackBase = segmentBase[Int(SegmentIndex.ss)]
        let oldPrivilege = privilege
        let image = flagsImage(event)
        let oldCode = UInt64(segments[Int(SegmentIndex.cs)].selector)
        do throws(Fault) {
            if level < privilege {
                let (pointer, stackSelector) = try protectedTaskStack(level)
                guard stackSelector & 0xfffc != 0, let stack = try descriptor(stackSelector),
                    stack.privilege == level, !stack.isCode, !stack.isSystem, stack.isPresent
                else { throw .invalidTSS(stackSelector & 0xfffc) }
                privilege = level
                updateAccessSet()
                setSegment(SegmentIndex.ss, stackSelector, stack)
                self[gpr: RegisterIndex.rsp] = UInt64(pointer)
                try push(UInt64(oldStack.selector), size: size)
                try push(saved, size: size)
            }
            try push(image, size: size)
            try push(oldCode, size: size)
            try push(rip, size: size)
            if let errorCode = event.errorCode { try push(UInt64(errorCode), size: size) }
            try loadCode(selector, target, privilege: level)
        } catch {
            privilege = oldPrivilege
            segments[Int(SegmentIndex.ss)] = oldStack
            segmentBase[Int(SegmentIndex.ss)] = oldStackBase
            self[gpr: RegisterIndex.rsp] = saved
            updateMode()
            throw error
        }
        rip = entry
    }

    /// ESP and SS for `level` from a 32-bit or 16-bit task state segment.
    private mutating func protectedTaskStack(_ level: UInt8) throws(Fault) -> (pointer: UInt32, selector: UInt16) {
        if task.attributes.type & 8 != 0 {
            let address = taskBase &+ 4 &+ UInt64(level) * 8
            return (
                try load(UInt32.self, at: address, .supervisor), try load(UInt16.self, at: address &+ 4, .supervisor)
            )
        }
        let address = taskBase &+ 2 &+ UInt64(level) * 4
        return (
            UInt32(try load(UInt16.self, at: address, .supervisor)),
            try load(UInt16.self, at: address &+ 2, .supervisor)
        )
    }

    /// Real mode: a far pointer for each vector at the start of the table. SDM volume 3, 20.1.4.
    private mutating func enterRealHandler(_ event: Event) throws(Fault) {
        let offset = UInt64(event.vector) * 4
        guard offset + 3 <= UInt64(idt.limit) else { throw .generalProtection(0) }
        let target = try load(UInt32.self, at: idt.base &+ offset, .supervisor)
        let saved = self[gpr: RegisterIndex.rsp]
        do throws(Fault) {
            try push(rflags, size: 2)
            try push(UInt64(segments[Int(SegmentIndex.cs)].selector), size: 2)
            try push(rip, size: 2)
        } catch {
            self[gpr: RegisterIndex.rsp] = saved
            throw error
        }
        setRealCode(UInt16(target >> 16))
        rip = UInt64(target & 0xffff)
        systemFlags &= ~(Flags.interrupt.rawValue | Flags.trap.rawValue | Flags.alignmentCheck.rawValue)
    }

    /// CS in real mode.
    mutating func setRealCode(_ selector: UInt16) {
        segments[Int(SegmentIndex.cs)].selector = selector
        segmentBase[Int(SegmentIndex.cs)] = UInt64(selector) << 4
        updateMode()
    }
}
