// SPDX-License-Identifier: Apache-2.0
// What a caller decides about a machine's run that is not part of its configuration.

public import Bundle
internal import X86

/// Where the guest's wall clock stands when a restored machine goes on.
public enum ClockReset: Equatable, Sendable {
    /// At the host's wall clock.
    case now
    /// Where it stood when the machine was frozen.
    case keep
    case at(Timestamp)
}

/// What goes into a bundle.
public struct SnapshotOptions: Equatable, Sendable {
    /// Images under the machine's disks that nobody writes stay outside; the bundle has their paths and hashes.
    public var refersToBases = false
    /// The machine does not go on: it stands from then on, and whoever asked for it stops it when the bundle is written.
    public var endsMachine = false

    public init(refersToBases: Bool = false, endsMachine: Bool = false) {
        self.refersToBases = refersToBases
        self.endsMachine = endsMachine
    }
}

/// The freeze that a text on the console sets off; the machine ends with it.
public struct FreezeTrigger: Sendable {
    /// Not empty.
    public var text: String
    /// Of the bundle.
    public var path: String
    public var options: SnapshotOptions
    /// Makes the guest ready when the text has appeared: called on a thread of its own while the guest goes on, which is
    /// frozen when this returns. Nil: at once.
    public var prepare: (@Sendable (MachineControl) -> Void)?
    /// 0 to 1; called on the thread that writes.
    public var progress: (@Sendable (Double) -> Void)?

    public init(
        text: String, path: String, _ options: SnapshotOptions = .init(),
        prepare: (@Sendable (MachineControl) -> Void)? = nil, progress: (@Sendable (Double) -> Void)? = nil
    ) {
        self.text = text
        self.path = path
        self.options = options
        self.prepare = prepare
        self.progress = progress
    }
}

/// What a copy's network has instead of what is in the bundle. The guest's side, address and MTU, stays.
public struct NetworkChange: Equatable, Sendable {
    /// Nil: as in the bundle.
    public var attachment: NetworkAttachment?
    /// Nil: as in the bundle, or those of `attachment`.
    public var publish: [PublishedPort]?

    public init(attachment: NetworkAttachment? = nil, publish: [PublishedPort]? = nil) {
        self.attachment = attachment
        self.publish = publish
    }

    func apply(to configuration: inout MachineConfiguration) throws(MachineError) {
        guard attachment != nil || publish != nil else { return }
        guard var network = configuration.network else {
            throw .refused("the machine in the bundle has no network: it gets one only when it boots ('boot --net')")
        }
        if let attachment { network.attachment = attachment }
        if let publish {
            if case .user(let allow, _) = network.attachment {
                network.attachment = .user(allow: allow, publish: publish)
            } else if !publish.isEmpty {
                throw .refused("ports can be published for a network of kind 'user' only")
            }
        }
        configuration.network = network
    }
}

/// Virtio devices that a machine has beside its disks.
public enum MachineDevice: String, CaseIterable, Sendable {
    case console
    case entropy
    case balloon
    /// Streams between programs in the guest and on the host.
    case vsock

    /// What new machines have.
    public static let standard = allCases.map(\.rawValue)
}

/// The console that gets what is typed. What the guest says on either is shown.
public enum MachineConsole: String, CaseIterable, Sendable {
    case serial
    /// The virtio console's first port.
    case hvc0
}

/// The names of the CPU models that machines can have: `LEVEL[+FEATURE…]`.
public enum CPUModelName {
    public static let levels = CPUModel.Level.allCases.map(\.rawValue)
    /// What a new machine can have beyond a level.
    public static let features = CPUFeature.allCases.map(\.rawValue)
    /// What a new machine can ask for instead: the best that its backend has. No bundle has this name in it.
    public static let host = "host"
    public static let standard = CPUModel.x86_64_v2.name

    /// What is wrong with a name for a new machine's model; nil when nothing is.
    public static func problem(of name: String) -> String? {
        guard name != host else { return nil }
        do throws(MachineError) { _ = try model(name) } catch { return error.description }
        return nil
    }

    static func model(_ name: String) throws(MachineError) -> CPUModel {
        do throws(CPUModel.UnknownPart) {
            return try CPUModel(name: name)
        } catch {
            let known = error.isLevel ? levels : features
            throw .unknownCPUModel(
                name, part: "\(error.isLevel ? "level" : "feature") '\(error.part.prefix(80))'",
                known: known.joined(separator: ", "))
        }
    }

    /// `name` as a bundle has it: what `host` means on `backend`, and a model's features in order.
    static func resolved(_ name: String, for backend: BackendOptions) throws(MachineError) -> String {
        guard name == host else { return try model(name).name }
        do { return try backend.bestModel().name } catch { throw .assembly("\(error)") }
    }
}
