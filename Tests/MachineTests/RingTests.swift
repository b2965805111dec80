// SPDX-License-Identifier: Apache-2.0
// What one thread hands to another without a lock.

import Host
import Testing

struct RingTests {
    @Test func `what one thread puts another takes, in order`() {
        let ring = Ring<Int>(capacity: 8)
        let count = 200_000
        var taken: [Int] = []
        withHelperThreads(1) {
            var next = 0
            while next < count { if ring.put(next) { next += 1 } }
        } body: {
            while taken.count < count { if let number = ring.take() { taken.append(number) } }
        }
        #expect(taken == Array(0..<count))
        #expect(ring.isEmpty)
    }

    @Test func `it has room for so many and no more`() {
        let ring = Ring<Int>(capacity: 3)
        #expect(ring.take() == nil)
        for number in 0..<3 { #expect(ring.put(number)) }
        #expect(!ring.put(3))
        #expect(ring.take() == 0)
        #expect(ring.put(3))
        #expect(!ring.put(4))
        for number in 1..<4 { #expect(ring.take() == number) }
        #expect(ring.isEmpty)
    }

    @Test func `what was taken, or is there in the end, is kept no longer`() {
        final class Thing: Sendable {}
        weak var taken: Thing?
        weak var left: Thing?
        do {
            let ring = Ring<Thing>(capacity: 2)
            do {
                let things = [Thing(), Thing()]
                (taken, left) = (things[0], things[1])
                for thing in things { #expect(ring.put(thing)) }
            }
            _ = ring.take()
            #expect(taken == nil)
            #expect(left != nil)
        }
        #expect(left == nil)
    }
}
