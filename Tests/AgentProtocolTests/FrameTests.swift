// SPDX-License-Identifier: Apache-2.0
// Frames and their fields, whole, in pieces, and hostile.

import Testing
@testable import AgentProtocol

struct FrameTests {
    private static let execute = Execute(
        arguments: [Array("sh".utf8), Array("-c".utf8), []], environment: [Array("A=b".utf8)], user: Array("me".utf8),
        folder: Array("/".utf8), hasInput: true, terminal: WindowSize(columns: 80, rows: 24))

    @Test func `frames come out as they went in, however the stream is cut`() throws {
        let frames = [
            Frame(.hello, [1, 2, 3]), Frame(.done), Self.execute.frame,
            Frame(.data, [UInt8](repeating: 9, count: AgentProtocol.largestPayload)),
        ]
        var bytes: [UInt8] = []
        for frame in frames { frame.append(to: &bytes) }
        for step in [1, 7, 4096, bytes.count] {
            var buffer = FrameBuffer()
            var found: [Frame] = []
            for start in stride(from: 0, to: bytes.count, by: step) {
                buffer.append(bytes[start..<min(start + step, bytes.count)])
                while let frame = try buffer.next() { found.append(frame) }
            }
            #expect(found == frames)
            #expect(buffer.isEmpty)
        }
    }

    @Test(arguments: [[1, 0, 2, 0, 67], [0, 0, 0, 0, 0], [0, 0, 0, 0, 200], [255, 255, 255, 255, 1]] as [[UInt8]])
    func `a frame that is too long or of no kind is refused`(bytes: [UInt8]) {
        var buffer = FrameBuffer()
        buffer.append(bytes[...])
        #expect(throws: FrameError.malformed) { try buffer.next() }
    }

    @Test func `messages come out as they went in`() throws {
        #expect(try Execute(Self.execute.frame.payload) == Self.execute)
        let hello = Hello(wallClock: 5 << 40, entropy: [1, 2, 3])
        #expect(try Hello(hello.frame.payload) == hello)
        #expect(try Hello.version(of: hello.frame.payload) == AgentProtocol.version)
        #expect(try Greeting(Greeting(isReady: true).frame.payload).isReady)
        for end in [CommandEnd.status(7), .signal(9)] { #expect(try CommandEnd(end.frame.payload) == end) }
        let failure = Failure(.notFound, Array("gone".utf8))
        #expect(Failure(payload: failure.frame.payload) == failure)
    }

    @Test func `messages that are cut off, too long or have wrong counts are refused`() {
        let payload = Self.execute.frame.payload
        for count in 0..<payload.count {
            #expect(throws: FrameError.malformed) { try Execute(Array(payload.prefix(count))) }
        }
        #expect(throws: FrameError.malformed) { try Execute(payload + [0]) }
        for byte in payload.indices {
            var changed = payload
            changed[byte] = 0xff
            // Whatever it is, it is a message or a refusal.
            _ = try? Execute(changed)
        }
        #expect(throws: FrameError.malformed) { try Execute(Execute(arguments: []).frame.payload) }
        #expect(throws: FrameError.malformed) { try Execute(Execute(arguments: [[1, 0, 2]]).frame.payload) }
    }
}
