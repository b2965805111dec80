// SPDX-License-Identifier: Apache-2.0
// A running machine into a bundle: state is copied with the guest standing still, another thread writes while it runs.

internal import Bundle
internal import Devices
internal import DiskImage
internal import GuestMemory
internal import Hypervisor
internal import Virtio

extension Machine {
    /// The layers that are the machine's own; the others are the platform's.
    enum Layer {
        static let clock = "clock"
        static func processor(_ index: Int) -> String { "vcpu\(index)" }
    }

    /// Places of 64 KiB that a copy reads before they are used: most of what a guest needs to run a command.
    private static let workingSetLimit = 320

    /// Everything of the machine at this instant, with its memory from `source`. Guest time stands.
    private func frozen(
        memory source: any MemorySource, files: (kernel: [UInt8], initramfs: [UInt8]), options: SnapshotOptions
    ) throws(MachineError) -> FrozenMachine {
        let disks = try virtio.freezeDisks(scratchFolder: scratchFolder, aboveBases: options.refersToBases)
        let requested = GuestClock.hostMonotonic()
        var states: [(name: String, json: [UInt8])] = []
        do throws(BundleError) {
            states.append((Layer.clock, try encodeState(clock.saveState(), layer: Layer.clock)))
            for index in processors.indices {
                let name = Layer.processor(index)
                states.append((name, try encodeState(processors[index].cpu.saveState(), layer: name)))
            }
            for (name, state) in platform.saveStates() + virtio.saveStates() {
                states.append((name, try encodeState(state, layer: name)))
            }
        } catch {
            throw .bundle(error.description)
        }
        var contents = BundleContents(
            configuration: configuration, parent: parent, states: states, kernel: files.kernel,
            initramfs: files.initramfs, memory: source)
        contents.workingSet = virtualMachine.recentlyUsedMemory(limit: Self.workingSetLimit)
        for (index, disk) in disks.enumerated() {
            contents.configuration.disks[index].size = disk.size
            let bases = options.refersToBases ? virtio.disks[index].disk.bases : []
            contents.configuration.disks[index].bases = bases.map { base in
                .init(
                    path: base.path, format: base.format.rawValue, fileBytes: base.contents.size,
                    modified: base.modified)
            }
            contents.disks.append(BundleDiskContents(source: disk, bases: bases.map(\.contents)))
        }
        return FrozenMachine(contents: contents, requested: requested)
    }

    /// Copies state, lets another thread write memory as it is now, and goes on; `endFreeze` follows by mail.
    func beginFreeze(_ order: MachineControl.SnapshotOrder) {
        guard freeze == nil else {
            order.result.deliver(.failure(.busy("another snapshot of it is being written")))
            return
        }
        flushConsole()
        freeze = Freeze(order: order, wasPaused: isPaused)
        if order.options.endsMachine { isPaused = true }
        let files: (kernel: [UInt8], initramfs: [UInt8])
        do throws(MachineError) {
            files = try bootFiles.read()
            if !virtualMachine.announcesMemoryChanges { try readAllMemory() }
        } catch {
            endFreeze(.failure(error))
            return
        }
        let since = GuestClock.hostMonotonic()
        stopTime()
        control.setActivity(.freezing)
        defer { updateHold() }
        do throws(MachineError) {
            // What the guest has asked for and not been told of is done first: no request is in two machines.
            virtio.drain()
            let frozen = try frozen(memory: memoryView(), files: files, options: order.options)
            freeze?.pauseNanoseconds = GuestClock.hostMonotonic() - since
            let control = control
            try HostThread.start {
                control.post(.written(frozen.write(to: order.path, progress: order.progress)))
            }
        } catch {
            endFreeze(.failure(error))
        }
    }

    /// Reads what is still in the bundle that the machine was restored from.
    private func readAllMemory() throws(MachineError) {
        #if os(Linux)
            guard let lazyMemory else { return }
            do throws(BundleError) { try lazyMemory.fillAll() } catch { throw .bundle(error.description) }
        #endif
    }

    /// Why memory could not be read.
    var memoryFailure: String? {
        #if os(Linux)
            return lazyMemory?.failure?.description
        #else
            return nil
        #endif
    }

    /// Memory as it is now, while the guest goes on; where the host has no such view, the guest stands until it is written.
    private func memoryView() -> any MemorySource {
        if virtualMachine.announcesMemoryChanges {
            let view = memory.freeze()
            virtualMachine.announceMemoryChanges()
            return view
        }
        #if os(Linux)
            if let twin = try? MemoryTwin(of: memory) { return twin }
        #endif
        freeze?.holdsGuest = true
        return memory
    }

    /// The bundle is written, or not: the guest goes on either way.
    func endFreeze(_ result: Result<SnapshotReport, MachineError>) {
        guard let ended = freeze else { return }
        freeze = nil
        memory.thaw()
        virtio.thawDisks()
        if case .failure = result, ended.order.options.endsMachine { isPaused = ended.wasPaused }
        updateHold()
        switch result {
        case .success(var report):
            report.pauseNanoseconds = ended.pauseNanoseconds
            parent = report.identifier
            ended.order.result.deliver(.success(report))
        case .failure(let error):
            ended.order.result.deliver(.failure(error))
        }
    }

    /// The machine ends while a snapshot is written: waits for it.
    func finishFreeze() {
        while freeze != nil {
            for request in control.takeRequests() {
                if case .written(let result) = request { endFreeze(result) } else { MachineControl.refuse(request) }
            }
            if freeze != nil { control.wake.wait() }
        }
    }

    /// Has the guest made ready while it goes on; the freeze follows by mail. False when there is nothing to wait for.
    func prepare(for trigger: FreezeTrigger) -> Bool {
        guard let prepare = trigger.prepare else { return false }
        let control = control
        do throws(MachineError) {
            try HostThread.start {
                prepare(control)
                control.post(.prepared)
            }
            return true
        } catch {
            return false
        }
    }

    /// Writes the bundle that a text on the console set off; the machine ends with it.
    func freeze(at trigger: FreezeTrigger) -> MachineEnd {
        flushConsole()
        let since = GuestClock.hostMonotonic()
        stopTime()
        control.setActivity(.freezing)
        do throws(MachineError) {
            virtio.drain()
            var report = try frozen(memory: memory, files: try bootFiles.read(), options: trigger.options).write(
                to: trigger.path, progress: trigger.progress
            ).get()
            report.pauseNanoseconds = GuestClock.hostMonotonic() - since
            return .frozen(report)
        } catch {
            return .failed(error.description)
        }
    }
}
