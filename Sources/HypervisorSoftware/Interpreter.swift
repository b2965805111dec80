// SPDX-License-Identifier: Apache-2.0
// The interpreter: finds or decodes blocks and runs them, one switch over pre-decoded instructions.

import Hypervisor
import X86

extension Core {
    /// Runs until about `slice` instructions are done or the processor stops.
    mutating func run(slice: Int) -> VirtualCPUExit {
        budget = slice
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
            do throws(Fault) { try executeBlocks(single: false) } catch { if error != .interrupted { deliver(error) } }
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
            try executeBlocks(single: true)
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
        mode == .bits64 ? rip : (segmentBase[Int(SegmentIndex.cs)] &+ rip) & 0xffff_ffff
    }

    /// The block at RIP, decoded if it is new.
    @inline(never)
    private mutating func lookUp(_ linear: UInt64) throws(Fault) -> UInt32 {
        let physicalAddress = try fetchFrame(linear) | (linear & 4095)
        if let slot = blocks.find(physicalAddress, mode) {
            blocks.remember(linear, mode, accessSet, slot)
            return slot
        }
        let slot = try decodeBlock(linear, physicalAddress)
        if slot == BlockCache.scratch {
            blocks.forget(linear)
        } else {
            blocks.remember(linear, mode, accessSet, slot)
        }
        return slot
    }

    /// RIP for a near transfer to `target` with operand size `size`.
    @inline(__always)
    private func transferTarget(_ target: UInt64, _ size: UInt8) -> UInt64 {
        size == 8 ? target : size == 4 ? target & 0xffff_ffff : target & 0xffff
    }

    /// Runs blocks from RIP until the time slice ends, the processor's mode may have changed, or, when `single`, for
    /// one instruction. RIP is exact when it returns or throws.
    private mutating func executeBlocks(single: Bool) throws(Fault) {
        /// The jump that led to the block being looked up, if it can be linked.
        var linkFrom: UInt32 = 0
        while true {
            let linear = linearRIP
            let slot: UInt32
            let evictions = blocks.evictions
            if single {
                slot = try decodeSingle(linear)
            } else if let recent = blocks.findRecent(linear, mode, accessSet) {
                slot = recent
            } else {
                slot = try lookUp(linear)
            }
            if linkFrom != 0, slot != BlockCache.scratch, blocks.evictions == evictions {
                // SAFETY: `linkFrom` is the slot of a jump of the block that just ran, and nothing was evicted since.
                unsafe blocks.instruction(linkFrom).pointee.link = slot
            }
            linkFrom = 0
            general[Int(RegisterIndex.pageBase)] = rip &- (linear & 4095)
            // SAFETY: a slot from the cache is followed by its instructions, and the last of them never falls through.
            unsafe budget -= Int(blocks.header(slot).pointee.count)
            var ip = unsafe blocks.instruction(slot &+ 1)
            do throws(Fault) {
                run: while true {
                    switch unsafe ip.pointee.handler {
                    case .endOfBlock:
                        rip = unsafe general[Int(RegisterIndex.pageBase)] &+ UInt64(ip.pointee.pageOffset)
                        break run
                    case .blockInvalid:
                        rip = unsafe general[Int(RegisterIndex.pageBase)] &+ UInt64(ip.pointee.pageOffset)
                        _ = try lookUp(linearRIP)
                        break run
                    case .invalid: throw .invalidOpcode

                    case .integer: unsafe try executeInteger(ip.pointee)
                    case .vector: unsafe try executeVector(ip.pointee)
                    case .x87: unsafe try executeX87(ip.pointee)
                    case .system:
                        rip = unsafe general[Int(RegisterIndex.pageBase)] &+ ip.pointee.nextPageOffset
                        unsafe try executeSystem(ip.pointee)
                        return

                    case .jcc:
                        if unsafe flags.holds(ip.pointee.reg) {
                            unsafe budget += Int(ip.pointee.scale)
                            let link = unsafe ip.pointee.link
                            if link != 0 {
                                // SAFETY: links lead to block headers of this page.
                                unsafe budget -= Int(blocks.header(link).pointee.count)
                                if budget >= 0 {
                                    unsafe ip = blocks.instruction(link &+ 1)
                                    continue run
                                }
                                unsafe budget += Int(blocks.header(link).pointee.count)
                            }
                            unsafe rip = transferTarget(
                                general[Int(RegisterIndex.pageBase)] &+ ip.pointee.immediate, ip.pointee.operandSize)
                            if unsafe ip.pointee.traits.contains(.samePage) { unsafe linkFrom = blocks.slot(of: ip) }
                            break run
                        }
                    case .jmp:
                        let link = unsafe ip.pointee.link
                        if link != 0 {
                            // SAFETY: as for JCC.
                            unsafe budget -= Int(blocks.header(link).pointee.count)
                            if budget >= 0 {
                                unsafe ip = blocks.instruction(link &+ 1)
                                continue run
                            }
                            unsafe budget += Int(blocks.header(link).pointee.count)
                        }
                        unsafe rip = transferTarget(
                            general[Int(RegisterIndex.pageBase)] &+ ip.pointee.immediate, ip.pointee.operandSize)
                        if unsafe ip.pointee.traits.contains(.samePage) { unsafe linkFrom = blocks.slot(of: ip) }
                        break run
                    case .call:
                        let back = unsafe general[Int(RegisterIndex.pageBase)] &+ ip.pointee.nextPageOffset
                        unsafe try pushReturn(back, ip.pointee.operandSize)
                        unsafe rip = transferTarget(
                            general[Int(RegisterIndex.pageBase)] &+ ip.pointee.immediate, ip.pointee.operandSize)
                        break run
                    case .ret:
                        unsafe try executeReturn(ip.pointee)
                        break run
                    case .jmpIndirect:
                        unsafe rip = try indirectTarget(ip.pointee)
                        break run
                    case .callIndirect:
                        let target = unsafe try indirectTarget(ip.pointee)
                        let back = unsafe general[Int(RegisterIndex.pageBase)] &+ ip.pointee.nextPageOffset
                        unsafe try pushReturn(back, ip.pointee.operandSize)
                        rip = target
                        break run
                    case .loop:
                        unsafe rip =
                            executeLoop(ip.pointee)
                            ? transferTarget(
                                general[Int(RegisterIndex.pageBase)] &+ ip.pointee.immediate, ip.pointee.operandSize)
                            : general[Int(RegisterIndex.pageBase)] &+ ip.pointee.nextPageOffset
                        break run
                    case .nop: break
                    default: unsafe try executeHot(ip.pointee)
                    }
                    unsafe ip += 1
                }
            } catch {
                rip = unsafe general[Int(RegisterIndex.pageBase)] &+ UInt64(ip.pointee.pageOffset)
                if error.isNonCanonical, unsafe ip.pointee.accessesStack { throw .stackFault(0) }
                throw error
            }
            if budget < 0 || single { return }
        }
    }

