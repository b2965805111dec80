// SPDX-License-Identifier: Apache-2.0
// What a backend offers the machine, whether a kernel, a framework or software runs the guest.

public import GuestMemory
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

/// Local APICs that the backend has: the platform sends them messages and takes their state.
///
/// Called with the machine's device lock held. State is saved and restored while no processor runs.
public protocol BackendInterrupts: AnyObject {
    /// Told of what the local APICs and processors need from the platform. Not kept alive.
    var platform: (any BackendInterruptsPlatform)? { get set }
    /// Delivers a message-signalled interrupt (Intel SDM volume 3, section 11.11); whether a local APIC took it.
    func deliver(address: UInt64, data: UInt32) -> Bool
    /// The messages of level-triggered lines, at their numbers: the end of their interrupts is told to the platform.
    func setLevelTriggered(_ messages: [InterruptMessageWords?])
    /// The output of the PICs, wired to LINT0.
    func setExternalLine(_ asserted: Bool)
    /// An NMI for every processor.
    func raiseNMI()
    func saveLocalAPIC(_ index: Int) -> LocalAPICState
    /// Takes over a validated state before the processors run the next time.
    func restoreLocalAPIC(_ index: Int, _ state: LocalAPICState)
}

/// A message-signalled interrupt as it is on the bus.
public struct InterruptMessageWords: Equatable, Sendable {
    public var address: UInt64
    public var data: UInt32

    public init(address: UInt64, data: UInt32) {
        self.address = address
        self.data = data
    }
}

/// The platform, for a backend that has the local APICs. Called with the machine's device lock held.
public protocol BackendInterruptsPlatform: AnyObject {
    /// A local APIC finished a level-triggered interrupt.
    func endOfInterrupt(vector: UInt8)
    /// The vector of the PICs for a processor that takes their interrupt.
    func acknowledgeExternal() -> UInt8?
}

/// What surrounds the accesses to devices of processors that run on threads of their own. Any thread.
public protocol DeviceAccess: AnyObject, Sendable {
    /// Takes the machine's device lock.
    func begin()
    /// Gives it back.
    /// - Returns: whether the processor must come back from `run` before it executes the next instruction.
    func end() -> Bool
}

/// A virtual machine of one backend.
public protocol VirtualMachine: AnyObject {
    /// The local APICs of the backend; nil when the processors take those that `makeVirtualCPU` is given.
    var interrupts: (any BackendInterrupts)? { get }
    /// Whether processors run on threads of their own until something is to be done; otherwise `run` comes back after
    /// a time slice, and they take turns.
    var runsConcurrently: Bool { get }
    /// Whether `announceMemoryChanges` works. Where it does not, a snapshot takes a copy-on-write twin of memory.
    var announcesMemoryChanges: Bool { get }
    /// Adds processor `index`, with `interrupts` as its local interrupt controller where the backend has none.
    func makeVirtualCPU(index: Int, interrupts: any LocalInterruptController) throws -> any VirtualCPU
    /// Guest memory has just been frozen: every change from now on is announced to it, page by page, before it happens.
    /// No processor runs during the call.
    func announceMemoryChanges()
    /// Guest time goes on from the present instant of the machine's clock, and processors are about to run.
    func guestTimeStarts() throws
    /// Processors stand: the machine's clock is brought to the time that the guest has seen.
    func guestTimeStops()
    /// Writes of four bytes at `address` set the eventfd `event` instead of reaching the bus; whether the backend can.
    func setNotification(at address: GuestPhysicalAddress, event: Int32) -> Bool
    /// Where processors have used memory last, the latest first, at most `limit` places of at least 64 KiB each; none where
    /// the backend does not know.
    func recentlyUsedMemory(limit: Int) -> [GuestPhysicalAddress]
    /// What it has done, for whoever wants to know where time goes: names and numbers, none where nothing is counted.
    var counts: [(name: String, value: UInt64)] { get }
}

/// A backend whose processors follow `GuestClock`, on the machine's own thread.
extension VirtualMachine {
    public var interrupts: (any BackendInterrupts)? { nil }
    public var runsConcurrently: Bool { false }
    public var announcesMemoryChanges: Bool { true }
    public func guestTimeStarts() {}
    public func guestTimeStops() {}
    public func setNotification(at address: GuestPhysicalAddress, event: Int32) -> Bool { false }
    public func recentlyUsedMemory(limit: Int) -> [GuestPhysicalAddress] { [] }
    public var counts: [(name: String, value: UInt64)] { [] }
}
