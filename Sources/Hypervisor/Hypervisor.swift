// SPDX-License-Identifier: Apache-2.0
// What a backend offers the machine, whether a kernel, a framework or software runs the guest.

public import Snapshot
public import X86

/// Why a virtual processor came back from `run`.
public enum VirtualCPUExit: Equatable, Sendable {
    /// Its time slice is over, or `requestExit` was called: look at clocks and requests, then run it again.
    case yielded
    /// HLT: nothing to do until an interrupt.
    case halted
    /// A triple fault.
    case shutdown
    /// The backend cannot go on; the text names the instruction, the address and what to do.
    case failed(String)
}

/// One virtual processor. Port and memory-mapped I/O is completed inside `run` through the machine's `Bus`, so that a
/// backend may decode instructions itself or have the kernel do it.
public protocol VirtualCPU: AnyObject {
    /// Runs guest code on the calling thread until there is a reason to come back.
    func run() -> VirtualCPUExit
    /// Makes `run` return soon. Any thread.
    func requestExit()
    func saveState() -> CPUState
    func restoreState(_ state: CPUState) throws(SnapshotError)
    /// Guest time has jumped: brings a paravirtual clock in guest memory up to date.
    func guestTimeChanged()
    /// A non-maskable interrupt.
    func raiseNMI()
}

/// The local interrupt controller as the processor sees it; absent where the backend has its own.
public protocol LocalInterruptController: AnyObject {
    /// Whether an interrupt is deliverable at the current task priority.
    var hasPendingInterrupt: Bool { get }
    /// Takes the deliverable interrupt with the highest priority: its vector, now in service.
    func acknowledgeInterrupt() -> UInt8?
    /// CR8: task priority bits 7 to 4 of the TPR.
    var taskPriorityClass: UInt8 { get set }
    /// IA32_APIC_BASE.
    var apicBase: UInt64 { get set }
    /// IA32_TSC_DEADLINE, in guest TSC ticks; 0 is disarmed.
    var tscDeadline: UInt64 { get set }
}

/// A virtual machine of one backend.
public protocol VirtualMachine: AnyObject {
    /// Adds processor `index`, with `interrupts` as its local interrupt controller where the backend has none.
    func makeVirtualCPU(index: Int, interrupts: any LocalInterruptController) throws -> any VirtualCPU
    /// Guest memory has just been frozen: every change from now on is announced to it, page by page, before it happens.
    /// No processor runs during the call.
    func announceMemoryChanges()
    /// What it has done, for whoever wants to know where time goes: names and numbers, none where nothing is counted.
    var counts: [(name: String, value: UInt64)] { get }
}

extension VirtualMachine {
    public var counts: [(name: String, value: UInt64)] { [] }
}
