// SPDX-License-Identifier: Apache-2.0
// The time stamp counter and the timers of a processor under KVM. Linux Documentation/virt/kvm/devices/vcpu.rst.

#if os(Linux)

    internal import CHost
    internal import Hypervisor
    internal import X86

    extension KVMVirtualCPU {
        /// Ticks a second of the time stamp counter.
        func frequency() throws(KVMError) -> UInt64 {
            UInt64(try accepted(chost_kvm_get_tsc_khz(descriptor), "the frequency of the time stamp counter")) * 1000
        }

        func setFrequency(_ frequency: UInt64) throws(KVMError) {
            try accepted(
                chost_kvm_set_tsc_khz(descriptor, UInt(frequency / 1000)),
                "a time stamp counter of \(frequency / 1000) kHz")
        }

        var timeStampCounter: UInt64 { readRegister(MSR.timeStampCounter) ?? 0 }

        /// The offset to the host's counter with which this processor's stands at `ticks` now; nil where the kernel has none
        /// to set.
        func timeStampOffset(for ticks: UInt64) -> UInt64? {
            var offset: UInt64 = 0
            // SAFETY: `offset` outlives the call.
            guard unsafe chost_kvm_get_tsc_offset(descriptor, &offset) == 0 else { return nil }
            return offset &+ (ticks &- timeStampCounter)
        }

        /// All processors get the same offset, so that their counters agree; old kernels take the value, and agree within a
        /// second.
        func setTimeStamp(offset: UInt64?, ticks: UInt64) throws(KVMError) {
            if let offset {
                try accepted(chost_kvm_set_tsc_offset(descriptor, offset), "the offset of the time stamp counter")
            } else {
                try writeRegisters([(MSR.timeStampCounter, ticks)])
            }
        }

        /// Takes over a restored local APIC, and sets the deadline anew, which the kernel keeps as host time.
        /// - Parameter now: guest nanoseconds.
        func startTimers(_ now: UInt64) throws(KVMError) {
            standingCount = nil
            if let state = pendingLocalAPIC {
                pendingLocalAPIC = nil
                try setLocalAPIC(state, now: now)
            } else if let deadline = readRegister(MSR.tscDeadline), deadline != 0 {
                try writeRegisters([(MSR.tscDeadline, deadline)])
            }
        }
    }

#endif
