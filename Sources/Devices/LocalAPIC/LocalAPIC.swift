// SPDX-License-Identifier: Apache-2.0
// The local interrupt controller of one processor, in xAPIC mode. Spec: Intel SDM volume 3, chapter 11.

public import Bus
public import Hypervisor
public import X86

/// One processor's local APIC. `hasPendingInterrupt` is a stored value: every change of a register keeps it right.
public final class LocalAPIC: BusDevice, LocalInterruptController, TimedDevice, LocalAPICLayer {
    // MARK: State

    public typealias State = LocalAPICState

    /// The processor's index, which is its APIC id.
    public let index: Int
    public let layerName: String
    public weak var events: (any PlatformEvents)?
    private weak var fabric: InterruptFabric?
    private let clock: GuestClock

    public var hasPendingInterrupt: Bool { isPending }
    /// Private, so that no access of it is checked when the program runs: the software CPU asks very often.
    private var isPending = false
    public private(set) var nextDeadline: UInt64?

    private var base: UInt64
    private var taskPriority: UInt32 = 0
    private var logicalDestination: UInt32 = 0
    private var destinationFormat = LocalAPIC.flatModel
    private var spuriousVector: UInt32 = 0xff
    private var errorStatus: UInt32 = 0
    private var pendingErrors: Errors = []
    private var inService = VectorSet()
    private var requested = VectorSet()
    private var levelTriggered = VectorSet()
    private var interruptCommand: UInt64 = 0
    private var lvtTimer = LocalVector(rawValue: LocalVector.masked)
    private var lvtThermal = LocalVector(rawValue: LocalVector.masked)
    private var lvtPerformance = LocalVector(rawValue: LocalVector.masked)
    private var lvtInterrupt0 = LocalVector(rawValue: LocalVector.masked)
    private var lvtInterrupt1 = LocalVector(rawValue: LocalVector.masked)
    private var lvtError = LocalVector(rawValue: LocalVector.masked)
    private var timer = LocalAPICTimer()
    /// An ExtINT message waits to be taken.
    private var externalPending = false
    /// The level of LINT0, which the PICs drive: their state, not ours.
    private var interrupt0Level = false

    init(index: Int, clock: GuestClock, fabric: InterruptFabric) {
        self.index = index
        self.clock = clock
        self.fabric = fabric
        layerName = Self.layerName(index)
        base = LocalAPICState.reset(id: UInt32(index)).apicBase
    }

    static func layerName(_ index: Int) -> String { "apic\(index)" }

    private var isEnabled: Bool { base & Base.enabled != 0 }
    /// Bit 8 of the spurious vector register; without it only INIT, NMI and start-up messages are taken.
    public var isSoftwareEnabled: Bool { isEnabled && spuriousVector & Self.softwareEnable != 0 }

    /// PPR: the task's priority or that of the interrupt in service, whichever is higher.
    public var processorPriority: UInt8 {
        let task = UInt8(truncatingIfNeeded: taskPriority)
        let service = UInt8(max(inService.highest, 0))
        return task >> 4 >= service >> 4 ? task : service & 0xf0
    }

    /// Whether the PICs' interrupt reaches the processor.
    private var isExternalDeliverable: Bool {
        if externalPending { return true }
        guard interrupt0Level else { return false }
        // With the local APIC off, LINT0 is the processor's INTR pin.
        return !isEnabled || !lvtInterrupt0.isMasked && lvtInterrupt0.delivery == .external
    }

    /// Whether the highest request is above the processor's priority.
    private var isRequestDeliverable: Bool {
        isEnabled && requested.highest >> 4 > Int(processorPriority >> 4)
    }

    private func updatePending() {
        let pending = isRequestDeliverable || isExternalDeliverable
        guard pending != isPending else { return }
        isPending = pending
        if pending { events?.platformInterrupts(processor: index) }
    }

