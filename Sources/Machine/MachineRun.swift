// SPDX-License-Identifier: Apache-2.0
// The machine's life: time slices of its processors, timers, requests of others, waiting when the guest is idle.

internal import Bundle
internal import Devices
internal import GuestMemory
internal import Hypervisor
internal import Virtio
internal import X86

extension Machine {
    /// Runs the machine on the calling thread until it ends.
    public func run() -> MachineEnd {
        applyClockReset()
        control.setActivity(.running)
        var end = virtualMachine.runsConcurrently ? loopConcurrently() : loop()
        // Whatever a guest did whose memory was not whole, that is why.
        if let memoryFailure { end = .failed(memoryFailure) }
        stopTime()
        flushConsole()
        // Somebody may still wait for a snapshot that is being written: the writer only reads memory, let it finish.
        finishFreeze()
        virtio.drain()
        #if os(Linux)
            lazyMemory?.stop()
        #endif
        closingFailures = virtio.close()
        control.close()
        return end
    }

    private func applyClockReset() {
        switch clockReset {
        case .now: clock.advance(toWallClock: GuestClock.hostRealtime())
        case .at(let time): clock.advance(toWallClock: time.nanoseconds)
        case .keep, nil: return
        }
        clockReset = nil
        timeHasJumped = true
    }

    private func loop() -> MachineEnd {
        while true {
            if control.hasMail, let end = handleMail() { return end }
            if isPaused || console.isFull {
                control.wake.wait()
                continue
            }
            if let failure = startTime() { return failure }
            if inputWaits { feedInput() }
            let now = clock.now
            virtio.poll(now: now)
            if let deadline = platform.nextDeadline, deadline <= now { platform.expire(now: now) }

            switch runProcessors() {
            case .none: waitForWork()
            case .some(nil): break
            case .some(let end?): return end
            }
            flushConsole()
            if events.hasRequests, let end = handleEvents() { return end }
        }
    }

    // MARK: Processors

    /// One time slice of each processor that has something to do; nil when none has.
    private func runProcessors() -> MachineEnd?? {
        var ran = false
        for index in processors.indices {
            if events.takeInterrupt(index) { processors[index].isIdle = false }
            guard processors[index].isStarted, !processors[index].isIdle else { continue }
            ran = true
            if let end = runSlice(index) { return .some(end) }
            if events.hasRequests { break }
        }
        return ran ? .some(nil) : nil
    }

    private func runSlice(_ index: Int) -> MachineEnd? {
        let cpu = processors[index].cpu
        platform.currentProcessor = index
        events.current = cpu
        let exit = cpu.run()
        events.current = nil
        statistics.slices += 1
        switch exit {
        case .yielded:
            return nil
        case .halted:
            statistics.halts += 1
            processors[index].isIdle = !platform.localAPICs[index].hasPendingInterrupt
            return nil
        case .shutdown:
            return .tripleFault(processor: index, instructionPointer: cpu.saveState().rip)
        case .failed(let reason):
            return .failed("processor \(index): \(reason)")
        }
    }

    /// Every processor is idle: until the next timer or the next mail.
    private func waitForWork() {
        if let deadline = platform.nextDeadline, deadline <= clock.now { return }
        if virtio.hasWork { return }
        flushConsole()
        let wait = prepareToWait()
        control.wake.wait(nanoseconds: wait.nanoseconds, others: wait.descriptors)
        virtio.hasWaited()
    }

    /// How long to wait at most, from now to the next timer, and the descriptors to wait for.
    func prepareToWait() -> (nanoseconds: UInt64?, descriptors: [Int32]) {
        statistics.waits += 1
        let now = clock.now
        let untilTimer = platform.nextDeadline.map { $0 > now ? $0 - now : 0 }
        let devices = virtio.prepareToWait()
        return ([untilTimer, devices.nanoseconds].compactMap(\.self).min(), devices.descriptors)
    }

    // MARK: What the guest asked for

    func handleEvents() -> MachineEnd? {
        if let trigger, events.takeTrigger(), !prepare(for: trigger) { return freeze(at: trigger) }
        if events.powerOffRequested { return .poweredOff }
        do throws(MachineError) {
            if events.resetRequested {
                if let reason = events.panicReason() { return .panicked(reason: reason) }
                try reboot()
            }
            for request in events.takeProcessorRequests() {
                switch request {
                case .initialize(let index): try initialize(index)
                case .start(let index, let page): try start(index, page: page)
                case .interruptNonMaskably(let index): interruptNonMaskably(index)
                }
            }
        } catch {
            return .failed(error.description)
        }
        return nil
    }

    /// INIT#: as after power-on, but waiting, whichever processor it is. SDM volume 3, section 10.4.
    private func initialize(_ index: Int) throws(MachineError) {
        guard processors.indices.contains(index) else { return }
        var state = CPUState.reset
        state.activity = .waitingForStartup
        try setState(state, of: index)
    }

    /// A start-up interrupt counts only for a processor that waits for one.
    private func start(_ index: Int, page: UInt8) throws(MachineError) {
        guard processors.indices.contains(index), !processors[index].isStarted else { return }
        var state = CPUState.reset
        state.segments[1].selector = UInt16(page) << 8
        state.segments[1].base = UInt64(page) << 12
        state.rip = 0
        try setState(state, of: index)
    }

    private func interruptNonMaskably(_ index: Int) {
        guard processors.indices.contains(index) else { return }
        processors[index].cpu.raiseNMI()
        processors[index].isIdle = false
    }

    // MARK: What others asked for

    func handleMail() -> MachineEnd? {
        inputWaits = true
        var isStopped = false
        var isPrepared = false
        for request in control.takeRequests() {
            switch request {
            case .stop:
                isStopped = true
            case .pause(let done):
                isPaused = true
                updateHold()
                done.deliver(true)
            case .resume(let done):
                isPaused = false
                updateHold()
                done.deliver(true)
            case .snapshot(let order):
                beginFreeze(order)
            case .adjust(let adjustment, let done):
                done.deliver(adjust(adjustment))
            case .memoryLost:
                // `run` says why the machine ends.
                isStopped = true
            case .written(let result):
                endFreeze(result)
            case .prepared:
                isPrepared = true
            }
        }
        if isStopped { return .stopped }
        if isPrepared, let trigger { return freeze(at: trigger) }
        return nil
    }

    /// Stops guest time, which the loop lets go on otherwise, and tells what the machine does, after a change of `isPaused`
    /// or `freeze`.
    func updateHold() {
        if isPaused || freeze?.holdsGuest == true { stopTime() }
        control.setActivity(freeze != nil ? .freezing : isPaused ? .paused : .running)
    }

    // MARK: Console

    func feedInput() {
        let terminal = configuration.console == MachineConsole.hvc0.rawValue ? virtio.console : nil
        let space = terminal?.receiveSpace(port: 0) ?? platform.serial.receiveSpace
        guard space > 0 else { return }
        let (bytes, isMore) = control.takeInput(space)
        if !bytes.isEmpty {
            if let terminal { terminal.receive(bytes, port: 0) } else { platform.serial.receive(bytes) }
        }
        inputWaits = isMore
    }

    func flushConsole() {
        if !events.output.isEmpty { console.put(events.takeOutput()) }
    }
}