    @inline(__always)
    private mutating func pushReturn(_ address: UInt64, _ size: UInt8) throws(Fault) {
        if size == 8, mode == .bits64 {
            let pointer = general[Int(RegisterIndex.rsp)] &- 8
            do throws(Fault) { try store(address, at: pointer) } catch { throw onStack(error) }
            general[Int(RegisterIndex.rsp)] = pointer
        } else {
            try push(address, size: size)
        }
    }

    @inline(__always)
    private mutating func executeReturn(_ i: DecodedInstruction) throws(Fault) {
        if i.operandSize == 8, mode == .bits64 {
            let pointer = general[Int(RegisterIndex.rsp)]
            rip = try checkedTarget(try load(UInt64.self, at: pointer))
            general[Int(RegisterIndex.rsp)] = pointer &+ 8 &+ i.immediate
        } else {
            rip = try peek(size: i.operandSize)
            drop(UInt64(i.operandSize) &+ i.immediate)
        }
    }

    /// A near transfer to a non-canonical address faults at the transfer.
    @inline(__always)
    private func checkedTarget(_ target: UInt64) throws(Fault) -> UInt64 {
        if !isCanonical(target) { throw .generalProtection(0) }
        return target
    }

    @inline(__always)
    private mutating func indirectTarget(_ i: DecodedInstruction) throws(Fault) -> UInt64 {
        switch i.operandSize {
        case 8: try checkedTarget(try readRM(i, UInt64.self))
        case 4: UInt64(try readRM(i, UInt32.self))
        default: UInt64(try readRM(i, UInt16.self))
        }
    }

    /// LOOP, LOOPE, LOOPNE and JCXZ: whether they jump.
    private mutating func executeLoop(_ i: DecodedInstruction) -> Bool {
        let mask: UInt64 = i.traits.contains(.address16) ? 0xffff : i.traits.contains(.address32) ? 0xffff_ffff : .max
        if i.operation == Operation.jcxz.rawValue { return self[gpr: RegisterIndex.rcx] & mask == 0 }
        let count = (self[gpr: RegisterIndex.rcx] &- 1) & mask
        if mask == 0xffff {
            setRegister(RegisterIndex.rcx, UInt16(truncatingIfNeeded: count))
        } else {
            self[gpr: RegisterIndex.rcx] = count
        }
        if count == 0 { return false }
        if i.operation == Operation.loope.rawValue { return flags.zero }
        return i.operation == Operation.loopne.rawValue ? !flags.zero : true
    }
}
