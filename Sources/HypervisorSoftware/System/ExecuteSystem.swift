// SPDX-License-Identifier: Apache-2.0
// System instructions, port I/O and everything else after which the processor looks for interrupts. SDM volume 2.

import Bus
import Hypervisor
import X86

extension Core {
    /// IOPL allows I/O and interrupt-flag instructions.
    var hasFullIOPrivilege: Bool { mutating get { !isProtected || UInt64(privilege) <= systemFlags >> 12 & 3 } }

    /// Executes an instruction of the system group. RIP is the address of the next instruction.
    @inline(never)
    mutating func executeSystem(_ i: DecodedInstruction) throws(Fault) {
        if isChecking { throw .deferred }
        guard let operation = Operation(rawValue: i.operation) else { throw .invalidOpcode }
        switch operation {
        case .cli, .sti, .popf, .hlt: try interruptFlag(operation, i)
        case .in, .out, .ins, .outs: try portAccess(operation, i)
        case .int3: try softwareInterrupt(3)
        case .int:
            if isVirtual8086, !hasFullIOPrivilege { throw .generalProtection(0) }
            try softwareInterrupt(UInt8(truncatingIfNeeded: i.immediate))
        case .into: if flags.overflow { try softwareInterrupt(4) }
        // A trap without any check of privileges.
        case .int1: deliver(Event(.debug))
        case .iret: try interruptReturn(i)
        case .syscall: try systemCall()
        case .sysret:
            try requirePrivilege()
            try systemReturn(i)
        case .sysenter: try systemEnter()
        case .sysexit:
            try requirePrivilege()
            try systemExit(i)
        case .swapgs:
            try requirePrivilege()
            let base = segmentBase[Int(SegmentIndex.gs)]
            segmentBase[Int(SegmentIndex.gs)] = msr.kernelGSBase
            msr.kernelGSBase = base
        case .jmpFar, .jmpFarIndirect: try farTransfer(i, isCall: false)
        case .callFar, .callFarIndirect: try farTransfer(i, isCall: true)
        case .retFar, .retFarImmediate: try farReturn(i)
        case .movToSegment, .popSegment, .loadFarPointer: try segmentLoad(operation, i)
        case .cpuid: identify()
        case .rdtsc, .rdtscp, .rdpmc: try timeStamp(operation)
        case .rdmsr:
            try requirePrivilege()
            let value = try readMSR(register(RegisterIndex.rcx, UInt32.self))
            self[gpr: RegisterIndex.rax] = value & 0xffff_ffff
            self[gpr: RegisterIndex.rdx] = value >> 32
        case .wrmsr:
            try requirePrivilege()
            let low = UInt64(register(RegisterIndex.rax, UInt32.self))
            let high = UInt64(register(RegisterIndex.rdx, UInt32.self))
            try writeMSR(register(RegisterIndex.rcx, UInt32.self), high << 32 | low)
        case .movFromControl, .movToControl, .movFromDebug, .movToDebug, .clts, .lmsw, .smsw:
            try controlRegister(operation, i)
        case .lgdt, .lidt, .sgdt, .sidt, .lldt, .ltr, .sldt, .str: try descriptorTable(operation, i)
        case .lar, .lsl, .verr, .verw: try inspectSelector(operation, i)
        case .invlpg:
            try requirePrivilege()
            let address = effectiveAddress(i)
            translations.flushPage(address)
            blocks.forgetRecent(page: address)
        case .wbinvd: try requirePrivilege()
        case .stac, .clac:
            if privilege != 0 { throw .invalidOpcode }
            if operation == .stac {
                systemFlags |= Flags.alignmentCheck.rawValue
            } else {
                systemFlags &= ~Flags.alignmentCheck.rawValue
            }
            updateAccessSet()
        case .vmcall: hypercall()
        default: throw .invalidOpcode
        }
    }

    private mutating func requirePrivilege() throws(Fault) {
        if privilege != 0 { throw .generalProtection(0) }
    }

    private mutating func interruptFlag(_ operation: Operation, _ i: DecodedInstruction) throws(Fault) {
        switch operation {
        case .cli:
            if !hasFullIOPrivilege { throw .generalProtection(0) }
            systemFlags &= ~Flags.interrupt.rawValue
        case .sti:
            if !hasFullIOPrivilege { throw .generalProtection(0) }
            if !has(.interrupt) {
                systemFlags |= Flags.interrupt.rawValue
                interruptShadow = true
            }
        case .hlt:
            try requirePrivilege()
            activity = .halted
        default:
            if isVirtual8086, !hasFullIOPrivilege { throw .generalProtection(0) }
            let image = try peek(size: i.operandSize)
            drop(UInt64(i.operandSize))
            var writable = Flags.writable
            if privilege != 0 { writable.remove(.ioPrivilege) }
            if !hasFullIOPrivilege { writable.remove(.interrupt) }
            writeFlags(image, size: i.operandSize, writable: writable)
        }
    }

    /// INT n, INT3 and INTO: the frame has the address of the next instruction, but that of a fault on the way the
    /// instruction's own.
    private mutating func softwareInterrupt(_ vector: UInt8) throws(Fault) {
        try enterHandler(Event(vector: vector, kind: .software))
    }

