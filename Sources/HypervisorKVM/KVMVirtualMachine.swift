// SPDX-License-Identifier: Apache-2.0
// A virtual machine of KVM: memory slots, local APICs in the kernel, the guest's clock. Linux Documentation/virt/kvm/api.rst.

#if os(Linux)

    public import Bus
    internal import CHost
    internal import Glibc
    public import GuestMemory
    public import Hypervisor
    internal import Synchronization
    public import X86

    /// A machine whose processors run under KVM.
    ///
    /// The interrupt controllers are split: the local APICs are the kernel's, IOAPIC, PICs and PIT the platform's, so that
    /// their state is the same on every backend and a level-triggered interrupt costs one exit more, at its end.
    public final class KVMVirtualMachine: VirtualMachine, BackendInterrupts {
        public let runsConcurrently = true
        public let announcesMemoryChanges = false
        public weak var platform: (any BackendInterruptsPlatform)?
        public var interrupts: (any BackendInterrupts)? { self }

        let system: KVMSystem
        let descriptor: Int32
        let bus: Bus
        let clock: GuestClock
        let access: any DeviceAccess
        /// Whether the PICs want to interrupt the first processor.
        let externalLine = Atomic<Bool>(false)
        private let memory: GuestMemory
        let model: CPUModel
        private let count: Int
        let supported: CPUIDList
        private let savedRegisters: Set<UInt32>
        private var processors: [KVMVirtualCPU] = []
        private var tscFrequency: UInt64?
        private var announced: [InterruptMessageWords?] = []

        /// Lines of the IOAPIC, whose messages the kernel knows.
        private static let lineCount: UInt64 = 24
        /// Where KVM on processors of Intel has pages of its own while the guest is in real mode: below the ROM.
        private static let identityMap: UInt64 = 0xfeff_c000
        private static let taskState: UInt64 = 0xfeff_d000

        /// - Throws: when this host's KVM is missing, not for this user, or cannot keep the contract of `model`.
        public init(
            memory: GuestMemory, bus: Bus, clock: GuestClock, model: CPUModel, processors: Int, access: any DeviceAccess
        ) throws(KVMError) {
            system = try KVMSystem()
            supported = try system.supportedCPUID()
            try model.check(against: supported)
            savedRegisters = try system.savedRegisters()
            descriptor = try system.createMachine()
            self.memory = memory
            self.bus = bus
            self.clock = clock
            self.model = model
            self.access = access
            count = processors
            try accepted(chost_kvm_set_identity_map(descriptor, Self.identityMap), "the identity map page")
            try accepted(chost_kvm_set_tss_address(descriptor, Self.taskState), "the pages for real mode")
            try accepted(
                chost_kvm_enable(descriptor, UInt32(KVM_CAP_SPLIT_IRQCHIP), Self.lineCount), "local APICs in the kernel"
            )
            // Where the kernel can: what CPUID does not offer is not there, and a failed emulation tells its bytes.
            _ = chost_kvm_enable(descriptor, UInt32(KVM_CAP_EXIT_ON_EMULATION_FAILURE), 1)
            for (slot, region) in memory.regions.enumerated() {
                let flags = region.isWritable ? 0 : UInt32(KVM_MEM_READONLY)
                // SAFETY: the region is mapped for `size` bytes as long as `memory` lives, which this object keeps.
                let result = unsafe chost_kvm_set_memory(
                    descriptor, UInt32(slot), flags, region.start.rawValue, region.size, region.host)
                try accepted(result, "\(region.size >> 20) MiB of guest memory at \(region.start)")
            }
            guard chost_kvm_install_signal() == 0 else { throw .refused(what: "a signal handler", errno: errno) }
        }

        deinit {
            for processor in processors { processor.close() }
            Glibc.close(descriptor)
        }

        public func makeVirtualCPU(index: Int, interrupts: any LocalInterruptController) throws -> any VirtualCPU {
            try makeVirtualCPU(index: index)
        }

        func makeVirtualCPU(index: Int) throws(KVMError) -> KVMVirtualCPU {
            let processor = try KVMVirtualCPU(index: index, machine: self, savedRegisters: savedRegisters)
            let frequency: UInt64
            if let tscFrequency { frequency = tscFrequency } else { frequency = try chooseFrequency(processor) }
            tscFrequency = frequency
            if system.scalesTimeStamps { try processor.setFrequency(frequency) }
            try processor.setCPUID(model.list(index: index, count: count, tscFrequency: frequency))
            processors.append(processor)
            return processor
        }

        /// Nobody is told of changes: the guest's memory is copied on write by the host.
        public func announceMemoryChanges() {}

        public func setNotification(at address: GuestPhysicalAddress, event: Int32) -> Bool {
            chost_kvm_set_notification(descriptor, address.rawValue, event) == 0
        }

        // MARK: Time

        /// 1 GHz where the host's processor can scale its counter, otherwise the host's own frequency.
        private func chooseFrequency(_ processor: KVMVirtualCPU) throws(KVMError) -> UInt64 {
            system.scalesTimeStamps ? GuestClock.standardFrequency : try processor.frequency()
        }

        public func guestTimeStarts() throws {
            try adoptFrequency()
            let now = clock.now
            try accepted(chost_kvm_set_clock(descriptor, now), "the guest's clock")
            let offset = processors.first?.timeStampOffset(for: clock.timeStampCounter(at: now))
            for processor in processors {
                try processor.setTimeStamp(offset: offset, ticks: clock.timeStampCounter(at: now))
                try processor.startTimers(now)
            }
        }

        /// A new machine takes the host's frequency when it must; a restored one asks for its own, and where the host cannot
        /// give it goes on with kvm-clock, which tells the guest of the change.
        private func adoptFrequency() throws(KVMError) {
            guard let current = tscFrequency, current != clock.tscFrequency else { return }
            if clock.now == 0 { return clock.setFrequency(current) }
            for processor in processors where (try? processor.setFrequency(clock.tscFrequency)) == nil { return }
            tscFrequency = clock.tscFrequency
            for (index, processor) in processors.enumerated() {
                try processor.setCPUID(model.list(index: index, count: count, tscFrequency: clock.tscFrequency))
            }
        }

        public func guestTimeStops() {
            var nanoseconds: UInt64 = 0
            // SAFETY: `nanoseconds` outlives the call.
            guard unsafe chost_kvm_get_clock(descriptor, &nanoseconds) == 0, let first = processors.first else {
                return
            }
            clock.set(nanoseconds: nanoseconds, timeStampCounter: first.timeStampCounter)
            for processor in processors {
                do throws(KVMError) { try processor.stopTimer() } catch { processor.failure = error.description }
            }
        }

        // MARK: Interrupts

        public func deliver(address: UInt64, data: UInt32) -> Bool {
            chost_kvm_signal_message(descriptor, address, data) >= 0
        }

        public func setLevelTriggered(_ messages: [InterruptMessageWords?]) {
            guard messages != announced else { return }
            announced = messages
            let entrySize = MemoryLayout<kvm_irq_routing_entry>.stride
            let routes = messages.enumerated().compactMap { line, message in message.map { (line, $0) } }
            var table = [UInt8](repeating: 0, count: 8 + routes.count * entrySize)
            table[0] = UInt8(truncatingIfNeeded: routes.count)
            unsafe table.withUnsafeMutableBytes { bytes in
                guard let start = bytes.baseAddress else { return }
                for (position, (line, message)) in routes.enumerated() {
                    // SAFETY: `position` is below the number of entries that the table has room for.
                    unsafe chost_kvm_message_route(
                        start + 8 + position * entrySize, UInt32(line), UInt32(truncatingIfNeeded: message.address),
                        message.data)
                }
                // A kernel that refuses them has no memory; interrupts of shared lines would then come once only.
                unsafe _ = chost_kvm_set_routes(descriptor, start)
            }
        }

        public func setExternalLine(_ asserted: Bool) {
            guard externalLine.exchange(asserted, ordering: .acquiringAndReleasing) != asserted, asserted else {
                return
            }
            processors.first?.requestExit()
        }

        public func raiseNMI() { for processor in processors { processor.raiseNMI() } }

        public func saveLocalAPIC(_ index: Int) -> LocalAPICState {
            processors.indices.contains(index)
                ? processors[index].saveLocalAPIC() : LocalAPICState.reset(id: UInt32(truncatingIfNeeded: index))
        }

        public func restoreLocalAPIC(_ index: Int, _ state: LocalAPICState) {
            if processors.indices.contains(index) { processors[index].pendingLocalAPIC = state }
        }
    }

#endif
