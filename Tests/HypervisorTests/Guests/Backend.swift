// SPDX-License-Identifier: Apache-2.0
// The backends that the same guests are tried on.

import Bus
import GuestMemory
import Hypervisor
import HypervisorSoftware
import X86

/// What runs a guest.
enum Backend: String, CaseIterable {
    case software

    /// A machine with one processor.
    func makeMachine(memory: GuestMemory, bus: Bus, clock: GuestClock) throws -> any VirtualMachine {
        switch self {
        case .software:
            SoftwareVirtualMachine(memory: memory, bus: bus, clock: clock, model: .x86_64_v2, processors: 1)
        }
    }
}
