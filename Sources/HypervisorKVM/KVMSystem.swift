// SPDX-License-Identifier: Apache-2.0
// The host's KVM: /dev/kvm, and what it offers. Linux Documentation/virt/kvm/api.rst, section 4.

#if os(Linux)

    internal import CHost
    internal import Glibc

    /// An open /dev/kvm whose interface this backend can work with.
    final class KVMSystem {
        /// KVM_CAP_TSC_CONTROL: a guest's time stamp counter can have a frequency of its own.
        let scalesTimeStamps: Bool
        /// Bytes of the structure that a processor shares with the kernel.
        let runSize: Int
        private let descriptor: Int32

        private static let version: Int32 = 12

        /// What must be there, and its name for the user.
        private static let required: [(capability: Int32, name: String)] = [
            (KVM_CAP_USER_MEMORY, "user memory"), (KVM_CAP_SPLIT_IRQCHIP, "the split interrupt controller"),
            (KVM_CAP_IMMEDIATE_EXIT, "immediate exits"), (KVM_CAP_SIGNAL_MSI, "message-signalled interrupts"),
            (KVM_CAP_VCPU_EVENTS, "processor events"), (KVM_CAP_DEBUGREGS, "debug registers"),
            (KVM_CAP_MP_STATE, "processor activity"), (KVM_CAP_ADJUST_CLOCK, "an adjustable clock"),
            (KVM_CAP_READONLY_MEM, "read-only memory"), (KVM_CAP_XSAVE, "XSAVE areas"),
            (KVM_CAP_IOEVENTFD, "event descriptors"), (KVM_CAP_EXT_CPUID, "CPUID models"),
        ]

        init() throws(KVMError) {
            descriptor = chost_kvm_open()
            guard descriptor >= 0 else {
                switch errno {
                case ENOENT, ENXIO, ENODEV: throw .missing
                case EACCES, EPERM: throw .notPermitted
                default: throw .cannotOpen(errno: errno)
                }
            }
            let version = chost_kvm_api_version(descriptor)
            scalesTimeStamps = chost_kvm_check_extension(descriptor, KVM_CAP_TSC_CONTROL) > 0
            runSize = Int(chost_kvm_run_size(descriptor))
            var missing: String?
            for (capability, name) in Self.required where chost_kvm_check_extension(descriptor, capability) <= 0 {
                missing = missing ?? name
            }
            if version != Self.version { throw .unsupportedVersion(version) }
            if let missing { throw .lacks(capability: missing) }
        }

        deinit { close(descriptor) }

        /// A new virtual machine's descriptor.
        func createMachine() throws(KVMError) -> Int32 {
            while true {
                let machine = chost_kvm_create_vm(descriptor)
                if machine >= 0 { return machine }
                // A signal came in between.
                guard errno == EINTR else { throw .refused(what: "a virtual machine", errno: errno) }
            }
        }

        /// What CPUID can say in a guest.
        func supportedCPUID() throws(KVMError) -> CPUIDList {
            var list = CPUIDList(capacity: 256)
            try accepted(
                unsafe list.withBytes { unsafe chost_kvm_supported_cpuid(descriptor, $0) }, "the list of CPU features")
            return list
        }

        /// Model-specific registers that can be saved and restored.
        func savedRegisters() throws(KVMError) -> Set<UInt32> {
            let capacity = 1024
            var words = [UInt32](repeating: 0, count: capacity + 1)
            words[0] = UInt32(capacity)
            // SAFETY: a struct kvm_msr_list: a count, then as many words.
            let result = unsafe words.withUnsafeMutableBytes { unsafe chost_kvm_msr_list(descriptor, $0.baseAddress) }
            try accepted(result, "the list of model-specific registers")
            return Set(words[1...].prefix(Int(words[0])))
        }
    }

#endif
