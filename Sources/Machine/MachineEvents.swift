// SPDX-License-Identifier: Apache-2.0
// What the guest does to the machine from inside a time slice: noted here, carried out when the slice is over.

internal import Devices
internal import Hypervisor

/// Notes requests of the platform and collects console output. The machine's thread only.
final class MachineEvents: PlatformEvents, SerialSink {
    /// What a processor was asked for by another one.
    enum ProcessorRequest: Equatable {
        case initialize(Int)
        case start(Int, page: UInt8)
    }

    /// The processor that runs now; it is made to come back when there is something to do.
    var current: (any VirtualCPU)?

    private(set) var resetRequested = false
    private(set) var powerOffRequested = false
    private(set) var processorRequests: [ProcessorRequest] = []
    /// Processors with an interrupt to take.
    private(set) var interrupted: Set<Int> = []

    private(set) var output: [UInt8] = []
    /// Non-nil while the machine is to be frozen at a text.
    private var trigger: TextMatcher?
    private(set) var triggerSeen = false
    private var panicWatcher = PanicWatcher()

    init(trigger: TextMatcher?) { self.trigger = trigger }

    var hasRequests: Bool {
        resetRequested || powerOffRequested || triggerSeen || !processorRequests.isEmpty
    }

    /// The reason of the panic since the last reset, if there was one.
    func panicReason() -> String? {
        panicWatcher.endLine()
        return panicWatcher.reason
    }

    // MARK: SerialSink

    func transmit(_ byte: UInt8) {
        output.append(byte)
        panicWatcher.take(byte)
        if !triggerSeen, trigger?.take(byte) == true {
            triggerSeen = true
            current?.requestExit()
        }
    }

    /// Console output since the last call.
    func takeOutput() -> [UInt8] {
        defer { output.removeAll(keepingCapacity: true) }
        return output
    }

    // MARK: PlatformEvents

    func platformRequestsReset() {
        resetRequested = true
        current?.requestExit()
    }

    func platformRequestsPowerOff() {
        powerOffRequested = true
        current?.requestExit()
    }

    func platformRequestsInit(processor index: Int) {
        processorRequests.append(.initialize(index))
        current?.requestExit()
    }

    func platformRequestsStartup(processor index: Int, page: UInt8) {
        processorRequests.append(.start(index, page: page))
        current?.requestExit()
    }

    /// No backend takes one yet.
    func platformRequestsNonMaskableInterrupt(processor index: Int) {}

    func platformInterrupts(processor index: Int) { interrupted.insert(index) }

    // MARK: For the machine

    func takeProcessorRequests() -> [ProcessorRequest] {
        defer { processorRequests.removeAll(keepingCapacity: true) }
        return processorRequests
    }

    /// Whether processor `index` has got an interrupt since the last call.
    func takeInterrupt(_ index: Int) -> Bool { !interrupted.isEmpty && interrupted.remove(index) != nil }

    /// The machine starts anew.
    func reset() {
        resetRequested = false
        processorRequests = []
        interrupted = []
        panicWatcher.reset()
    }
}
