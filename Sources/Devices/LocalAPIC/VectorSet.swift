// SPDX-License-Identifier: Apache-2.0
// A set of interrupt vectors, as IRR, ISR and TMR have it: eight words of 32 bits. Spec: Intel SDM volume 3, §11.8.4.

/// 256 vectors, one bit each, with the highest known at once.
struct VectorSet {
    private var words = InlineArray<8, UInt32>(repeating: 0)
    /// The highest vector of the set, -1 when it is empty.
    private(set) var highest = -1

    init() {}

    /// From eight words, the lowest vectors first; missing words are empty.
    init(words source: [UInt32]) {
        for (index, word) in source.prefix(8).enumerated() { words[index] = word }
        highest = findHighest(below: 8)
    }

    /// Eight words, the lowest vectors first.
    var array: [UInt32] { (0..<8).map { words[$0] } }

    subscript(word index: Int) -> UInt32 { words[index] }

    func contains(_ vector: UInt8) -> Bool { words[Int(vector >> 5)] & 1 << UInt32(vector & 31) != 0 }

    mutating func insert(_ vector: UInt8) {
        words[Int(vector >> 5)] |= 1 << UInt32(vector & 31)
        highest = max(highest, Int(vector))
    }

    mutating func remove(_ vector: UInt8) {
        words[Int(vector >> 5)] &= ~(1 << UInt32(vector & 31))
        if highest == Int(vector) { highest = findHighest(below: Int(vector >> 5) + 1) }
    }

    private func findHighest(below end: Int) -> Int {
        var index = end - 1
        while index >= 0 {
            if words[index] != 0 { return index * 32 + 31 - words[index].leadingZeroBitCount }
            index -= 1
        }
        return -1
    }
}
