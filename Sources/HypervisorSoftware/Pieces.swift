// SPDX-License-Identifier: Apache-2.0
// Memory that makes room for new things by giving up the oldest.

/// What lies in each of the pieces of some memory, which are filled in turn.
struct Pieces<Element> {
    static var count: Int { 8 }

    /// The piece that is being filled.
    private(set) var present = 0
    private var elements = [[Element]](repeating: [], count: count)

    /// Whether there is nothing in any of them.
    var isEmpty: Bool { elements.allSatisfy(\.isEmpty) }

    mutating func append(_ element: Element) { elements[present].append(element) }

    /// Goes on with the next piece, which is empty or was filled first. Returns what was in it.
    mutating func advance() -> [Element] {
        present = (present + 1) % Self.count
        defer { elements[present].removeAll() }
        return elements[present]
    }

    /// Begins again with the first, and nothing in any of them.
    mutating func empty() { self = Pieces() }
}
