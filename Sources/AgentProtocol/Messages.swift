// SPDX-License-Identifier: Apache-2.0
// Payloads of frames that have fields. Compiled into host and guest.

/// The host's first frame in every conversation.
public struct Hello: Equatable, Sendable {
    public var version = AgentProtocol.version
    /// What the guest's clock is set to when it is wrong: nanoseconds since 1970; 0 leaves it alone.
    public var wallClock: UInt64
    /// Random bytes of the host's, stirred into the guest's pool.
    public var entropy: [UInt8]

    public init(wallClock: UInt64, entropy: [UInt8]) {
        self.wallClock = wallClock
        self.entropy = entropy
    }

    public var frame: Frame {
        var fields = FieldWriter()
        fields.add(version)
        fields.add(wallClock)
        fields.add(entropy)
        return Frame(.hello, fields.bytes)
    }

    /// What follows the version may have another form in another version.
    public static func version(of payload: [UInt8]) throws(FrameError) -> UInt16 {
        var fields = FieldReader(payload)
        return try fields.read(UInt16.self)
    }

    public init(_ payload: [UInt8]) throws(FrameError) {
        var fields = FieldReader(payload)
        version = try fields.read(UInt16.self)
        wallClock = try fields.read(UInt64.self)
        entropy = try fields.readText()
        try fields.finish()
    }
}

/// The agent's answer.
public struct Greeting: Equatable, Sendable {
    public var version = AgentProtocol.version
    /// The guest's own start script, if it has one, has ended.
    public var isReady: Bool

    public init(isReady: Bool) { self.isReady = isReady }

    public var frame: Frame {
        var fields = FieldWriter()
        fields.add(version)
        fields.add(UInt8(isReady ? 1 : 0))
        return Frame(.greeting, fields.bytes)
    }

    public init(_ payload: [UInt8]) throws(FrameError) {
        var fields = FieldReader(payload)
        version = try fields.read(UInt16.self)
        isReady = try fields.read(UInt8.self) != 0
        try fields.finish()
    }
}

/// A terminal's size in characters.
public struct WindowSize: Equatable, Sendable {
    public var columns: UInt16
    public var rows: UInt16

    public init(columns: UInt16, rows: UInt16) {
        self.columns = columns
        self.rows = rows
    }

    public var frame: Frame {
        var fields = FieldWriter()
        fields.add(columns)
        fields.add(rows)
        return Frame(.resize, fields.bytes)
    }

    public init(_ payload: [UInt8]) throws(FrameError) {
        var fields = FieldReader(payload)
        columns = try fields.read(UInt16.self)
        rows = try fields.read(UInt16.self)
        try fields.finish()
    }
}

/// A command to run.
public struct Execute: Equatable, Sendable {
    /// The program and its arguments, at least one.
    public var arguments: [[UInt8]]
    /// `NAME=VALUE`, on top of the agent's own.
    public var environment: [[UInt8]]
    /// A name or a number, also `USER:GROUP`; empty is the agent's own.
    public var user: [UInt8]
    /// Empty is the user's home.
    public var folder: [UInt8]
    /// Input comes; without it there is none.
    public var hasInput: Bool
    /// The command gets a terminal of this size; its output is one stream then.
    public var terminal: WindowSize?

    public init(
        arguments: [[UInt8]], environment: [[UInt8]] = [], user: [UInt8] = [], folder: [UInt8] = [],
        hasInput: Bool = false, terminal: WindowSize? = nil
    ) {
        self.arguments = arguments
        self.environment = environment
        self.user = user
        self.folder = folder
        self.hasInput = hasInput
        self.terminal = terminal
    }

    public var frame: Frame {
        var fields = FieldWriter()
        fields.add(arguments)
        fields.add(environment)
        fields.add(user)
        fields.add(folder)
        fields.add(UInt8(hasInput ? 1 : 0))
        fields.add(UInt8(terminal == nil ? 0 : 1))
        fields.add(terminal?.columns ?? 0)
        fields.add(terminal?.rows ?? 0)
        return Frame(.execute, fields.bytes)
    }

    public init(_ payload: [UInt8]) throws(FrameError) {
        var fields = FieldReader(payload)
        arguments = try fields.readList()
        environment = try fields.readList()
        user = try fields.readName()
        folder = try fields.readName()
        hasInput = try fields.read(UInt8.self) != 0
        let hasTerminal = try fields.read(UInt8.self) != 0
        let size = WindowSize(columns: try fields.read(UInt16.self), rows: try fields.read(UInt16.self))
        terminal = hasTerminal ? size : nil
        try fields.finish()
        guard let program = arguments.first, !program.isEmpty else { throw .malformed }
    }
}

/// How a command ended.
public enum CommandEnd: Equatable, Sendable {
    case status(UInt8)
    case signal(UInt8)

    public var frame: Frame {
        switch self {
        case .status(let status): Frame(.exited, [0, status])
        case .signal(let number): Frame(.exited, [1, number])
        }
    }

    public init(_ payload: [UInt8]) throws(FrameError) {
        guard payload.count == 2 else { throw .malformed }
        self = payload[0] == 0 ? .status(payload[1]) : .signal(payload[1])
    }
}

/// Why the agent, or the host when it takes a tree, did not do what was asked.
public struct Failure: Error, Equatable, Sendable {
    public enum Reason: UInt8, Sendable {
        case other = 0
        /// There is no such program, or it cannot be run: the shell's statuses 127 and 126.
        case notFound = 1
        case notExecutable = 2
        /// The versions of host and agent differ.
        case version = 3
    }

    public var reason: Reason
    /// For people, without a full stop.
    public var text: [UInt8]

    public init(_ reason: Reason, _ text: [UInt8]) {
        self.reason = reason
        self.text = text
    }

    public var frame: Frame { Frame(.failure, [reason.rawValue] + text) }

    public init(payload: [UInt8]) {
        reason = payload.first.flatMap { Reason(rawValue: $0) } ?? .other
        text = Array(payload.dropFirst())
    }
}