    private func updateDeadline() {
        // What would be masked is caught up with when somebody looks.
        nextDeadline = lvtTimer.isMasked ? nil : timer.deadline
    }

    // MARK: Guest access: processor

    public var taskPriorityClass: UInt8 {
        get { UInt8(taskPriority >> 4 & 0xf) }
        set {
            taskPriority = UInt32(newValue & 0xf) << 4
            updatePending()
        }
    }

    /// IA32_APIC_BASE. The register page cannot be moved and x2APIC mode is not offered: those bits are ignored.
    public var apicBase: UInt64 {
        get { base }
        set {
            let wasEnabled = isEnabled
            base = base & ~Base.enabled | newValue & Base.enabled
            if wasEnabled, !isEnabled { resetRegisters() }
            updatePending()
        }
    }

    public var tscDeadline: UInt64 {
        get {
            synchronizeTimer(clock.now)
            return timer.tscDeadline
        }
        set {
            timer.setDeadline(newValue, instant: clock.nanoseconds(ofTimeStamp: newValue))
            synchronizeTimer(clock.now)
        }
    }

    public func acknowledgeInterrupt() -> UInt8? {
        if isExternalDeliverable {
            externalPending = false
            let vector = fabric?.acknowledgeExternal()
            updatePending()
            return vector
        }
        guard isRequestDeliverable else { return nil }
        let vector = UInt8(requested.highest)
        requested.remove(vector)
        inService.insert(vector)
        updatePending()
        return vector
    }

    // MARK: Guest access: registers

    public func read(offset: UInt64, width: AccessWidth) -> UInt64 {
        guard isEnabled else { return width.openBus }
        // Each register fills the first four of its sixteen bytes.
        guard offset & 0xf < 4 else { return 0 }
        return UInt64(readRegister(offset & ~0xf)) >> ((offset & 3) * 8)
    }

    public func write(_ value: UInt64, offset: UInt64, width: AccessWidth) {
        // Only aligned 32-bit writes are defined; others do nothing.
        guard isEnabled, offset & 0xf == 0, width == .doubleWord else { return }
        writeRegister(offset, UInt32(truncatingIfNeeded: value))
    }

    private func readRegister(_ offset: UInt64) -> UInt32 {
        switch offset {
        case VectorRegister.inService: return inService[word: Int(offset >> 4 & 7)]
        case VectorRegister.levelTriggered: return levelTriggered[word: Int(offset >> 4 & 7)]
        case VectorRegister.requested: return requested[word: Int(offset >> 4 & 7)]
        default: break
        }
        switch Register(rawValue: offset) {
        case .identification: return UInt32(index) << 24
        case .version: return Self.versionValue
        case .taskPriority: return taskPriority
        case .arbitrationPriority, .processorPriority: return UInt32(processorPriority)
        case .endOfInterrupt, .remoteRead: return 0
        case .logicalDestination: return logicalDestination
        case .destinationFormat: return destinationFormat
        case .spuriousVector: return spuriousVector
        case .errorStatus: return errorStatus
        case .interruptCommandLow: return UInt32(truncatingIfNeeded: interruptCommand)
        case .interruptCommandHigh: return UInt32(interruptCommand >> 32)
        case .lvtTimer: return lvtTimer.rawValue
        case .lvtThermal: return lvtThermal.rawValue
        case .lvtPerformance: return lvtPerformance.rawValue
        case .lvtInterrupt0: return lvtInterrupt0.rawValue
        case .lvtInterrupt1: return lvtInterrupt1.rawValue
        case .lvtError: return lvtError.rawValue
        case .initialCount: return timer.initialCount
        case .currentCount:
            let now = clock.now
            synchronizeTimer(now)
            return timer.currentCount(at: now)
        case .divideConfiguration: return timer.divideConfiguration
        case nil:
            note(.illegalRegister)
            return 0
        }
    }