    private mutating func segmentLoad(_ operation: Operation, _ i: DecodedInstruction) throws(Fault) {
        switch operation {
        case .movToSegment:
            let index = i.reg & 7
            if index == SegmentIndex.cs || index > SegmentIndex.gs { throw .invalidOpcode }
            try loadSegment(index, try readRM(i, UInt16.self))
            if index == SegmentIndex.ss { interruptShadow = true }
        case .popSegment:
            let selector = UInt16(truncatingIfNeeded: try peek(size: i.operandSize))
            let index = i.reg & 7
            // In 16- and 32-bit code the popped SS takes effect before the stack pointer moves.
            try loadSegment(index, selector)
            drop(UInt64(i.operandSize))
            if index == SegmentIndex.ss { interruptShadow = true }
        default: try loadFarPointer(i)
        }
    }

    /// LDS, LES, LFS, LGS and LSS: the decoder puts the segment into the immediate.
    private mutating func loadFarPointer(_ i: DecodedInstruction) throws(Fault) {
        let address = effectiveAddress(i)
        let segment = UInt8(truncatingIfNeeded: i.immediate)
        switch i.operandSize {
        case 2:
            let offset = try load(UInt16.self, at: address)
            try loadSegment(segment, try load(UInt16.self, at: address &+ 2))
            setRegister(i.reg, offset)
        case 4:
            let offset = try load(UInt32.self, at: address)
            try loadSegment(segment, try load(UInt16.self, at: address &+ 4))
            setRegister(i.reg, offset)
        default:
            let offset = try load(UInt64.self, at: address)
            try loadSegment(segment, try load(UInt16.self, at: address &+ 8))
            self[gpr: i.reg] = offset
        }
        if segment == SegmentIndex.ss { interruptShadow = true }
    }

    private mutating func timeStamp(_ operation: Operation) throws(Fault) {
        if operation == .rdpmc { throw .generalProtection(0) }
        if cr4 & ControlRegister4.timeStampDisable != 0, privilege != 0 { throw .generalProtection(0) }
        let value = clock.timeStampCounter
        self[gpr: RegisterIndex.rax] = value & 0xffff_ffff
        self[gpr: RegisterIndex.rdx] = value >> 32
        if operation == .rdtscp { self[gpr: RegisterIndex.rcx] = msr.tscAux & 0xffff_ffff }
    }

    /// KVM's hypercalls: none is offered, and the answer says so (-KVM_ENOSYS).
    private mutating func hypercall() {
        self[gpr: RegisterIndex.rax] = UInt64(bitPattern: -1000)
    }

    private mutating func descriptorTable(_ operation: Operation, _ i: DecodedInstruction) throws(Fault) {
        switch operation {
        case .sgdt, .sidt:
            if cr4 & ControlRegister4.userInstructionPrevention != 0 { try requirePrivilege() }
            let table = operation == .sgdt ? gdt : idt
            let address = effectiveAddress(i)
            try checkWritable(address, i.operandSize == 8 ? 10 : 6, accessSet)
            try store(table.limit, at: address)
            if i.operandSize == 8 {
                try store(table.base, at: address &+ 2)
            } else {
                try store(UInt32(truncatingIfNeeded: table.base), at: address &+ 2)
            }
        case .lgdt, .lidt:
            try requirePrivilege()
            let address = effectiveAddress(i)
            let limit = try load(UInt16.self, at: address)
            var base: UInt64
            if i.operandSize == 8 {
                base = try load(UInt64.self, at: address &+ 2)
                if !isCanonical(base) { throw .generalProtection(0) }
            } else {
                base = UInt64(try load(UInt32.self, at: address &+ 2))
                if i.operandSize == 2 { base &= 0xff_ffff }
            }
            if operation == .lgdt {
                gdt = DescriptorTableState(base: base, limit: limit)
            } else {
                idt = DescriptorTableState(base: base, limit: limit)
            }
        default:
            if !isProtected || isVirtual8086 { throw .invalidOpcode }
            switch operation {
            case .lldt:
                try requirePrivilege()
                try loadLocalDescriptorTable(try readRM(i, UInt16.self))
            case .ltr:
                try requirePrivilege()
                try loadTask(try readRM(i, UInt16.self))
            default:
                if cr4 & ControlRegister4.userInstructionPrevention != 0 { try requirePrivilege() }
                try storeSelector(operation == .sldt ? ldt.selector : task.selector, i)
            }
        }
    }

    /// SLDT, STR and SMSW: 16 bits to memory, zero-extended to a register.
    private mutating func storeSelector(_ value: UInt16, _ i: DecodedInstruction) throws(Fault) {
        if i.isMemory || i.operandSize == 2 {
            try writeRM(i, value)
        } else {
            self[gpr: i.rm] = UInt64(value)
        }
    }

