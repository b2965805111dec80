// SPDX-License-Identifier: Apache-2.0
// State as JSON: exact numbers, readable text, hostile text refused.

import Bundle
import Testing

private struct Sample: Codable, Equatable {
    var counter: UInt64
    var bytes: [UInt8]
    var nested: [Sample]
}

struct StateTextTests {
    @Test func `state comes back exactly`() throws {
        let sample = Sample(
            counter: .max, bytes: [0, 255], nested: [Sample(counter: 1 << 53 | 1, bytes: [], nested: [])])
        let json = try encodeState(sample, layer: "timer")
        #expect(try decodeState(json, as: Sample.self, layer: "timer") == sample)
        #expect(String(decoding: json, as: UTF8.self).contains(#""counter" : 18446744073709551615"#))
    }

    @Test(arguments: [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "the top level is not of type"),
        ("{}", "the top level has no"),
        (#"{"counter":-1,"bytes":[],"nested":[]}"#, "a number does not fit in its field"),
        (#"{"counter":18446744073709551616,"bytes":[],"nested":[]}"#, "a number does not fit in its field"),
        (#"{"counter":1.5,"bytes":[],"nested":[]}"#, "a number does not fit in its field"),
        (#"{"counter":1,"bytes":[256],"nested":[]}"#, "a number does not fit in its field"),
        (#"{"counter":1,"bytes":null,"nested":[]}"#, "bytes is"),
        (#"{"counter":1,"bytes":"\ud800","nested":[]}"#, ""),
        ("\u{0}\u{1}\"\\", "not JSON"),
    ])
    func `malformed state is refused with its layer and field`(text: String, reason: String) throws {
        let error = bundleError { _ = try decodeState(Array(text.utf8), as: Sample.self, layer: "timer") }
        let description = try #require(error?.description)
        #expect(description.hasPrefix("state/timer.json is malformed: \(reason)"), "\(description)")
    }

    @Test func `nesting without end is refused, in strings it does not count`() throws {
        let deep = [UInt8](repeating: UInt8(ascii: "["), count: 1 << 20)
        #expect(throws: BundleError.malformedState(layer: "timer", reason: "nested deeper than 64")) {
            try decodeState(deep, as: Sample.self, layer: "timer")
        }
        let text = #"[""# + String(repeating: "[", count: 1000) + #"\"[[["]"#
        #expect(try decodeState(Array(text.utf8), as: [String].self, layer: "timer").first?.utf8.count == 1004)
    }

    @Test func `more than 16 MiB is refused unread`() throws {
        let large = [UInt8](repeating: UInt8(ascii: " "), count: (16 << 20) + 1)
        #expect(
            throws: BundleError.tooLarge(member: "state/timer.json", size: (16 << 20) + 1, limit: 16 << 20)
        ) { try decodeState(large, as: Sample.self, layer: "timer") }
    }

    @Test func `a number that JSON cannot say is refused`() throws {
        #expect(throws: BundleError.malformedState(layer: "timer", reason: "a value has no JSON form")) {
            try encodeState([Double.nan], layer: "timer")
        }
    }
}
