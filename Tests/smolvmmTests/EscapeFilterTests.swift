// SPDX-License-Identifier: Apache-2.0
// The keys for smolvmm.

import Testing

@testable import smolvmm

struct EscapeFilterTests {
    @Test(
        arguments: [
            ("plain", [.send(Array("plain".utf8))]),
            ("\u{1}x", [.leave]),
            ("\u{1}X", [.leave]),
            ("\u{1}\u{1}", [.send([1])]),
            ("\u{1}a", [.send([1])]),
            ("\u{1}h", [.help]),
            ("\u{1}?", [.help]),
            ("\u{1}q", []),
            ("ab\u{1}hcd", [.send(Array("ab".utf8)), .help, .send(Array("cd".utf8))]),
            ("\u{1}\u{1}x", [.send([1, UInt8(ascii: "x")])]),
            ("a\u{1}x", [.send(Array("a".utf8)), .leave]),
            ("\u{3}", [.send([3])]),
            ("", []),
        ] as [(String, [EscapeFilter.Action])])
    func `Ctrl-A and a key are for smolvmm, all else is for the guest`(
        _ typed: String, _ expected: [EscapeFilter.Action]
    ) {
        var filter = EscapeFilter()
        #expect(filter.process(Array(typed.utf8)) == expected)
    }

    @Test func `the two keys may come in different pieces`() {
        var filter = EscapeFilter()
        #expect(filter.process([1]).isEmpty)
        #expect(filter.process([]).isEmpty)
        #expect(filter.process(Array("xy".utf8)) == [.leave, .send(Array("y".utf8))])
    }
}
