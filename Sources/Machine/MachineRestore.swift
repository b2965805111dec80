// SPDX-License-Identifier: Apache-2.0
// A machine out of a bundle. Every value in it is hostile until its layer has validated it.

public import Bundle
internal import Boot
internal import Devices
internal import GuestMemory
internal import Hypervisor
internal import Snapshot
internal import X86

extension Machine {
    /// The machine in `bundle`, named `name` (nil: as it was named), at the instant of its snapshot. Its disks get overlays
    /// in `scratchFolder`, which end with it; its network is the one that it had, but for what `network` says.
    ///
    /// `backend` runs its processors, whichever ran them before.
    ///
    /// A machine comes into being only when every layer has taken its state: when this throws, nothing has run.
    public static func restore(
        _ bundle: BundleReader, name: String? = nil, clock reset: ClockReset = .now,
        network: NetworkChange = .init(), scratchFolder: String, backend: BackendOptions = .init()
    ) throws(MachineError) -> Machine {
        var configuration = bundle.manifest.configuration
        if let name { configuration.name = name }
        try network.apply(to: &configuration)
        _ = try CPUModelName.model(configuration.cpuModel)
        let disks = try loading { () throws(BundleError) in try bundle.openDisks(scratchFolder: scratchFolder) }
        let machine = try Machine(
            configuration, bootFiles: .bundle(bundle), disks: disks, scratchFolder: scratchFolder, trigger: nil,
            backend: backend)
        machine.parent = bundle.manifest.lineage.id
        machine.clockReset = reset
        do throws(BootError) { try BootImage.loadROM(into: machine.memory) } catch { throw .boot("\(error)") }
        // Before the states, so that the first pages are on their way while those are decoded.
        try loading { () throws(BundleError) in try machine.restoreMemory(from: bundle) }
        try machine.restoreStates(from: bundle)
        try machine.enterNewGeneration()
        return machine
    }

    private static func loading<Value>(_ body: () throws(BundleError) -> Value) throws(MachineError) -> Value {
        do throws(BundleError) { return try body() } catch { throw .bundle(error.description) }
    }

    /// Memory is read as it is used; at once where the host cannot tell of that.
    private func restoreMemory(from bundle: BundleReader) throws(BundleError) {
        #if os(Linux)
            let control = control
            lazyMemory = try bundle.fillAsUsed(memory) { control.noteLostMemory() }
            if lazyMemory != nil { return }
        #endif
        try bundle.restoreMemory(into: memory)
    }

    private func restoreStates(from bundle: BundleReader) throws(MachineError) {
        var left = Set(bundle.stateNames)
        func read<State: Decodable>(_ name: String, as type: State.Type) throws(MachineError) -> State {
            left.remove(name)
            return try Self.loading { () throws(BundleError) in
                try decodeState(try bundle.state(named: name), as: type, layer: name)
            }
        }

        let clockState = try read(Layer.clock, as: GuestClock.State.self)
        var processorStates: [CPUState] = []
        for index in processors.indices {
            processorStates.append(try read(Layer.processor(index), as: CPUState.self))
        }
        var platformStates: [String: any Codable & Sendable] = [:]
        var virtioStates: [String: any Codable & Sendable] = [:]
        for name in left.sorted() {
            if let type = virtio.stateType(of: name) {
                virtioStates[name] = try read(name, as: type)
                continue
            }
            guard let type = platform.stateType(of: name) else {
                throw .state(
                    "the bundle has state of a layer '\(name)' that this smolvmm does not know: update smolvmm")
            }
            platformStates[name] = try read(name, as: type)
        }
        do throws(SnapshotError) {
            let restoreVirtio = try virtio.prepare(virtioStates)
            try clock.restoreState(clockState)
            try platform.restoreStates(platformStates)
            restoreVirtio()
            virtio.synchronizeInterrupts()
        } catch {
            throw .state(error.description)
        }
        for (index, state) in processorStates.enumerated() { try setState(state, of: index) }
    }

    /// The guest learns that it is a copy before its first instruction.
    private func enterNewGeneration() throws(MachineError) {
        do throws(GuestMemoryError) { try platform.generation.regenerate() } catch {
            throw .assembly(error.description)
        }
    }
}
