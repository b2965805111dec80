// SPDX-License-Identifier: Apache-2.0
// Local APICs as layers of a snapshot: those of the platform, and those that the backend has.

internal import Hypervisor
public import Snapshot
public import X86

/// A local APIC whose state is a layer.
public protocol LocalAPICLayer: PlatformDevice where State == LocalAPICState {
    /// The processor's index, which is its APIC id.
    var index: Int { get }
}

extension LocalAPICLayer {
    public func validate(_ state: LocalAPICState) throws(SnapshotError) {
        try check(state.id == UInt32(index), "id", state.id, "\(index)")
        let base = LocalAPICState.reset(id: UInt32(index)).apicBase
        try check(state.apicBase | LocalAPIC.Base.enabled == base, "apicBase", state.apicBase, "\(base) but for bit 11")
        try check("taskPriority", state.taskPriority, within: 0xff)
        try check("logicalDestination", state.logicalDestination, within: 0xff00_0000)
        try check("destinationFormat", ~state.destinationFormat, within: ~LocalAPIC.destinationFormatFixed)
        try check("spuriousVector", state.spuriousVector, within: LocalAPIC.spuriousMask)
        try check("errorStatus", state.errorStatus, within: LocalAPIC.Errors.all.rawValue)
        try check("pendingErrors", state.pendingErrors, within: LocalAPIC.Errors.all.rawValue)
        for (field, words) in [
            ("inService", state.inService), ("requested", state.requested), ("levelTriggered", state.levelTriggered),
        ] {
            try check(words.count == 8, field, words.count, "eight words")
            // Vectors below 16 are never accepted.
            try check(words[0] & 0xffff == 0, field, words[0], "without vectors 0 to 15")
        }
        try check("interruptCommand", state.interruptCommand, within: LocalAPIC.InterruptCommand.writable)
        try check("lvtTimer", state.lvtTimer, within: LocalAPIC.LocalVector.timerWritable)
        try check("lvtThermal", state.lvtThermal, within: LocalAPIC.LocalVector.eventWritable)
        try check("lvtPerformance", state.lvtPerformance, within: LocalAPIC.LocalVector.eventWritable)
        try check(
            "lvtInterrupt0", state.lvtInterrupt0,
            within: LocalAPIC.LocalVector.pinWritable | LocalAPIC.LocalVector.remoteRequest)
        try check("lvtInterrupt1", state.lvtInterrupt1, within: LocalAPIC.LocalVector.pinWritable)
        try check("lvtError", state.lvtError, within: LocalAPIC.LocalVector.errorWritable)
        try check("divideConfiguration", state.divideConfiguration, within: LocalAPICTimer.divideWritable)
        if let start = state.timerStart {
            try check("timerStart", instant: start)
            try check(state.initialCount != 0, "initialCount", state.initialCount, "above 0 while the timer runs")
        }
    }
}

/// The local APIC of one processor where the backend has it.
final class BackendLocalAPIC: LocalAPICLayer {
    let index: Int
    let layerName: String
    private let backend: any BackendInterrupts

    init(index: Int, backend: any BackendInterrupts) {
        self.index = index
        self.backend = backend
        layerName = LocalAPIC.layerName(index)
    }

    func saveState() -> LocalAPICState {
        var state = backend.saveLocalAPIC(index)
        // Bits that hardware may have and no guest of ours can write.
        state.spuriousVector &= LocalAPIC.spuriousMask
        state.errorStatus &= LocalAPIC.Errors.all.rawValue
        state.interruptCommand &= LocalAPIC.InterruptCommand.writable
        state.lvtTimer &= LocalAPIC.LocalVector.timerWritable
        state.lvtThermal &= LocalAPIC.LocalVector.eventWritable
        state.lvtPerformance &= LocalAPIC.LocalVector.eventWritable
        state.lvtInterrupt0 &= LocalAPIC.LocalVector.pinWritable | LocalAPIC.LocalVector.remoteRequest
        state.lvtInterrupt1 &= LocalAPIC.LocalVector.pinWritable
        state.lvtError &= LocalAPIC.LocalVector.errorWritable
        state.divideConfiguration &= LocalAPICTimer.divideWritable
        return state
    }

    func assign(_ state: LocalAPICState) { backend.restoreLocalAPIC(index, state) }

    func reset() { assign(LocalAPICState.reset(id: UInt32(index))) }
}
