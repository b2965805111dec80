// SPDX-License-Identifier: Apache-2.0
// Processors that run at the same time, each on a host thread of its own, and the lock of all devices.

internal import Host
internal import Hypervisor

/// The threads of a machine's processors.
///
/// One lock guards devices, bus, events and everything here. The machine's thread holds it but while it waits; a
/// processor's thread holds it while it accesses a device, and never inside the guest.
final class ProcessorThreads: DeviceAccess, @unchecked Sendable {
    private let monitor = Monitor()
    private var processors: [any VirtualCPU] = []
    /// Threads that have been started, and those of them that stand.
    private var started = 0
    private var standing = 0
    private var isHeld = true
    private var isEnding = false
    /// Why processors cannot go on, in the order in which it happened.
    private var ends: [(processor: Int, exit: VirtualCPUExit)] = []
    /// Called with the lock held after each access to a device; whether the processors shall stand.
    var afterAccess: () -> Bool = { false }
    /// Called with the lock held when a processor cannot go on.
    var processorEnded: () -> Void = {}

    // MARK: The lock

    func lock() { monitor.lock() }
    func unlock() { monitor.unlock() }

    func begin() { monitor.lock() }

    func end() -> Bool {
        if afterAccess() { isHeld = true }
        let mustReturn = isHeld
        monitor.unlock()
        return mustReturn
    }

    // MARK: For the machine's thread, with the lock held

    /// Starts a thread for each of `list`; they stand until `release`.
    func start(_ list: [any VirtualCPU]) throws(MachineError) {
        processors = list
        for index in list.indices {
            try HostThread.start { [self] in runProcessor(index) }
            started += 1
        }
    }

    /// Lets the processors run.
    func release() {
        guard isHeld else { return }
        isHeld = false
        monitor.broadcast()
    }

    /// Returns when no processor runs.
    func hold() {
        isHeld = true
        stop()
    }

    /// Ends all threads; returns when they use the machine no more.
    func finish() {
        isEnding = true
        isHeld = true
        stop()
        monitor.broadcast()
        while started > 0 { monitor.wait() }
    }

    private func stop() {
        guard standing < started else { return }
        for processor in processors { processor.requestExit() }
        while standing < started { monitor.wait() }
    }

    /// The first reason for which a processor cannot go on.
    var firstEnd: (processor: Int, exit: VirtualCPUExit)? { ends.first }

    /// What had ended starts anew.
    func forgetEnds() { ends = [] }

    // MARK: A processor's thread

    private func runProcessor(_ index: Int) {
        let processor = processors[index]
        monitor.lock()
        while !isEnding {
            if isHeld || ends.contains(where: { $0.processor == index }) {
                standing += 1
                monitor.broadcast()
                while !isEnding, isHeld || ends.contains(where: { $0.processor == index }) { monitor.wait() }
                standing -= 1
                continue
            }
            monitor.unlock()
            let exit = processor.run()
            monitor.lock()
            if exit != .yielded {
                ends.append((index, exit))
                processorEnded()
            }
        }
        started -= 1
        monitor.broadcast()
        monitor.unlock()
    }
}
