// SPDX-License-Identifier: Apache-2.0
// What others may know of a machine: what it does now, how it ended, what a snapshot cost.

public import Bundle

/// What a machine is doing.
public enum MachineActivity: String, Codable, Sendable {
    case starting
    case running
    case paused
    /// Running or paused, while its snapshot is written.
    case freezing
    case ended
}

/// How a machine ended.
public enum MachineEnd: Equatable, Sendable {
    /// The guest powered off.
    case poweredOff
    /// Somebody asked for it.
    case stopped
    /// The text it was to be frozen at has appeared, and the bundle is written.
    case frozen(SnapshotReport)
    /// The guest's kernel panicked, for `reason`.
    case panicked(reason: String)
    /// `instructionPointer` is nil where the host's processor has lost it: AMD's reset a guest that shuts down.
    case tripleFault(processor: Int, instructionPointer: UInt64?)
    /// The machine cannot go on; the text says why.
    case failed(String)
}

/// A snapshot that is written.
public struct SnapshotReport: Codable, Equatable, Sendable {
    public var path: String
    public var identifier: BundleIdentifier
    /// How long the guest stood still.
    public var pauseNanoseconds: UInt64
    /// From the request to the bundle on the disk.
    public var totalNanoseconds: UInt64
    /// True when the machine ends with it.
    public var endsMachine: Bool?
}

/// What the machine has done so far.
public struct MachineStatistics: Equatable, Sendable {
    /// Returns of virtual processors: time slices, and those that ended with a halt.
    public var slices: UInt64 = 0
    public var halts: UInt64 = 0
    /// Times that the machine waited because every processor was idle.
    public var waits: UInt64 = 0
    /// Nanoseconds inside virtual processors.
    public var runNanoseconds: UInt64 = 0
    public var reboots: UInt64 = 0
    /// Accesses to devices, where processors have threads of their own.
    public var accesses: UInt64 = 0

    public init() {}
}
