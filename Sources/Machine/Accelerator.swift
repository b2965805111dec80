// SPDX-License-Identifier: Apache-2.0
// What runs a machine's processors, and the choice of it by measurement.

internal import Bus
internal import GuestMemory
internal import Hypervisor
public import HypervisorSoftware
internal import X86

#if os(Linux)
    internal import HypervisorKVM
#endif

/// A backend for a machine's processors.
public enum Accelerator: String, CaseIterable, Sendable {
    /// KVM where it runs guests natively, otherwise software.
    case auto
    case kvm
    /// The CPU of smolvmm's own.
    case software

    /// Finds out what `auto` means on this host. Takes some milliseconds where there is a KVM.
    public static func measured() -> Accelerator { examineKVM().isUsable ? .kvm : .software }

    /// What this host's KVM is found to be: whether it is of use, why, and what the user can do when it is not.
    public static func examineKVM() -> (isUsable: Bool, finding: String, advice: String?) {
        #if os(Linux)
            switch KVMProbe.run() {
            case .native(let speed):
                return (true, "runs guests on the processor (\(speed) million supervisor instructions a second)", nil)
            case .emulated(let speed):
                return (
                    false, "emulates the guest's kernel (\(speed) million instructions a second), too slow for Linux",
                    "this host is a virtual machine without nested virtualisation: the software CPU is faster here"
                )
            case .incapable(let reason): return (false, "is there, and fails", reason)
            case .unavailable(let error): return (false, "cannot be used", error.description)
            }
        #else
            return (false, "is Linux's", "this system has none")
        #endif
    }

    /// The name of the best CPU model that this host's KVM can give guests; nil where KVM cannot be used.
    public static func bestKVMModel() -> String? {
        #if os(Linux)
            return try? HypervisorKVM.bestKVMModel().name
        #else
            return nil
        #endif
    }
}

/// What runs a machine's processors: a choice for this host, which is in no bundle.
public struct BackendOptions: Equatable, Sendable {
    public var accelerator: Accelerator
    /// How the software CPU runs the guest, when it does.
    public var engine: SoftwareEngine
    /// How it translates.
    public var translation: TranslationOptions

    public init(
        accelerator: Accelerator = .auto, engine: SoftwareEngine = .standard,
        translation: TranslationOptions = TranslationOptions()
    ) {
        self.accelerator = accelerator
        self.engine = engine
        self.translation = translation
    }

    /// The backend itself, where the choice is to be made by measurement.
    func chosen() -> BackendOptions {
        var chosen = self
        if accelerator == .auto { chosen.accelerator = Accelerator.measured() }
        return chosen
    }

    /// The best CPU model that this backend has.
    func bestModel() throws -> CPUModel {
        #if os(Linux)
            if accelerator == .kvm { return try HypervisorKVM.bestKVMModel() }
        #endif
        return SoftwareVirtualMachine.bestModel
    }

    /// Makes a virtual machine of this backend.
    func makeVirtualMachine(
        memory: GuestMemory, bus: Bus, clock: GuestClock, model: CPUModel, processors: Int, access: any DeviceAccess
    ) throws -> any VirtualMachine {
        #if os(Linux)
            if chosen().accelerator == .kvm {
                return try KVMVirtualMachine(
                    memory: memory, bus: bus, clock: clock, model: model, processors: processors, access: access)
            }
        #endif
        let missing = model.features.subtracting(SoftwareVirtualMachine.bestModel.features)
        guard missing.isEmpty else {
            throw MachineError.hardwareOnly(
                model: model.name, features: CPUFeature.allCases.filter(missing.contains).map(\.rawValue))
        }
        return SoftwareVirtualMachine(
            memory: memory, bus: bus, clock: clock, model: model, processors: processors, engine: engine,
            translation: translation)
    }
}
