// SPDX-License-Identifier: Apache-2.0
// The backends that the same guests are tried on.

import Bus
import GuestMemory
import Hypervisor
import HypervisorSoftware
import Testing
import X86

#if os(Linux)
    import HypervisorKVM
#endif

/// What runs a guest.
enum Backend: String, CaseIterable {
    case software
    case kvm

    /// Those of this host.
    static let allCases: [Backend] = hasKVM ? [.software, .kvm] : [.software]

    /// Those that do what processors do, also in the midst of a fault. A KVM that emulates supervisor code has gaps of its
    /// own, which are not ours to find.
    static let onProcessor: [Backend] = hasNativeKVM ? [.software, .kvm] : [.software]

    static var hasKVM: Bool {
        #if os(Linux)
            if case .unavailable = KVMProbe.run() { return false }
            return true
        #else
            return false
        #endif
    }

    /// Whether this host's KVM runs guests on the processor.
    static var hasNativeKVM: Bool {
        #if os(Linux)
            return KVMProbe.run().isUsable
        #else
            return false
        #endif
    }

    /// Whether there is a backend with processors that have AVX.
    static var hasVectorExtension: Bool {
        #if os(Linux)
            guard hasKVM, let best = try? bestKVMModel() else { return false }
            return best.features.isSuperset(of: CPUModel(.v3).features)
        #else
            return false
        #endif
    }

    /// A machine with one processor.
    func makeMachine(
        memory: GuestMemory, bus: Bus, clock: GuestClock, model: CPUModel = .x86_64
    ) throws -> any VirtualMachine {
        #if os(Linux)
            if self == .kvm {
                return try KVMVirtualMachine(
                    memory: memory, bus: bus, clock: clock, model: model, processors: 1, access: OneThread())
            }
        #endif
        return SoftwareVirtualMachine(memory: memory, bus: bus, clock: clock, model: model, processors: 1)
    }
}

/// Nobody else accesses the devices. The processor comes back from each access, so that the guest is seen to be done.
private final class OneThread: DeviceAccess {
    func begin() {}
    func end() -> Bool { true }
}

struct BackendTests {
    @Test(
        .enabled(
            if: Backend.hasKVM,
            "this host has no KVM, or not for this user: guests are tried on the software CPU only"))
    func `guests are tried under KVM, too`() { #expect(Backend.allCases.contains(.kvm)) }
}
