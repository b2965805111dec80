// SPDX-License-Identifier: Apache-2.0
// Whether KVM of this host runs guests on the processor itself: some thousand supervisor instructions, and their time.

#if os(Linux)

    internal import Bus
    internal import CFirmware
    internal import CHost
    internal import Glibc
    internal import GuestMemory
    internal import Hypervisor
    internal import X86

    /// What an attempt to use KVM has shown.
    public enum KVMProbe: Equatable, Sendable {
        /// Supervisor code runs on the processor: at this many million instructions a second, or more.
        case native(Int)
        /// Supervisor code is emulated, at this many million instructions a second. Linux would take minutes to boot.
        case emulated(Int)
        /// KVM is there and cannot run the guest; the text says why.
        case incapable(String)
        /// KVM cannot be used at all.
        case unavailable(KVMError)

        /// Whether a stock kernel is better off under KVM than on the software CPU.
        public var isUsable: Bool {
            if case .native = self { true } else { false }
        }

        private static let rounds: UInt64 = 2000
        private static let warmUps = 3
        /// It is tried for this long, in nanoseconds, for something else may have had the processor for a while.
        private static let duration: UInt64 = 20_000_000
        private static let instructionsPerRound: UInt64 = 5
        /// Emulators reach one or two; the slowest processor that runs the guest itself, many hundreds.
        private static let slowestNative = 20
        /// A host that has not answered by then never will.
        private static let patience: Int32 = 500
        private static let memorySize: UInt64 = 2 << 20
        private static let tables: UInt64 = 0x1000
        private static let code: UInt64 = 0x4000
        private static let data: UInt64 = 0x8000

        /// Makes a small virtual machine, and runs it. Takes some milliseconds.
        public static func run() -> KVMProbe {
            do {
                let memory = try GuestMemory(size: memorySize)
                let access = ComesBack()
                let bus = Bus()
                let clock = GuestClock()
                let machine = try KVMVirtualMachine(
                    memory: memory, bus: bus, clock: clock, model: .x86_64, processors: 1, access: access)
                let processor = try machine.makeVirtualCPU(index: 0)
                try place(in: memory)
                let outcome = try measure(processor)
                if outcome.isUsable { try CPUModel.x86_64_v2.check(against: machine.supported) }
                return outcome
            } catch let error as KVMError {
                return .unavailable(error)
            } catch {
                return .incapable("\(error)")
            }
        }

        private static func measure(_ processor: KVMVirtualCPU) throws -> KVMProbe {
            var timer: timer_t?
            // SAFETY: `timer` outlives the call.
            let isTimed = unsafe chost_kvm_interrupt_after(patience, &timer) == 0
            defer { if isTimed { unsafe chost_kvm_cancel_interrupt(timer) } }
            // Single rounds bring page tables and caches up to date, and tell what leaving the guest takes.
            var exit = UInt64.max
            for _ in 0..<warmUps {
                switch try time(processor, rounds: 1) {
                case .success(let nanoseconds): exit = min(exit, nanoseconds)
                case .failure(let reason): return .incapable(reason.text)
                }
            }
            var best = 0
            let start = GuestClock.hostMonotonic()
            repeat {
                switch try time(processor, rounds: rounds) {
                case .success(let nanoseconds):
                    let passed = nanoseconds > exit ? nanoseconds - exit : 1
                    best = max(best, Int(rounds * instructionsPerRound * 1000 / passed))
                case .failure(let reason): return .incapable(reason.text)
                }
                if best >= slowestNative { return .native(best) }
            } while GuestClock.hostMonotonic() - start < duration
            return .emulated(best)
        }

        private struct Reason: Error {
            let text: String
        }

        /// Nanoseconds of `rounds` rounds, with one exit.
        private static func time(_ processor: KVMVirtualCPU, rounds: UInt64) throws -> Result<UInt64, Reason> {
            try processor.restoreState(entry(rounds: rounds))
            let start = GuestClock.hostMonotonic()
            let exit = processor.run()
            let passed = GuestClock.hostMonotonic() - start
            guard passed < UInt64(patience) * 1_000_000 else {
                return .failure(Reason(text: "\(rounds * instructionsPerRound) instructions took too long"))
            }
            switch exit {
            case .yielded: return .success(passed)
            case .failed(let text): return .failure(Reason(text: text))
            case .shutdown, .halted: return .failure(Reason(text: "CMPXCHG16B does not work in supervisor mode"))
            }
        }

        private static func place(in memory: GuestMemory) throws(GuestMemoryError) {
            // One page of 2 MiB, one to one.
            try memory.store(tables + 0x1003, at: GuestPhysicalAddress(tables))
            try memory.store(tables + 0x2003, at: GuestPhysicalAddress(tables + 0x1000))
            try memory.store(UInt64(0x83), at: GuestPhysicalAddress(tables + 0x2000))
            // SAFETY: the code is as long as it says.
            let bytes = unsafe UnsafeRawBufferPointer(start: smolvmm_kvm_probe_start(), count: smolvmm_kvm_probe_size())
            try memory.write(unsafe Array(bytes), at: GuestPhysicalAddress(code))
        }

        /// Long mode, at the code.
        private static func entry(rounds: UInt64) -> CPUState {
            var state = CPUState.reset
            let flat = SegmentState(selector: 16, base: 0, limit: .max, attributes: 0xc093)
            state.segments = Array(repeating: flat, count: 6)
            state.segments[1] = SegmentState(selector: 8, base: 0, limit: .max, attributes: 0xa09b)
            state.cr0 = ControlRegister0.protection | ControlRegister0.extensionType | ControlRegister0.paging
            state.cr3 = tables
            state.cr4 = ControlRegister4.physicalAddressExtension
            state.msr.efer = ExtendedFeatures.longModeEnable | ExtendedFeatures.longModeActive
            state.rip = code
            state.general[6] = rounds
            state.general[7] = data
            return state
        }
    }

    /// Has the processor come back from each access.
    private final class ComesBack: DeviceAccess {
        func begin() {}
        func end() -> Bool { true }
    }

#endif
