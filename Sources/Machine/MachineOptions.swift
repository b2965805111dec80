// SPDX-License-Identifier: Apache-2.0
// What a caller decides about a machine's run that is not part of its configuration.

/// Where the guest's wall clock stands when a restored machine goes on.
public enum ClockReset: Equatable, Sendable {
    /// At the host's wall clock.
    case now
    /// Where it stood when the machine was frozen.
    case keep
    case at(Timestamp)
}

/// The freeze that a text on the console sets off; the machine ends with it.
public struct FreezeTrigger: Sendable {
    /// Not empty.
    public var text: String
    /// Of the bundle.
    public var path: String
    /// 0 to 1; called on the thread that writes.
    public var progress: (@Sendable (Double) -> Void)?

    public init(text: String, path: String, progress: (@Sendable (Double) -> Void)? = nil) {
        self.text = text
        self.path = path
        self.progress = progress
    }
}

/// The CPU models that every machine here can have.
public enum CPUModel {
    public static let known = ["x86-64-v2"]

    static func check(_ name: String) throws(MachineError) {
        guard known.contains(name) else { throw .unknownCPUModel(name, known: known.joined(separator: ", ")) }
    }
}