    private func writeRegister(_ offset: UInt64, _ value: UInt32) {
        switch Register(rawValue: offset) {
        case .endOfInterrupt: endInterrupt()
        case .taskPriority:
            taskPriority = value & 0xff
            updatePending()
        case .interruptCommandLow:
            interruptCommand = interruptCommand & ~0xffff_ffff | UInt64(value) & InterruptCommand.writable
            sendCommand()
        case .interruptCommandHigh:
            interruptCommand = interruptCommand & 0xffff_ffff | UInt64(value) << 32 & InterruptCommand.writable
        case .logicalDestination: logicalDestination = value & 0xff00_0000
        case .destinationFormat: destinationFormat = value | Self.destinationFormatFixed
        case .spuriousVector:
            spuriousVector = value & Self.spuriousMask
            if !isSoftwareEnabled { maskLocalVectors() }
        case .errorStatus:
            // Writing shows what has come up since the last write.
            errorStatus = pendingErrors.rawValue
            pendingErrors = []
        case .lvtTimer: writeTimerVector(value)
        case .lvtThermal: lvtThermal = localVector(value, LocalVector.eventWritable)
        case .lvtPerformance: lvtPerformance = localVector(value, LocalVector.eventWritable)
        case .lvtInterrupt0:
            let waiting = lvtInterrupt0.rawValue & LocalVector.remoteRequest
            lvtInterrupt0 = localVector(value, LocalVector.pinWritable)
            if lvtInterrupt0.isLevelTriggered { lvtInterrupt0.rawValue |= waiting }
            if interrupt0Level, lvtInterrupt0.isLevelTriggered { raiseLocalInterrupt0() }
            updatePending()
        case .lvtInterrupt1: lvtInterrupt1 = localVector(value, LocalVector.pinWritable)
        case .lvtError: lvtError = localVector(value, LocalVector.errorWritable)
        case .initialCount:
            timer.setInitialCount(value, now: clock.now)
            updateDeadline()
        case .divideConfiguration:
            let now = clock.now
            synchronizeTimer(now)
            timer.setDivideConfiguration(value, now: now)
            updateDeadline()
        case .identification, .version, .arbitrationPriority, .processorPriority, .remoteRead, .currentCount:
            break  // Read-only.
        case nil:
            // IRR, ISR and TMR are read-only too.
            if !(VectorRegister.inService.lowerBound..<VectorRegister.requested.upperBound).contains(offset) {
                note(.illegalRegister)
            }
        }
    }

    /// An entry as written; while the APIC is disabled by software the mask bit stays set.
    private func localVector(_ value: UInt32, _ writable: UInt32) -> LocalVector {
        LocalVector(rawValue: value & writable | (isSoftwareEnabled ? 0 : LocalVector.masked))
    }

    private func maskLocalVectors() {
        synchronizeTimer(clock.now)
        lvtTimer.rawValue |= LocalVector.masked
        lvtThermal.rawValue |= LocalVector.masked
        lvtPerformance.rawValue |= LocalVector.masked
        lvtInterrupt0.rawValue |= LocalVector.masked
        lvtInterrupt1.rawValue |= LocalVector.masked
        lvtError.rawValue |= LocalVector.masked
        updateDeadline()
        updatePending()
    }

    private func writeTimerVector(_ value: UInt32) {
        // What expired under the old entry belongs to it.
        synchronizeTimer(clock.now)
        lvtTimer = localVector(value, LocalVector.timerWritable)
        timer.setMode(lvtTimer.timerMode)
        updateDeadline()
    }

    private func endInterrupt() {
        guard inService.highest >= 0 else { return }
        let vector = UInt8(inService.highest)
        inService.remove(vector)
        if levelTriggered.contains(vector) {
            if lvtInterrupt0.remoteRequest, lvtInterrupt0.vector == vector {
                lvtInterrupt0.rawValue &= ~LocalVector.remoteRequest
                if interrupt0Level { raiseLocalInterrupt0() }
            }
            fabric?.endOfInterrupt(vector: vector)
        }
        updatePending()
    }

