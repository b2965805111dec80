// SPDX-License-Identifier: Apache-2.0
// JSON (RFC 8259) of manifests and of layers' state, from files that may be hostile: size and nesting are bounded.

#if canImport(FoundationEssentials)
    internal import FoundationEssentials
#else
    internal import Foundation
#endif

/// Encoding and decoding of the bundle's JSON members.
enum JSONText {
    /// Arrays and objects inside each other that are accepted.
    static let maximumDepth = 64

    static func encode(_ value: some Encodable) throws -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
        return [UInt8](try encoder.encode(value))
    }

    static func decode<T: Decodable>(_ bytes: [UInt8], as type: T.Type) throws -> T {
        guard depth(of: bytes) <= maximumDepth else { throw TooDeep() }
        return try JSONDecoder().decode(type, from: Data(bytes))
    }

    private struct TooDeep: Error {}

    /// Any well-formed JSON.
    private struct Anything: Decodable {
        init(from decoder: any Decoder) {}
    }

    /// The deepest nesting of brackets outside strings; exact for well-formed text.
    private static func depth(of bytes: [UInt8]) -> Int {
        var depth = 0
        var deepest = 0
        var inString = false
        var escaped = false
        for byte in bytes {
            if inString {
                if escaped {
                    escaped = false
                } else if byte == UInt8(ascii: "\\") {
                    escaped = true
                } else if byte == UInt8(ascii: "\"") {
                    inString = false
                }
                continue
            }
            switch byte {
            case UInt8(ascii: "\""): inString = true
            case UInt8(ascii: "{"), UInt8(ascii: "["):
                depth += 1
                deepest = max(deepest, depth)
            case UInt8(ascii: "}"), UInt8(ascii: "]"): depth -= 1
            default: break
            }
        }
        return deepest
    }

    /// One line that says what is wrong and where.
    static func reason(for error: any Error, in bytes: [UInt8]) -> String {
        guard let error = error as? DecodingError else {
            return error is TooDeep ? "nested deeper than \(maximumDepth)" : "not JSON"
        }
        switch error {
        case .keyNotFound(let key, let context): return "\(place(context)) has no \(key.stringValue)"
        case .typeMismatch(let type, let context): return "\(place(context)) is not of type \(type)"
        case .valueNotFound(_, let context): return "\(place(context)) is null"
        case .dataCorrupted(let context):
            if !context.codingPath.isEmpty { return "\(place(context)) has a value that cannot be" }
            // The decoder says the same of bad syntax and of a number that its field cannot hold; tell them apart.
            let isJSON = (try? JSONDecoder().decode(Anything.self, from: Data(bytes))) != nil
            return isJSON ? "a number does not fit in its field" : "not JSON"
        @unknown default: return "not JSON"
        }
    }

    private static func place(_ context: DecodingError.Context) -> String {
        guard !context.codingPath.isEmpty else { return "the top level" }
        return context.codingPath.map { $0.intValue.map { "[\($0)]" } ?? $0.stringValue }.joined(separator: ".")
    }
}

/// A layer's state as the JSON of its member: keys sorted, readable.
/// - Throws: `malformedState` when a value cannot be JSON (a not-a-number).
public func encodeState<T: Encodable>(_ state: T, layer: String) throws(BundleError) -> [UInt8] {
    do {
        return try JSONText.encode(state)
    } catch {
        throw .malformedState(layer: layer, reason: "a value has no JSON form")
    }
}

/// A layer's state from its member. Ranges are the layer's own business, when it restores.
/// - Throws: `tooLarge`, `malformedState`.
public func decodeState<T: Decodable>(
    _ json: [UInt8], as type: T.Type = T.self, layer: String
) throws(BundleError) -> T {
    guard json.count <= BundleLimits.state else {
        throw .tooLarge(
            member: "state/\(layer).json", size: UInt64(json.count), limit: UInt64(BundleLimits.state))
    }
    do {
        return try JSONText.decode(json, as: type)
    } catch {
        throw .malformedState(layer: layer, reason: JSONText.reason(for: error, in: json))
    }
}
