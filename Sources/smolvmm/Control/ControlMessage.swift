// SPDX-License-Identifier: Apache-2.0
// What is said on a machine's control socket: one JSON object a line. docs/control-protocol.md.

import Bundle
import Machine

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif
#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// What a client asks.
struct ControlRequest: Codable, Equatable {
    enum Command: String, Codable {
        case status
        case pause
        case resume
        case stop
        case snapshot
        case balloon
        case growDisk
    }

    /// The newest version of the protocol.
    static let version = 1

    var version = Self.version
    var command: Command
    /// For `snapshot`: the bundle, absolute.
    var path: String?
    /// For `snapshot`: images that nobody writes stay outside of the bundle.
    var baseByReference: Bool?
    /// For `snapshot`: the machine ends with it.
    var stop: Bool?
    /// For `balloon`: what the guest shall give back; for `growDisk`: the disk's new size.
    var bytes: UInt64?
    /// For `growDisk`: its id.
    var disk: String?
}

/// What the machine answers: any number of `progress`, then one `result` or `error`.
struct ControlReply: Codable, Equatable {
    enum Event: String, Codable {
        case progress
        case result
        case error
    }

    var event: Event
    /// For `progress`: 0 to 1.
    var fraction: Double?
    /// For `error`: what was refused and what to do.
    var message: String?
    /// For the `result` of `status`.
    var machine: MachineDescription?
    /// For the `result` of `snapshot`.
    var snapshot: SnapshotReport?

    static func error(_ message: String) -> Self { Self(event: .error, message: message) }
    static func progress(_ fraction: Double) -> Self { Self(event: .progress, fraction: fraction) }
    static let done = Self(event: .result)
}

/// What `list` shows of a machine.
struct MachineDescription: Codable, Equatable, Sendable {
    var name: String
    var process: Int32
    var activity: MachineActivity
    var memoryBytes: UInt64
    var cpus: Int
    var cpuModel: String
    /// The kernel that was booted or the bundle that was restored.
    var source: String
    /// When its process started it: seconds since 1970-01-01T00:00:00Z.
    var started: UInt64
}

extension MachineDescription {
    /// A machine that this process is about to run.
    init(_ machine: Machine, source: String) {
        let configuration = machine.configuration
        self.init(
            name: configuration.name, process: getpid(), activity: .starting, memoryBytes: configuration.memoryBytes,
            cpus: configuration.cpus, cpuModel: configuration.cpuModel, source: source,
            started: UInt64(max(0, time(nil))))
    }
}

/// Lines of JSON.
enum ControlCodec {
    /// Longer lines end the conversation.
    static let longestLine = 64 << 10

    /// The value as one line, line feed included.
    static func encode(_ value: some Encodable) throws(CommandError) -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        do { return [UInt8](try encoder.encode(value)) + [UInt8(ascii: "\n")] } catch {
            throw CommandError("a control message has no JSON form")
        }
    }

    private struct Version: Decodable { var version: Int }

    /// A request. Its version is looked at before anything else.
    static func decodeRequest(_ line: [UInt8]) throws(CommandError) -> ControlRequest {
        let version = try decode(line, as: Version.self).version
        guard version == ControlRequest.version else {
            throw CommandError(
                "control protocol version \(version): this machine speaks \(ControlRequest.version); "
                    + "use the smolvmm that started it")
        }
        return try decode(line, as: ControlRequest.self)
    }

    static func decode<Value: Decodable>(_ line: [UInt8], as type: Value.Type) throws(CommandError) -> Value {
        do { return try JSONDecoder().decode(type, from: Data(line)) } catch {
            throw CommandError("a control message was not understood")
        }
    }
}
