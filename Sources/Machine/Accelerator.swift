// SPDX-License-Identifier: Apache-2.0
// What runs a machine's processors, and the choice of it by measurement.

internal import Bus
internal import GuestMemory
internal import Hypervisor
internal import HypervisorSoftware
internal import X86

#if os(Linux)
    internal import HypervisorKVM
#endif

/// A backend for a machine's processors.
public enum Accelerator: String, CaseIterable, Sendable {
    /// KVM where it runs guests natively, otherwise software.
    case auto
    case kvm
    /// The CPU of smolvmm's own.
    case software

    /// What `auto` means on this host; itself for the others.
    public var resolved: Accelerator {
        guard self == .auto else { return self }
        #if os(Linux)
            return KVMProbe.run().isUsable ? .kvm : .software
        #else
            return .software
        #endif
    }

    /// What this host's KVM is found to be: whether it is of use, why, and what the user can do when it is not.
    public static func examineKVM() -> (isUsable: Bool, finding: String, advice: String?) {
        #if os(Linux)
            switch KVMProbe.run() {
            case .native(let speed):
                return (true, "runs guests on the processor (\(speed) million supervisor instructions a second)", nil)
            case .emulated(let speed):
                return (
                    false, "emulates the guest's kernel (\(speed) million instructions a second), too slow for Linux",
                    "this host is a virtual machine without nested virtualisation: the software CPU is faster here"
                )
            case .incapable(let reason): return (false, "is there, and fails: \(reason)", "use --accel software")
            case .unavailable(let error): return (false, "cannot be used", error.description)
            }
        #else
            return (false, "is Linux's", "this system has none")
        #endif
    }

    /// Makes a virtual machine of this backend, which is not `auto`.
    func makeVirtualMachine(
        memory: GuestMemory, bus: Bus, clock: GuestClock, processors: Int, access: any DeviceAccess
    ) throws -> any VirtualMachine {
        #if os(Linux)
            if self == .kvm {
                return try KVMVirtualMachine(
                    memory: memory, bus: bus, clock: clock, model: .x86_64_v2, processors: processors, access: access)
            }
        #endif
        return SoftwareVirtualMachine(
            memory: memory, bus: bus, clock: clock, model: .x86_64_v2, processors: processors)
    }
}
