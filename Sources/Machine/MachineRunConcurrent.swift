// SPDX-License-Identifier: Apache-2.0
// The machine's thread where processors have threads of their own: timers, host events, requests of others.

internal import Devices
internal import Hypervisor
internal import Virtio
internal import X86

/// What the machine's thread knew when it began to wait.
struct MachineWait {
    /// When the next timer is due, in guest nanoseconds.
    var deadline: UInt64?
    /// Disks that had requests under way.
    var busyDisks: UInt64
}

extension Machine {
    /// The loop of `run` for a backend whose processors run concurrently. The device lock is held but while it waits.
    func loopConcurrently() -> MachineEnd {
        threads.lock()
        defer { threads.unlock() }
        threads.afterAccess = { [unowned self] in noticeAccess() }
        threads.processorEnded = { [unowned self] in wakeMachine() }
        defer {
            threads.finish()
            threads.afterAccess = { false }
            threads.processorEnded = {}
        }
        do throws(MachineError) { try threads.start(processors.map(\.cpu)) } catch {
            return .failed(error.description)
        }
        while true {
            if control.hasMail, let end = handleMail() { return end }
            if isPaused || console.isFull || freeze?.holdsGuest == true {
                threads.hold()
                waitUnlocked(nanoseconds: nil, descriptors: [])
                continue
            }
            if events.hasRequests {
                // A reboot sets state, which the backend takes over when time starts.
                stopTime()
                if let end = handleEvents() { return end }
            }
            if let end = threads.firstEnd.map(endOfProcessor) { return end }
            if let failure = startTime() { return failure }
            threads.release()
            if inputWaits { feedInput() }
            notifications?.take()
            let now = clock.now
            virtio.poll(now: now)
            if let deadline = platform.nextDeadline, deadline <= now { platform.expire(now: now) }
            flushConsole()
            guard !events.hasRequests, !virtio.hasWork, threads.firstEnd == nil else { continue }
            let wait = prepareToWait()
            waiting = MachineWait(deadline: platform.nextDeadline, busyDisks: virtio.busyDisks)
            waitUnlocked(
                nanoseconds: wait.nanoseconds,
                descriptors: wait.descriptors + [notifications?.descriptor].compactMap(\.self))
        }
    }

    private func endOfProcessor(_ ended: (processor: Int, exit: VirtualCPUExit)) -> MachineEnd {
        threads.hold()
        switch ended.exit {
        case .failed(let reason): return .failed("processor \(ended.processor): \(reason)")
        case .halted: return .failed("processor \(ended.processor) halted where its local APIC cannot wake it")
        case .shutdown, .yielded:
            let state = processors[ended.processor].cpu.saveState()
            let isReset = state.rip == CPUState.reset.rip && state.segments[1] == CPUState.reset.segments[1]
            return .tripleFault(processor: ended.processor, instructionPointer: isReset ? nil : state.rip)
        }
    }

    /// Lets processors access devices while the machine's thread waits.
    private func waitUnlocked(nanoseconds: UInt64?, descriptors: [Int32]) {
        threads.unlock()
        control.wake.wait(nanoseconds: nanoseconds, others: descriptors)
        threads.lock()
        waiting = nil
        virtio.hasWaited()
    }

    /// A processor has accessed a device: wakes the machine's thread when there is something new for it, such as a packet
    /// for which the host's side of the network has opened a connection. With the lock held.
    private func noticeAccess() -> Bool {
        statistics.accesses += 1
        let isAsked = events.hasRequests
        guard let wait = waiting else { return isAsked }
        if isAsked || !events.output.isEmpty || virtio.hasWork || isEarlier(platform.nextDeadline, wait.deadline)
            || virtio.busyDisks != wait.busyDisks || virtio.network != nil && notifications == nil
        {
            wakeMachine()
        }
        return isAsked
    }

    private func isEarlier(_ new: UInt64?, _ old: UInt64?) -> Bool {
        guard let new else { return false }
        return old.map { new < $0 } ?? true
    }

    /// Once for each wait.
    private func wakeMachine() {
        guard waiting != nil else { return }
        waiting = nil
        control.wake.set()
    }

    // MARK: Guest time

    /// Lets guest time go on, where it stands. Nothing runs yet.
    /// - Returns: the machine's end when the backend cannot.
    func startTime() -> MachineEnd? {
        guard !timeRuns else { return nil }
        do { try virtualMachine.guestTimeStarts() } catch { return .failed("\(error)") }
        clock.resume()
        if timeHasJumped {
            timeHasJumped = false
            for processor in processors { processor.cpu.guestTimeChanged() }
        }
        timeRuns = true
        return nil
    }

    /// Stops processors and guest time.
    func stopTime() {
        guard timeRuns else { return }
        if virtualMachine.runsConcurrently { threads.hold() }
        notifications?.take()
        virtualMachine.guestTimeStops()
        clock.pause()
        timeRuns = false
    }
}
