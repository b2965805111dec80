// SPDX-License-Identifier: Apache-2.0
// The control protocol's lines.

import Testing

@testable import smolvmm

struct ControlMessageTests {
    @Test func `a request survives being a line`() throws {
        let request = ControlRequest(command: .snapshot, path: "/tmp/größe \"1\"\n.smolmachine")
        let line = try ControlCodec.encode(request)
        #expect(line.last == UInt8(ascii: "\n"))
        #expect(line.filter { $0 == UInt8(ascii: "\n") }.count == 1)
        #expect(try ControlCodec.decodeRequest(Array(line.dropLast())) == request)
    }

    @Test func `the documented form of a request is understood`() throws {
        let line = #"{"version":1,"command":"snapshot","path":"/x"}"#
        #expect(try ControlCodec.decodeRequest(Array(line.utf8)) == ControlRequest(command: .snapshot, path: "/x"))
    }

    @Test func `another version is refused before its command is looked at`() {
        let line = Array(#"{"version":2,"command":"fly"}"#.utf8)
        #expect { try ControlCodec.decodeRequest(line) } throws: { "\($0)".contains("version 2") }
    }

    @Test(arguments: ["", "{", "[]", "{}", #"{"version":1}"#, #"{"version":1,"command":"fly"}"#, "\u{0}"])
    func `nonsense is refused`(_ line: String) {
        #expect(throws: CommandError.self) { try ControlCodec.decodeRequest(Array(line.utf8)) }
    }

    @Test func `replies have no empty fields`() throws {
        #expect(try ControlCodec.encode(ControlReply.done) == Array("{\"event\":\"result\"}\n".utf8))
    }

    @Test func `lines are found however they are cut`() {
        var reader = LineReader(limit: 8)
        reader.append(Array("one\ntw".utf8))
        #expect(reader.next() == Array("one".utf8))
        #expect(reader.next() == nil)
        reader.append(Array("o\n\n".utf8))
        #expect(reader.next() == Array("two".utf8))
        #expect(reader.next() == [])
        #expect(reader.next() == nil)
        #expect(!reader.isOverlong)
        reader.append(Array("far too long".utf8))
        #expect(reader.isOverlong)
    }
}
