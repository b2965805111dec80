// SPDX-License-Identifier: Apache-2.0
// The local APIC in the kernel and the neutral state of one: its register page. Intel SDM volume 3, table 11-1.

#if os(Linux)

    internal import CHost
    internal import Hypervisor
    internal import X86

    /// The first 1024 bytes of a local APIC's register page; each register fills the first four of sixteen bytes.
    private struct RegisterPage {
        static let size = 1024

        enum Offset {
            static let identification = 0x20
            static let version = 0x30
            static let taskPriority = 0x80
            static let logicalDestination = 0xd0
            static let destinationFormat = 0xe0
            static let spuriousVector = 0xf0
            static let inService = 0x100
            static let levelTriggered = 0x180
            static let requested = 0x200
            static let errorStatus = 0x280
            static let interruptCommandLow = 0x300
            static let interruptCommandHigh = 0x310
            static let lvtTimer = 0x320
            static let lvtThermal = 0x330
            static let lvtPerformance = 0x340
            static let lvtInterrupt0 = 0x350
            static let lvtInterrupt1 = 0x360
            static let lvtError = 0x370
            static let initialCount = 0x380
            static let currentCount = 0x390
            static let divideConfiguration = 0x3e0
        }

        var words = [UInt32](repeating: 0, count: RegisterPage.size / 4)

        subscript(offset: Int) -> UInt32 {
            get { words[offset / 4] }
            set { words[offset / 4] = newValue }
        }

        /// ISR, TMR or IRR: eight registers.
        func vectors(_ offset: Int) -> [UInt32] { (0..<8).map { self[offset + $0 * 16] } }

        mutating func setVectors(_ offset: Int, _ values: [UInt32]) {
            for (index, value) in values.enumerated() { self[offset + index * 16] = value }
        }

        /// Nanoseconds a count of the timer: the kernel's bus clock is 1 GHz.
        var divisor: UInt64 { LocalAPICState.timerDivisor(self[Offset.divideConfiguration]) }

        /// Whether a timer that counts once has counted.
        var hasCountedOnce: Bool {
            self[Offset.lvtTimer] >> 17 & 3 == 0 && self[Offset.initialCount] != 0 && self[Offset.currentCount] == 0
        }
    }

    extension KVMVirtualCPU {
        private func registerPage() throws(KVMError) -> RegisterPage {
            var page = RegisterPage()
            // SAFETY: 1024 bytes, which is what the kernel writes.
            let result = unsafe page.words.withUnsafeMutableBytes {
                unsafe chost_kvm_get_local_apic(descriptor, $0.baseAddress)
            }
            try accepted(result, "to show its local APIC")
            return page
        }

        /// Notes where the timer stands, which the kernel lets run on while the processor stands.
        ///
        /// A timer that counts once and has nothing left may have expired since the processor stands, and then its interrupt
        /// is nowhere in the state that the kernel shows. Entering the processor and leaving it at once delivers it.
        func stopTimer() throws(KVMError) {
            let page = try registerPage()
            standingCount = page[RegisterPage.Offset.currentCount]
            if page.hasCountedOnce {
                try deliverTimers()
            }
        }

        func saveLocalAPIC() -> LocalAPICState {
            if let pendingLocalAPIC { return pendingLocalAPIC }
            var state = LocalAPICState.reset(id: UInt32(index))
            do throws(KVMError) {
                let page = try registerPage()
                state.apicBase = try systemRegisters().apic_base
                state.taskPriority = page[RegisterPage.Offset.taskPriority]
                state.logicalDestination = page[RegisterPage.Offset.logicalDestination]
                state.destinationFormat = page[RegisterPage.Offset.destinationFormat]
                state.spuriousVector = page[RegisterPage.Offset.spuriousVector]
                state.errorStatus = page[RegisterPage.Offset.errorStatus]
                state.inService = page.vectors(RegisterPage.Offset.inService)
                state.requested = page.vectors(RegisterPage.Offset.requested)
                state.levelTriggered = page.vectors(RegisterPage.Offset.levelTriggered)
                state.interruptCommand =
                    UInt64(page[RegisterPage.Offset.interruptCommandHigh]) << 32
                    | UInt64(page[RegisterPage.Offset.interruptCommandLow])
                state.lvtTimer = page[RegisterPage.Offset.lvtTimer]
                state.lvtThermal = page[RegisterPage.Offset.lvtThermal]
                state.lvtPerformance = page[RegisterPage.Offset.lvtPerformance]
                state.lvtInterrupt0 = page[RegisterPage.Offset.lvtInterrupt0]
                state.lvtInterrupt1 = page[RegisterPage.Offset.lvtInterrupt1]
                state.lvtError = page[RegisterPage.Offset.lvtError]
                state.initialCount = page[RegisterPage.Offset.initialCount]
                state.divideConfiguration = page[RegisterPage.Offset.divideConfiguration]
                state.tscDeadline = readRegister(MSR.tscDeadline) ?? 0
                let left = standingCount ?? page[RegisterPage.Offset.currentCount]
                // A periodic timer always runs: with nothing left it has just expired, and its interrupt is on its way.
                if left != 0 || Self.isPeriodic(state), left <= state.initialCount, state.initialCount != 0 {
                    let passed = UInt64(state.initialCount - left) * page.divisor
                    state.timerStart = machine.clock.now - min(passed, machine.clock.now)
                }
            } catch {
                failure = error.description
            }
            return state
        }

        /// - Parameter now: guest nanoseconds.
        func setLocalAPIC(_ state: LocalAPICState, now: UInt64) throws(KVMError) {
            var registers = try systemRegisters()
            registers.apic_base = state.apicBase
            try setSystemRegisters(registers)

            var page = try registerPage()
            page[RegisterPage.Offset.identification] = state.id << 24
            page[RegisterPage.Offset.taskPriority] = state.taskPriority
            page[RegisterPage.Offset.logicalDestination] = state.logicalDestination
            page[RegisterPage.Offset.destinationFormat] = state.destinationFormat
            page[RegisterPage.Offset.spuriousVector] = state.spuriousVector
            page[RegisterPage.Offset.errorStatus] = state.errorStatus
            page.setVectors(RegisterPage.Offset.inService, state.inService)
            page.setVectors(RegisterPage.Offset.requested, state.requested)
            page.setVectors(RegisterPage.Offset.levelTriggered, state.levelTriggered)
            page[RegisterPage.Offset.interruptCommandLow] = UInt32(truncatingIfNeeded: state.interruptCommand)
            page[RegisterPage.Offset.interruptCommandHigh] = UInt32(state.interruptCommand >> 32)
            page[RegisterPage.Offset.lvtTimer] = state.lvtTimer
            page[RegisterPage.Offset.lvtThermal] = state.lvtThermal
            page[RegisterPage.Offset.lvtPerformance] = state.lvtPerformance
            page[RegisterPage.Offset.lvtInterrupt0] = state.lvtInterrupt0
            page[RegisterPage.Offset.lvtInterrupt1] = state.lvtInterrupt1
            page[RegisterPage.Offset.lvtError] = state.lvtError
            page[RegisterPage.Offset.initialCount] = state.initialCount
            page[RegisterPage.Offset.divideConfiguration] = state.divideConfiguration
            page[RegisterPage.Offset.currentCount] = Self.countLeft(state, page.divisor, now: now)
            // SAFETY: 1024 bytes, which is what the kernel reads.
            let result = unsafe page.words.withUnsafeBytes {
                unsafe chost_kvm_set_local_apic(descriptor, $0.baseAddress)
            }
            try accepted(result, "the local APIC")
            if state.tscDeadline != 0 { try writeRegisters([(MSR.tscDeadline, state.tscDeadline)]) }
            // The kernel has no place for an ExtINT message that waits: what sent it was the PICs' line, which still stands.
        }

        private static func isPeriodic(_ state: LocalAPICState) -> Bool { state.lvtTimer >> 17 & 3 == 1 }

        /// TMCCT; at least 1 while the timer runs, so that it expires.
        private static func countLeft(_ state: LocalAPICState, _ divisor: UInt64, now: UInt64) -> UInt32 {
            guard let start = state.timerStart, state.initialCount != 0 else { return 0 }
            let passed = (now >= start ? now - start : 0) / divisor
            let left =
                isPeriodic(state)
                ? UInt64(state.initialCount) - passed % UInt64(state.initialCount)
                : UInt64(state.initialCount) - min(passed, UInt64(state.initialCount) - 1)
            return UInt32(truncatingIfNeeded: left)
        }
    }

#endif