    private func sendCommand() {
        let command = InterruptCommand(rawValue: interruptCommand)
        let message = command.message
        switch message.delivery {
        case .fixed, .lowestPriority:
            if message.vector < 16 { return note(.sendIllegalVector) }
        case .nonMaskable, .initialize, .startup: break
        case .systemManagement, .external, .reserved: return  // Nothing here takes them.
        }
        // A self-interrupt, and any other that is not INIT, is edge-triggered whatever the register says.
        var sent = message
        sent.isLevelTriggered = message.delivery == .initialize && message.isLevelTriggered
        fabric?.send(sent, shorthand: command.shorthand, from: self)
    }

    private func note(_ error: Errors) {
        let isNew = !pendingErrors.contains(error)
        pendingErrors.insert(error)
        if isNew, !lvtError.isMasked { accept(lvtError.vector, isLevelTriggered: false) }
    }

    // MARK: Host events: interrupts

    /// Whether `message`, which names its destination itself, is for this processor.
    func isAddressed(by message: InterruptMessage) -> Bool {
        let destination = UInt32(message.destination)
        if destination == 0xff { return true }
        guard message.isLogical else { return destination == UInt32(index) }
        let own = logicalDestination >> 24
        if destinationFormat == Self.flatModel { return own & destination != 0 }
        // Cluster model: the cluster in the high half, its members in the low half.
        return own >> 4 == destination >> 4 && own & destination & 0xf != 0
    }

    /// Takes a message from the fabric. Returns whether it was accepted.
    func receive(_ message: InterruptMessage) -> Bool {
        guard isEnabled else { return false }
        switch message.delivery {
        case .fixed, .lowestPriority:
            guard isSoftwareEnabled else { return false }
            return accept(message.vector, isLevelTriggered: message.isLevelTriggered)
        case .nonMaskable: events?.platformRequestsNonMaskableInterrupt(processor: index)
        case .initialize:
            // De-asserting INIT only synchronized the arbitration of old processors.
            guard message.isAsserted || !message.isLevelTriggered else { return true }
            resetRegisters()
            events?.platformRequestsInit(processor: index)
        case .startup: events?.platformRequestsStartup(processor: index, page: message.vector)
        case .external:
            externalPending = true
            updatePending()
        case .systemManagement, .reserved: return false
        }
        return true
    }

    @discardableResult private func accept(_ vector: UInt8, isLevelTriggered: Bool) -> Bool {
        guard vector >= 16 else {
            // The error interrupt's own vector may be the illegal one: no second interrupt for that.
            pendingErrors.insert(.receiveIllegalVector)
            return false
        }
        if isLevelTriggered { levelTriggered.insert(vector) } else { levelTriggered.remove(vector) }
        requested.insert(vector)
        updatePending()
        return true
    }

    /// The level of LINT0, driven by the PICs.
    func setLocalInterrupt0(_ asserted: Bool) {
        guard asserted != interrupt0Level else { return }
        interrupt0Level = asserted
        if asserted { raiseLocalInterrupt0() }
        updatePending()
    }

    func synchronizeLocalInterrupt0(_ asserted: Bool) {
        interrupt0Level = asserted
        updatePending()
    }

    /// What an asserted LINT0 does when it is not simply passed on to the processor.
    private func raiseLocalInterrupt0() {
        guard isEnabled, !lvtInterrupt0.isMasked else { return }
        switch lvtInterrupt0.delivery {
        case .fixed:
            if lvtInterrupt0.isLevelTriggered {
                guard !lvtInterrupt0.remoteRequest else { return }
                lvtInterrupt0.rawValue |= LocalVector.remoteRequest
            }
            accept(lvtInterrupt0.vector, isLevelTriggered: lvtInterrupt0.isLevelTriggered)
        case .nonMaskable: events?.platformRequestsNonMaskableInterrupt(processor: index)
        case .lowestPriority, .systemManagement, .reserved, .initialize, .startup, .external: break
        }
    }

