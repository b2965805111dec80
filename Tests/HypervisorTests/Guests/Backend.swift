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

    /// Whether this host's KVM runs guests on the processor. One that emulates them has gaps of its own, which would be
    /// found here and not ours.
    static var hasKVM: Bool {
        #if os(Linux)
            return KVMProbe.run().isUsable
        #else
            return false
        #endif
    }

    /// A machine with one processor.
    func makeMachine(memory: GuestMemory, bus: Bus, clock: GuestClock) throws -> any VirtualMachine {
        #if os(Linux)
            if self == .kvm {
                return try KVMVirtualMachine(
                    memory: memory, bus: bus, clock: clock, model: .x86_64, processors: 1, access: OneThread())
            }
        #endif
        return SoftwareVirtualMachine(memory: memory, bus: bus, clock: clock, model: .x86_64, processors: 1)
    }
}

/// Nobody else accesses the devices.
private final class OneThread: DeviceAccess {
    func begin() {}
    func end() -> Bool { false }
}

struct BackendTests {
    @Test(
        .enabled(
            if: Backend.hasKVM,
            "this host has no KVM that runs guests on the processor: guests are tried on the software CPU only"))
    func `guests are tried under KVM, too`() { #expect(Backend.allCases.contains(.kvm)) }
}
