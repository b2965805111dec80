// SPDX-License-Identifier: Apache-2.0
// Memory that is filled from its beginning on: the host is asked for its pages in pieces, which is cheaper than one by one.

/// How far the host has been asked, in any unit.
struct Provision {
    /// How much it is asked for at a time.
    let step: Int
    private var end = 0

    init(step: Int) { self.step = step }

    /// Filling begins at `position`.
    mutating func begin(at position: Int) { end = position }

    /// What to ask for now, so that all is there before `needed`; nil if it is. No further than `limit`.
    mutating func next(before needed: Int, limit: Int) -> Range<Int>? {
        guard needed > end, end < limit else { return nil }
        let range = end..<min(max(end + step, needed), limit)
        end = range.upperBound
        return range
    }
}
