// SPDX-License-Identifier: Apache-2.0
// One processor under KVM: entering the guest, and what brings it back. Linux Documentation/virt/kvm/api.rst, section 5.

#if os(Linux)

    internal import Bus
    internal import CHost
    internal import Glibc
    internal import GuestMemory
    public import Hypervisor
    internal import Synchronization
    internal import X86

    /// One processor of a `KVMVirtualMachine`. `run` belongs to one thread; state is touched while it does not run.
    @safe public final class KVMVirtualCPU: VirtualCPU {
        let index: Int
        let descriptor: Int32
        /// Model-specific registers that this kernel saves and restores.
        let savedRegisters: Set<UInt32>
        /// For `applyLocalAPIC`: restored, and not in the kernel yet.
        var pendingLocalAPIC: LocalAPICState?
        /// What was left of the local APIC's timer when time stopped; nil while it runs.
        var standingCount: UInt32?
        /// Why the processor cannot run on; `run` says so.
        var failure: String?
        /// The machine outlives its processors' use.
        unowned let machine: KVMVirtualMachine
        /// What the kernel shares with this process; mapped for `runSize` bytes.
        private let shared: UnsafeMutablePointer<kvm_run>
        private let runSize: Int
        /// The host thread inside `run`, or the last one that was.
        private let thread = Atomic<Int32>(0)

        init(index: Int, machine: KVMVirtualMachine, savedRegisters: Set<UInt32>) throws(KVMError) {
            self.index = index
            self.machine = machine
            self.savedRegisters = savedRegisters
            runSize = machine.system.runSize
            descriptor = try accepted(chost_kvm_create_vcpu(machine.descriptor, UInt(index)), "processor \(index)")
            guard let shared = unsafe chost_kvm_map_run(descriptor, runSize) else {
                let code = errno
                Glibc.close(descriptor)
                throw .refused(what: "the memory of processor \(index)", errno: code)
            }
            unsafe self.shared = shared
        }

        /// Has the kernel deliver the interrupts of timers that have expired; no instruction runs.
        func deliverTimers() throws(KVMError) {
            try accepted(unsafe chost_kvm_deliver_timer(descriptor, shared), "to deliver the interrupt of a timer")
        }

        /// Gives back what the kernel holds. The processor is not used afterwards.
        func close() {
            // SAFETY: mapped by `init` with this size, and not used any more.
            unsafe _ = munmap(shared, runSize)
            Glibc.close(descriptor)
        }

        // MARK: Running

        public func run() -> VirtualCPUExit {
            if let failure { return .failed(failure) }
            thread.store(chost_thread_id(), ordering: .sequentiallyConsistent)
            while true {
                if index == 0, machine.externalLine.load(ordering: .acquiring) { injectExternal() }
                if chost_kvm_run(descriptor) < 0 {
                    let code = errno
                    unsafe chost_kvm_clear_request(shared)
                    // Asked to come back, or woken while it waited for its start-up interrupt.
                    if code == EINTR || code == EAGAIN { return .yielded }
                    return .failed("\(KVMError.refused(what: "to run processor \(index)", errno: code))")
                }
                if let exit = handleExit() { return exit }
            }
        }

        public func requestExit() {
            unsafe chost_kvm_request_exit(shared)
            let thread = thread.load(ordering: .sequentiallyConsistent)
            if thread != 0 { _ = chost_kvm_interrupt_thread(thread) }
        }

        /// Hands the PICs' interrupt to the processor, or has it come back when it takes interrupts.
        private func injectExternal() {
            guard unsafe shared.pointee.ready_for_interrupt_injection != 0 else {
                unsafe shared.pointee.request_interrupt_window = 1
                return
            }
            unsafe shared.pointee.request_interrupt_window = 0
            accessDevices {
                if let vector = machine.platform?.acknowledgeExternal() {
                    _ = chost_kvm_interrupt(descriptor, UInt32(vector))
                }
            }
        }

        /// Runs `body` with the devices held.
        private func accessDevices(_ body: () -> Void) {
            machine.access.begin()
            body()
            // The kernel completes the access on the next entry, and comes back at once.
            if machine.access.end() { unsafe chost_kvm_request_exit(shared) }
        }

        /// Does what the guest waits for; an exit when only the machine can.
        private func handleExit() -> VirtualCPUExit? {
            switch Int32(unsafe shared.pointee.exit_reason) {
            case KVM_EXIT_IO: accessPorts()
            case KVM_EXIT_MMIO: accessMemory()
            case KVM_EXIT_IOAPIC_EOI:
                let vector = unsafe chost_kvm_ended_vector(shared)
                accessDevices { machine.platform?.endOfInterrupt(vector: vector) }
            case KVM_EXIT_IRQ_WINDOW_OPEN: break
            case KVM_EXIT_INTR: return .yielded
            case KVM_EXIT_HLT: return .halted
            case KVM_EXIT_SHUTDOWN: return .shutdown
            case KVM_EXIT_FAIL_ENTRY:
                let reason = String(unsafe chost_kvm_entry_failure(shared), radix: 16)
                return .failed(
                    "KVM could not enter the guest at \(place): the processor says 0x\(reason)" + Self.advice)
            case KVM_EXIT_INTERNAL_ERROR: return .failed(internalError())
            case let reason:
                return .failed("KVM left the guest at \(place) for a reason unknown here, \(reason)" + Self.advice)
            }
            return nil
        }

        private func accessPorts() {
            let exit = unsafe chost_kvm_port_exit(shared)
            guard let width = AccessWidth(rawValue: Int(unsafe exit.size)) else { return }
            let port = Port(UInt16(truncatingIfNeeded: unsafe exit.port))
            // SAFETY: the kernel gives `count` items of `size` bytes in the memory that it shares.
            let data = unsafe UnsafeMutableRawBufferPointer(start: exit.data, count: Int(exit.size * exit.count))
            accessDevices {
                for start in stride(from: 0, to: data.count, by: width.rawValue) {
                    // SAFETY: the last item ends where the data does.
                    let item = unsafe UnsafeMutableRawBufferPointer(rebasing: data[start..<start + width.rawValue])
                    if unsafe exit.is_write != 0 {
                        unsafe machine.bus.writePort(port, Self.value(item), width: width)
                    } else {
                        unsafe Self.store(machine.bus.readPort(port, width: width), in: item)
                    }
                }
            }
        }

        private func accessMemory() {
            let exit = unsafe chost_kvm_memory_exit(shared)
            let address = GuestPhysicalAddress(unsafe exit.address)
            // SAFETY: the kernel gives up to eight bytes in the memory that it shares.
            let data = unsafe UnsafeMutableRawBufferPointer(start: exit.data, count: Int(min(exit.size, 8)))
            // An instruction that the kernel emulates can have another width: byte by byte, then.
            let width = AccessWidth(rawValue: data.count) ?? .byte
            accessDevices {
                for start in stride(from: 0, to: data.count, by: width.rawValue) {
                    // SAFETY: the last item ends where the data does.
                    let item = unsafe UnsafeMutableRawBufferPointer(rebasing: data[start..<start + width.rawValue])
                    if unsafe exit.is_write != 0 {
                        unsafe machine.bus.writeMemory(address + UInt64(start), Self.value(item), width: width)
                    } else {
                        unsafe Self.store(machine.bus.readMemory(address + UInt64(start), width: width), in: item)
                    }
                }
            }
        }

        private static func value(_ bytes: UnsafeMutableRawBufferPointer) -> UInt64 {
            unsafe bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
        }

        private static func store(_ value: UInt64, in bytes: UnsafeMutableRawBufferPointer) {
            // SAFETY: `index` is one of the buffer's.
            for index in bytes.indices { unsafe bytes[index] = UInt8(truncatingIfNeeded: value >> UInt64(index * 8)) }
        }

        // MARK: Failures

        private static let advice = "; --accel software runs any guest, and 'smolvmm doctor' tells more of this host"

        private var place: String {
            var registers = kvm_regs()
            // SAFETY: `registers` outlives the call.
            unsafe _ = chost_kvm_get_regs(descriptor, &registers)
            return "0x" + String(registers.rip, radix: 16)
        }

        private func internalError() -> String {
            let error = unsafe chost_kvm_internal_error(shared)
            let kind = unsafe error.kind
            guard kind == UInt32(KVM_INTERNAL_ERROR_EMULATION) else {
                return "KVM gave up at \(place) with internal error \(kind)" + Self.advice
            }
            // SAFETY: the kernel gives at most fifteen bytes in the memory that it shares.
            let bytes = unsafe UnsafeBufferPointer(
                start: error.instruction, count: Int(min(error.instruction_size, 15)))
            let text = unsafe bytes.map { byte in
                let digits = String(byte, radix: 16)
                return digits.count == 1 ? "0" + digits : digits
            }.joined(separator: " ")
            let which = text.isEmpty ? "" : " (bytes \(text))"
            return "KVM cannot emulate the instruction at \(place)\(which)" + Self.advice
        }

        // MARK: Host events

        public func raiseNMI() { _ = chost_kvm_nmi(descriptor) }

        /// Fails on a processor whose guest has no kvm-clock, which then needs not be told.
        public func guestTimeChanged() { _ = chost_kvm_guest_stopped(descriptor) }
    }

#endif
