// SPDX-License-Identifier: Apache-2.0
// Finds a text in a stream of bytes, however the stream is cut into pieces (Knuth, Morris and Pratt, 1977).

/// Reports when the last bytes taken are the text. An empty text never appears.
public struct TextMatcher: Sendable {
    private let text: [UInt8]
    /// `borders[n]`: the longest proper prefix of the text that is also a suffix of its first n + 1 bytes.
    private let borders: [Int]
    /// Bytes of the text that the stream ends with.
    private var matched = 0

    public init(_ text: some Collection<UInt8>) {
        self.text = Array(text)
        var borders = [Int](repeating: 0, count: text.count)
        var length = 0
        for index in self.text.indices.dropFirst() {
            while length > 0, self.text[index] != self.text[length] { length = borders[length - 1] }
            if self.text[index] == self.text[length] { length += 1 }
            borders[index] = length
        }
        self.borders = borders
    }

    public init(_ text: String) { self.init(Array(text.utf8)) }

    /// Takes the next byte; true when the text ends with it.
    public mutating func take(_ byte: UInt8) -> Bool {
        guard !text.isEmpty else { return false }
        while matched > 0, byte != text[matched] { matched = borders[matched - 1] }
        if byte == text[matched] { matched += 1 }
        guard matched == text.count else { return false }
        matched = borders[matched - 1]
        return true
    }

    /// Forgets what was seen.
    public mutating func reset() { matched = 0 }
}
