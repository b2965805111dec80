// SPDX-License-Identifier: Apache-2.0
// What the guest does to the machine from inside a time slice: noted here, carried out when the slice is over.

internal import Devices
internal import Hypervisor
internal import Virtio

/// Notes requests of the platform and collects console output. The machine's thread only.
final class MachineEvents: PlatformEvents, SerialSink, ConsolePortSink {
    /// What a processor was asked for by another one.
    enum ProcessorRequest: Equatable {
        case initialize(Int)
        case start(Int, page: UInt8)
        case interruptNonMaskably(Int)
    }

    /// The processor that runs now; it is made to come back when there is something to do.
    var current: (any VirtualCPU)?

    private(set) var resetRequested = false
    private(set) var powerOffRequested = false
    private(set) var processorRequests: [ProcessorRequest] = []
    /// Processors with an interrupt to take.
    private(set) var interrupted: Set<Int> = []

    /// What is looked for in the output of one console.
    private struct Watch {
        /// Non-nil while the machine is to be frozen at a text.
        var trigger: TextMatcher?
        var panic = PanicWatcher()
    }

    private(set) var output: [UInt8] = []
    private(set) var triggerSeen = false
    private var serial: Watch
    private var paravirtual: Watch

    init(trigger: TextMatcher?) {
        serial = Watch(trigger: trigger)
        paravirtual = serial
    }

    var hasRequests: Bool {
        resetRequested || powerOffRequested || triggerSeen || !processorRequests.isEmpty
    }

    /// The reason of the panic since the last reset, if there was one.
    func panicReason() -> String? {
        serial.panic.endLine()
        paravirtual.panic.endLine()
        return serial.panic.reason ?? paravirtual.panic.reason
    }

    // MARK: Consoles

    func transmit(_ byte: UInt8) { take(byte, &serial) }

    /// Ports behind the first one have no reader yet.
    func transmit(_ bytes: [UInt8], port: Int) {
        guard port == 0 else { return }
        for byte in bytes { take(byte, &paravirtual) }
    }

    private func take(_ byte: UInt8, _ watch: inout Watch) {
        output.append(byte)
        watch.panic.take(byte)
        if !triggerSeen, watch.trigger?.take(byte) == true {
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

    func platformRequestsNonMaskableInterrupt(processor index: Int) {
        processorRequests.append(.interruptNonMaskably(index))
        current?.requestExit()
    }

    func platformInterrupts(processor index: Int) { interrupted.insert(index) }

    // MARK: For the machine

    /// Whether the text has appeared; true once, and then it is not looked for any more.
    func takeTrigger() -> Bool {
        guard triggerSeen else { return false }
        triggerSeen = false
        serial.trigger = nil
        paravirtual.trigger = nil
        return true
    }

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
        serial.panic.reset()
        paravirtual.panic.reset()
    }
}
