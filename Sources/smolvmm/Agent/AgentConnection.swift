// SPDX-License-Identifier: Apache-2.0
// A conversation with a guest's agent, from the host's side. docs/agent-protocol.md.

import AgentProtocol
import Machine

/// Why there is no conversation.
enum AgentAbsence: Error {
    /// No socket, or nobody who serves it: no such machine, or one without the device.
    case noSocket
    /// Nobody in the guest listens: no agent, no driver, or neither yet.
    case noAgent
    /// The guest does nothing: it is paused, or hangs.
    case silent
    /// The agent says something else than it should.
    case version(UInt16)
    case broken
    case other(CommandError)

    func error(_ machine: MachineName) -> CommandError {
        switch self {
        case .noSocket: CommandError("machine \(machine) has no vsock device: its bundle is of an older smolvmm")
        case .noAgent:
            CommandError(
                "the guest of machine \(machine) has no agent: nobody listens at its vsock port "
                    + "\(AgentProtocol.port) (is it still booting? docs/agent-protocol.md tells how to install the agent)"
            )
        case .silent:
            CommandError(
                "the guest of machine \(machine) does not answer: is it paused ('smolvmm resume \(machine)') or hung?")
        case .version(let version):
            CommandError(
                "the agent of machine \(machine) speaks version \(version) of the protocol, this smolvmm "
                    + "\(AgentProtocol.version): use the smolvmm that the guest was made with")
        case .broken: CommandError("what listens at vsock port \(AgentProtocol.port) of machine \(machine) is no agent")
        case .other(let error): error
        }
    }
}

/// A conversation that has begun.
struct AgentConnection {
    /// Seconds that a guest has for its first answer.
    private static let patience = 15
    private static let entropySize = 32

    let socket: UnixSocket
    let stream: FrameStream
    let greeting: Greeting

    /// Connects to the agent behind the vsock socket at `path`, and sends `request` at once.
    /// - Parameter wallClock: what the guest's clock is set to, nanoseconds since 1970; 0 leaves it alone.
    init(path: String, wallClock: UInt64 = 0, request: Frame? = nil) throws(AgentAbsence) {
        let connected: UnixSocket?
        do throws(CommandError) { connected = try UnixSocket.connect(to: path) } catch { throw .other(error) }
        guard let connected else { throw .noSocket }
        socket = connected
        socket.setReadTimeout(seconds: Self.patience)
        stream = FrameStream(socket.descriptor)
        var bytes = Array("CONNECT \(AgentProtocol.port)\n".utf8)
        var generator = SystemRandomNumberGenerator()
        let entropy = (0..<Self.entropySize).map { _ in UInt8.random(in: 0...255, using: &generator) }
        Hello(wallClock: wallClock, entropy: entropy).frame.append(to: &bytes)
        request?.append(to: &bytes)
        guard socket.send(bytes) else { throw .noAgent }
        try Self.readAnswer(socket)
        let version: UInt16
        do throws(FrameError) {
            let frame = try stream.receive()
            guard frame.kind == .greeting else { throw .unexpected }
            version = try Hello.version(of: frame.payload)
            greeting = try version == AgentProtocol.version ? Greeting(frame.payload) : Greeting(isReady: false)
        } catch {
            throw .broken
        }
        guard version == AgentProtocol.version else { throw .version(version) }
        socket.setReadTimeout(seconds: 0)
    }

    /// The line `OK PORT`, and not a byte more.
    private static func readAnswer(_ socket: UnixSocket) throws(AgentAbsence) {
        var line: [UInt8] = []
        while line.last != UInt8(ascii: "\n"), line.count < 32 {
            switch socket.receive(limit: 1) {
            case .bytes(let byte): line += byte
            case .end: throw .noAgent
            case .timeout: throw .silent
            }
        }
        guard line.starts(with: "OK ".utf8) else { throw .broken }
    }

    /// A conversation with the agent of the running machine `name`.
    init(_ name: MachineName, in folder: RuntimeFolder, request: Frame? = nil) throws(CommandError) {
        do throws(AgentAbsence) {
            try self.init(path: folder.vsockPath(name), request: request)
        } catch {
            // Says so when there is no such machine.
            _ = try ControlClient(name, in: folder)
            throw error.error(name)
        }
    }

    /// Waits until what was asked for is done, or not: then there is a failure. What was left out is skipped.
    func finish() -> (failure: Failure?, skipped: [[UInt8]]) {
        var skipped: [[UInt8]] = []
        do throws(FrameError) {
            while true {
                let frame = try stream.receive()
                switch frame.kind {
                case .skipped: skipped.append(frame.payload)
                case .failure: return (Failure(payload: frame.payload), skipped)
                case .done: return (nil, skipped)
                default: throw .unexpected
                }
            }
        } catch {
            return (Failure(.other, Array("the conversation with the guest's agent broke off".utf8)), skipped)
        }
    }
}

extension Failure {
    /// For people.
    var message: String { String(decoding: text, as: UTF8.self) }
}
