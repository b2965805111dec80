// SPDX-License-Identifier: Apache-2.0
// The text matcher of `--snapshot-when`.

import Machine
import Testing

struct TextMatcherTests {
    /// Offsets just behind each occurrence of `text` in `stream`.
    private func ends(of text: String, in stream: String) -> [Int] {
        var matcher = TextMatcher(text)
        return Array(stream.utf8).indices.filter { matcher.take(Array(stream.utf8)[$0]) }.map { $0 + 1 }
    }

    @Test(arguments: [
        ("READY", "it is READY now", [11]),
        ("aab", "aaab", [4]),
        ("abab", "abababab", [4, 6, 8]),
        ("abacab", "abacabacab", [6, 10]),
        ("x", "xx", [1, 2]),
        ("login: ", "login:login: ", [13]),
        ("ready\n", "ready\r\n", []),
        ("longer than the stream", "short", []),
        ("größe", "die größe", [11]),
    ])
    func `finds a text wherever it ends, also when it overlaps itself`(_ text: String, _ stream: String, _ found: [Int])
    {
        #expect(ends(of: text, in: stream) == found)
    }

    @Test func `an empty text never appears`() {
        #expect(ends(of: "", in: "anything").isEmpty)
    }

    @Test func `a reset forgets the beginning of a text`() {
        var matcher = TextMatcher("ab")
        let atFirst = matcher.take(UInt8(ascii: "a"))
        #expect(!atFirst)
        matcher.reset()
        let afterwards = matcher.take(UInt8(ascii: "b"))
        #expect(!afterwards)
    }
}
