// SPDX-License-Identifier: Apache-2.0
// The state of a processor between KVM and the neutral `CPUState`. Linux Documentation/virt/kvm/api.rst, section 4.

#if os(Linux)

    internal import CHost
    public import Snapshot
    public import X86

    extension KVMVirtualCPU {
        public func saveState() -> CPUState {
            var state = CPUState.reset
            do throws(KVMError) {
                try saveGeneral(into: &state)
                try saveSystem(into: &state)
                try saveEvents(into: &state)
                try saveDebug(into: &state)
                try saveFloatingPoint(into: &state)
                saveRegisters(into: &state.msr)
            } catch {
                // A processor whose state cannot be read must not go on from a wrong one.
                failure = error.description
            }
            return state
        }

        public func restoreState(_ state: CPUState) throws(SnapshotError) {
            try state.validate(layer: "vcpu\(index)", model: machine.model)
            do throws(KVMError) {
                try restoreSystem(state)
                try restoreGeneral(state)
                try restoreFloatingPoint(state)
                try restoreDebug(state.debug)
                try restoreRegisters(state.msr)
                try restoreEvents(state)
                failure = nil
            } catch {
                throw .invalidValue(
                    layer: "vcpu\(index)", field: "state", value: error.description,
                    allowed: "what this host's KVM takes")
            }
        }

        // MARK: General registers

        private static var places: [WritableKeyPath<kvm_regs, UInt64>] {
            [
                \.rax, \.rcx, \.rdx, \.rbx, \.rsp, \.rbp, \.rsi, \.rdi, \.r8, \.r9, \.r10, \.r11, \.r12, \.r13, \.r14,
                \.r15,
            ]
        }

        private func saveGeneral(into state: inout CPUState) throws(KVMError) {
            var registers = kvm_regs()
            // SAFETY: `registers` outlives the call.
            try accepted(unsafe chost_kvm_get_regs(descriptor, &registers), "to show its registers")
            state.general = Self.places.map { UInt64(registers[keyPath: $0]) }
            state.rip = registers.rip
            state.rflags = registers.rflags
        }

        private func restoreGeneral(_ state: CPUState) throws(KVMError) {
            var registers = kvm_regs()
            for (place, value) in zip(Self.places, state.general) { registers[keyPath: place] = value }
            registers.rip = state.rip
            registers.rflags = state.rflags
            // SAFETY: `registers` outlives the call.
            try accepted(unsafe chost_kvm_set_regs(descriptor, &registers), "the general registers")
        }

        // MARK: Segments and control registers

        func systemRegisters() throws(KVMError) -> kvm_sregs {
            var registers = kvm_sregs()
            // SAFETY: `registers` outlives the call.
            try accepted(unsafe chost_kvm_get_sregs(descriptor, &registers), "to show its system registers")
            return registers
        }

        func setSystemRegisters(_ registers: kvm_sregs) throws(KVMError) {
            var registers = registers
            // SAFETY: `registers` outlives the call.
            try accepted(unsafe chost_kvm_set_sregs(descriptor, &registers), "the system registers")
        }

        private func saveSystem(into state: inout CPUState) throws(KVMError) {
            let registers = try systemRegisters()
            state.segments = [registers.es, registers.cs, registers.ss, registers.ds, registers.fs, registers.gs]
                .map(SegmentState.init)
            state.ldt = SegmentState(registers.ldt)
            state.task = SegmentState(registers.tr)
            state.gdt = DescriptorTableState(base: registers.gdt.base, limit: registers.gdt.limit)
            state.idt = DescriptorTableState(base: registers.idt.base, limit: registers.idt.limit)
            state.cr0 = registers.cr0
            state.cr2 = registers.cr2
            state.cr3 = registers.cr3
            state.cr4 = registers.cr4
            state.msr.efer = registers.efer
        }

        private func restoreSystem(_ state: CPUState) throws(KVMError) {
            var registers = try systemRegisters()
            registers.es = kvm_segment(state.segments[0])
            registers.cs = kvm_segment(state.segments[1])
            registers.ss = kvm_segment(state.segments[2])
            registers.ds = kvm_segment(state.segments[3])
            registers.fs = kvm_segment(state.segments[4])
            registers.gs = kvm_segment(state.segments[5])
            registers.ldt = kvm_segment(state.ldt)
            registers.tr = kvm_segment(state.task)
            registers.gdt.base = state.gdt.base
            registers.gdt.limit = state.gdt.limit
            registers.idt.base = state.idt.base
            registers.idt.limit = state.idt.limit
            registers.cr0 = state.cr0
            registers.cr2 = state.cr2
            registers.cr3 = state.cr3
            registers.cr4 = state.cr4
            registers.efer = state.msr.efer
            registers.interrupt_bitmap = (0, 0, 0, 0)
            try setSystemRegisters(registers)
        }

        // MARK: Debug registers

        private func saveDebug(into state: inout CPUState) throws(KVMError) {
            var registers = kvm_debugregs()
            // SAFETY: `registers` outlives the call.
            try accepted(unsafe chost_kvm_get_debug(descriptor, &registers), "to show its debug registers")
            state.debug = [
                registers.db.0, registers.db.1, registers.db.2, registers.db.3, registers.dr6, registers.dr7,
            ]
        }

        private func restoreDebug(_ values: [UInt64]) throws(KVMError) {
            var registers = kvm_debugregs()
            registers.db = (values[0], values[1], values[2], values[3])
            registers.dr6 = values[4]
            registers.dr7 = values[5]
            // SAFETY: `registers` outlives the call.
            try accepted(unsafe chost_kvm_set_debug(descriptor, &registers), "the debug registers")
        }

        // MARK: Events and activity

        private static let shadowSTI: UInt8 = 1 << 1

        private func saveEvents(into state: inout CPUState) throws(KVMError) {
            var events = kvm_vcpu_events()
            // SAFETY: both outlive the calls.
            try accepted(unsafe chost_kvm_get_events(descriptor, &events), "to show its events")
            state.interruptShadow = events.interrupt.shadow != 0
            state.nmiPending = events.nmi.pending != 0 || events.nmi.injected != 0
            state.nmiBlocked = events.nmi.masked != 0 && events.nmi.injected == 0
            if events.exception.injected != 0 {
                let code = events.exception.has_error_code != 0 ? events.exception.error_code : nil
                state.pendingEvent = PendingEvent(vector: events.exception.nr, kind: .exception, errorCode: code)
            } else if events.interrupt.injected != 0 {
                state.pendingEvent = PendingEvent(
                    vector: events.interrupt.nr, kind: events.interrupt.soft != 0 ? .software : .external)
            }
            var activity: UInt32 = 0
            try accepted(unsafe chost_kvm_get_activity(descriptor, &activity), "to show whether it runs")
            switch Int32(activity) {
            case KVM_MP_STATE_UNINITIALIZED, KVM_MP_STATE_INIT_RECEIVED: state.activity = .waitingForStartup
            case KVM_MP_STATE_HALTED: state.activity = .halted
            default: state.activity = .running
            }
        }

        private func restoreEvents(_ state: CPUState) throws(KVMError) {
            var events = kvm_vcpu_events()
            events.flags = UInt32(KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW)
            events.interrupt.shadow = state.interruptShadow ? Self.shadowSTI : 0
            events.nmi.pending = state.nmiPending ? 1 : 0
            events.nmi.masked = state.nmiBlocked ? 1 : 0
            if let event = state.pendingEvent {
                if event.kind == .exception {
                    events.exception.injected = 1
                    events.exception.nr = event.vector
                    events.exception.has_error_code = event.errorCode == nil ? 0 : 1
                    events.exception.error_code = event.errorCode ?? 0
                } else {
                    events.interrupt.injected = 1
                    events.interrupt.nr = event.vector
                    events.interrupt.soft = event.kind == .software ? 1 : 0
                }
            }
            // SAFETY: `events` outlives the call.
            try accepted(unsafe chost_kvm_set_events(descriptor, &events), "the pending events")
            let activity =
                switch state.activity {
                case .running, .shutdown: KVM_MP_STATE_RUNNABLE
                case .halted: KVM_MP_STATE_HALTED
                case .waitingForStartup: KVM_MP_STATE_UNINITIALIZED
                }
            try accepted(chost_kvm_set_activity(descriptor, UInt32(activity)), "whether it runs")
        }
    }

    extension SegmentState {
        init(_ segment: kvm_segment) {
            var attributes = UInt32(segment.type) & 15
            attributes |= UInt32(segment.s & 1) << 4
            attributes |= UInt32(segment.dpl & 3) << 5
            attributes |= UInt32(segment.present & 1) << 7
            attributes |= UInt32(segment.avl & 1) << 12
            attributes |= UInt32(segment.l & 1) << 13
            attributes |= UInt32(segment.db & 1) << 14
            attributes |= UInt32(segment.g & 1) << 15
            attributes |= UInt32(segment.unusable & 1) << 16
            self.init(selector: segment.selector, base: segment.base, limit: segment.limit, attributes: attributes)
        }
    }

    extension kvm_segment {
        init(_ state: SegmentState) {
            func bits(_ position: UInt32, _ mask: UInt32 = 1) -> UInt8 {
                UInt8(truncatingIfNeeded: state.attributes >> position & mask)
            }
            self.init()
            base = state.base
            limit = state.limit
            selector = state.selector
            type = bits(0, 15)
            s = bits(4)
            dpl = bits(5, 3)
            present = bits(7)
            avl = bits(12)
            l = bits(13)
            db = bits(14)
            g = bits(15)
            unusable = bits(16)
        }
    }

#endif