    /// An edge on LINT1, the NMI pin of a PC.
    public func pulseLocalInterrupt1() {
        guard isEnabled else {
            events?.platformRequestsNonMaskableInterrupt(processor: index)
            return
        }
        guard !lvtInterrupt1.isMasked else { return }
        switch lvtInterrupt1.delivery {
        case .nonMaskable: events?.platformRequestsNonMaskableInterrupt(processor: index)
        case .fixed: accept(lvtInterrupt1.vector, isLevelTriggered: false)
        case .lowestPriority, .systemManagement, .reserved, .initialize, .startup, .external: break
        }
    }

    // MARK: Host events: time

    public func expire(now: UInt64) { synchronizeTimer(now) }

    private func synchronizeTimer(_ now: UInt64) {
        if timer.advance(to: now), !lvtTimer.isMasked { accept(lvtTimer.vector, isLevelTriggered: false) }
        updateDeadline()
    }

    // MARK: Save and restore

    public func reset() {
        base = LocalAPICState.reset(id: UInt32(index)).apicBase
        resetRegisters()
    }

    /// What INIT does: all but the id and IA32_APIC_BASE.
    private func resetRegisters() {
        var state = LocalAPICState.reset(id: UInt32(index))
        state.apicBase = base
        assign(state)
    }

    public func saveState() -> LocalAPICState {
        var state = LocalAPICState.reset(id: UInt32(index))
        state.apicBase = base
        state.taskPriority = taskPriority
        state.logicalDestination = logicalDestination
        state.destinationFormat = destinationFormat
        state.spuriousVector = spuriousVector
        state.errorStatus = errorStatus
        state.pendingErrors = pendingErrors.rawValue
        state.inService = inService.array
        state.requested = requested.array
        state.levelTriggered = levelTriggered.array
        state.interruptCommand = interruptCommand
        state.lvtTimer = lvtTimer.rawValue
        state.lvtThermal = lvtThermal.rawValue
        state.lvtPerformance = lvtPerformance.rawValue
        state.lvtInterrupt0 = lvtInterrupt0.rawValue
        state.lvtInterrupt1 = lvtInterrupt1.rawValue
        state.lvtError = lvtError.rawValue
        state.initialCount = timer.initialCount
        state.divideConfiguration = timer.divideConfiguration
        state.timerStart = timer.start
        state.tscDeadline = timer.tscDeadline
        state.externalPending = externalPending
        return state
    }

    public func assign(_ state: LocalAPICState) {
        base = state.apicBase
        taskPriority = state.taskPriority
        logicalDestination = state.logicalDestination
        destinationFormat = state.destinationFormat
        spuriousVector = state.spuriousVector
        errorStatus = state.errorStatus
        pendingErrors = Errors(rawValue: state.pendingErrors)
        inService = VectorSet(words: state.inService)
        requested = VectorSet(words: state.requested)
        levelTriggered = VectorSet(words: state.levelTriggered)
        interruptCommand = state.interruptCommand
        lvtTimer = LocalVector(rawValue: state.lvtTimer)
        lvtThermal = LocalVector(rawValue: state.lvtThermal)
        lvtPerformance = LocalVector(rawValue: state.lvtPerformance)
        lvtInterrupt0 = LocalVector(rawValue: state.lvtInterrupt0)
        lvtInterrupt1 = LocalVector(rawValue: state.lvtInterrupt1)
        lvtError = LocalVector(rawValue: state.lvtError)
        timer = LocalAPICTimer(
            mode: lvtTimer.timerMode, initialCount: state.initialCount,
            divideConfiguration: state.divideConfiguration, start: state.timerStart, deadline: state.tscDeadline,
            instant: clock.nanoseconds(ofTimeStamp: state.tscDeadline))
        externalPending = state.externalPending
        updatePending()
        updateDeadline()
    }
}