    private mutating func inspectSelector(_ operation: Operation, _ i: DecodedInstruction) throws(Fault) {
        if !isProtected || isVirtual8086 { throw .invalidOpcode }
        let found = try visibleDescriptor(try readRM(i, UInt16.self))
        var value: UInt64?
        if let found {
            let type = found.attributes.type
            switch operation {
            case .verr: value = !found.isSystem && (!found.isCode || type & 2 != 0) ? 0 : nil
            case .verw: value = !found.isSystem && !found.isCode && type & 2 != 0 ? 0 : nil
            case .lar:
                let known: [UInt32] = isLongMode ? [2, 9, 11, 12] : [1, 2, 3, 4, 5, 9, 11, 12]
                if !found.isSystem || known.contains(type) {
                    let raw = try load(UInt32.self, at: found.address &+ 4, .supervisor)
                    value = UInt64(raw & 0x00ff_ff00)
                }
            default:
                let known: [UInt32] = isLongMode ? [2, 9, 11] : [1, 2, 3, 9, 11]
                if !found.isSystem || known.contains(type) { value = UInt64(found.limit) }
            }
        }
        if let value, operation == .lar || operation == .lsl {
            if i.operandSize == 2 {
                setRegister(i.reg, UInt16(truncatingIfNeeded: value))
            } else {
                self[gpr: i.reg] = value
            }
        }
        var status = Flags(rawValue: flags.bits)
        if value != nil { status.insert(.zero) } else { status.remove(.zero) }
        flags.bits = status.rawValue
    }

    /// Whether the port's bits in the task's I/O bitmap are clear. SDM volume 1, 19.5.2.
    private mutating func checkPort(_ port: UInt16, _ size: Int) throws(Fault) {
        if hasFullIOPrivilege, !isVirtual8086 { return }
        guard task.attributes.type & 9 == 9, task.limit >= 103 else { throw .generalProtection(0) }
        let map = UInt64(try load(UInt16.self, at: taskBase &+ 102, .supervisor))
        let offset = map + UInt64(port >> 3)
        guard offset + 1 <= UInt64(task.limit) else { throw .generalProtection(0) }
        let bits = try load(UInt16.self, at: taskBase &+ offset, .supervisor) >> (port & 7)
        if bits & ((1 << UInt16(size)) - 1) != 0 { throw .generalProtection(0) }
    }

    private mutating func portAccess(_ operation: Operation, _ i: DecodedInstruction) throws(Fault) {
        // 64-bit operands do not exist here.
        let size = min(Int(i.operandSize), 4)
        guard let width = AccessWidth(rawValue: size) else { throw .invalidOpcode }
        let number =
            i.shape == Form.immediate.rawValue ? UInt16(i.immediate & 0xff) : register(RegisterIndex.rdx, UInt16.self)
        try checkPort(number, size)
        let port = Port(number)
        switch operation {
        case .in:
            let value = bus.readPort(port, width: width)
            switch size {
            case 1: setRegister(RegisterIndex.rax, UInt8(truncatingIfNeeded: value))
            case 2: setRegister(RegisterIndex.rax, UInt16(truncatingIfNeeded: value))
            default: self[gpr: RegisterIndex.rax] = value
            }
        case .out: bus.writePort(port, self[gpr: RegisterIndex.rax], width: width)
        default: try portString(operation, i, port, width)
        }
    }

    /// INS and OUTS.
    private mutating func portString(
        _ operation: Operation, _ i: DecodedInstruction, _ port: Port, _ width: AccessWidth
    ) throws(Fault) {
        let mask: UInt64 = i.traits.contains(.address16) ? 0xffff : i.traits.contains(.address32) ? 0xffff_ffff : .max
        let repeats = i.traits.contains(.rep) || i.traits.contains(.repne)
        let delta = has(.direction) ? 0 &- UInt64(width.rawValue) : UInt64(width.rawValue)
        let pointer = operation == .ins ? RegisterIndex.rdi : RegisterIndex.rsi
        let segment =
            operation == .ins && mode != .bits64 ? SegmentIndex.es : operation == .ins ? SegmentIndex.flat : i.segment
        while !repeats || self[gpr: RegisterIndex.rcx] & mask != 0 {
            let linear = (self[gpr: pointer] & mask) &+ segmentBase[Int(segment & 7)]
            if operation == .ins {
                try checkWritable(linear, width.rawValue, accessSet)
                let value = bus.readPort(port, width: width)
                switch width {
                case .byte: try store(UInt8(truncatingIfNeeded: value), at: linear)
                case .word: try store(UInt16(truncatingIfNeeded: value), at: linear)
                default: try store(UInt32(truncatingIfNeeded: value), at: linear)
                }
            } else {
                let value: UInt64
                switch width {
                case .byte: value = UInt64(try load(UInt8.self, at: linear))
                case .word: value = UInt64(try load(UInt16.self, at: linear))
                default: value = UInt64(try load(UInt32.self, at: linear))
                }
                bus.writePort(port, value, width: width)
            }
            self[gpr: pointer] = self[gpr: pointer] & ~mask | (self[gpr: pointer] &+ delta) & mask
            if !repeats { break }
            let count = (self[gpr: RegisterIndex.rcx] &- 1) & mask
            self[gpr: RegisterIndex.rcx] = self[gpr: RegisterIndex.rcx] & ~mask | count
            try spend(1, i, mask)
        }
    }
}
