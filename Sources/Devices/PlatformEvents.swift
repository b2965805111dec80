// SPDX-License-Identifier: Apache-2.0
// What the platform asks of the machine that it is part of.

/// Requests of the guest that only the machine can carry out.
///
/// Called from inside a register access, with the device lock held: note the request, act once `run` is back.
public protocol PlatformEvents: AnyObject {
    /// The whole machine shall restart: a guest reboot.
    func platformRequestsReset()
    /// The guest entered S5.
    func platformRequestsPowerOff()
    /// INIT: processor `index` goes to its reset state and waits for a start-up interrupt. Its local APIC is reset
    /// already.
    func platformRequestsInit(processor index: Int)
    /// Start-up interrupt: processor `index`, if it waits for one, starts in real mode at `page` << 12.
    func platformRequestsStartup(processor index: Int, page: UInt8)
    /// A non-maskable interrupt for processor `index`.
    func platformRequestsNonMaskableInterrupt(processor index: Int)
    /// Processor `index` has got a deliverable interrupt: wake it if it is halted or runs on another thread.
    func platformInterrupts(processor index: Int)
}
