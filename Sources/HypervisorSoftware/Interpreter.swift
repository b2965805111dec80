// SPDX-License-Identifier: Apache-2.0
// The interpreter's outer loop: events between instructions, and finding or decoding the block at RIP.

import Hypervisor
import X86

extension Core {
    /// Runs until about `slice` instructions are done or the processor stops.
    mutating func run(slice: Int) -> VirtualCPUExit {
        budget = slice
        blocks.synchronize()
        if let event = pendingEvent, activity == .running {
            pendingEvent = nil
            deliver(Event(event))
        }
        while true {
            if failure != nil { break }
            if activity != .running {
                let wakes = pendingNMI || (has(.interrupt) && interrupts.hasPendingInterrupt)
                guard activity == .halted, wakes else { break }
                activity = .running
            }
            let interruptible = !interruptShadow
            if pendingNMI, interruptible, !nmiBlocked {
                pendingNMI = false
                nmiBlocked = true
                deliver(Event(vector: 2, kind: .external))
            } else if has(.interrupt), interruptible, interrupts.hasPendingInterrupt,
                let vector = interrupts.acknowledgeInterrupt()
            {
                deliver(Event(vector: vector, kind: .external))
            }
            if budget < 0 || failure != nil { break }
            step()
        }
        executed &+= UInt64(max(slice - budget, 0))
        if let failure { return .failed(failure) }
        switch activity {
        case .running: return .yielded
        case .shutdown: return .shutdown
        case .halted, .waitingForStartup: return .halted
        }
    }

    /// Runs blocks, or one instruction where the next must be watched, and delivers what it raises.
    private mutating func step() {
        let watching = debug[5] & DebugControl.enabled != 0
        let trapping = has(.trap)
        let single = trapping || watching || (interruptShadow && has(.interrupt) && interrupts.hasPendingInterrupt)
        interruptShadow = false
        guard single else {
            do throws(Fault) { try execute() } catch { if error != .interrupted { deliver(error) } }
            return
        }
        let rest = budget - 1
        if watching {
            watchHits = 0
            if !has(.resume), executionBreakpoint(linearRIP) {
                budget = rest
                return deliver(.debug)
            }
            systemFlags &= ~Flags.resume.rawValue
        }
        budget = 0
        do throws(Fault) {
            try executeBlocks(.instruction)
        } catch {
            budget = rest
            if error != .interrupted { return deliver(error) }
        }
        budget = rest
        if watching, watchHits != 0 { debug[4] |= watchHits }
        if trapping { debug[4] |= DebugStatus.singleStep }
        if trapping || watching && watchHits != 0 { deliver(.debug) }
    }

    /// The linear address of the next instruction.
    var linearRIP: UInt64 {
        mutating get {
            mode == .bits64 ? rip : (segmentBase[Int(SegmentIndex.cs)] &+ rip) & 0xffff_ffff
        }
    }

    /// The block at RIP, decoded if it is new.
    @inline(never)
    mutating func lookUp(_ linear: UInt64) throws(Fault) -> UInt32 {
        let physicalAddress = try fetchFrame(linear) | (linear & 4095)
        let isGlobal = translations.isGlobal(linear, accessSet)
        let former = blocks.findFormer(linear, physicalAddress, mode, accessSet)
        if let slot = former ?? blocks.find(physicalAddress, mode, accessSet) {
            blocks.remember(linear, mode, accessSet, slot, isGlobal: isGlobal)
            return slot
        }
        let slot = try decodeBlock(linear, physicalAddress)
        if slot == BlockCache.scratch {
            blocks.forget(linear)
        } else {
            blocks.remember(linear, mode, accessSet, slot, isGlobal: isGlobal)
        }
        return slot
    }
}
