// SPDX-License-Identifier: Apache-2.0
// The running proof that this is one machine that goes on: a nonce drawn at boot, a count, and a chain of digests.

/// A chain that only this boot can have: digest 0 is SHA-256 of the nonce's bytes, and digest n is digest n-1 taken
/// through `rounds` rounds of SHA-256(digest followed by n as eight big-endian bytes).
struct Proof {
    static let rounds = 256

    let nonce: [8 of UInt8]
    private(set) var count = 0
    private(set) var digest: Digest

    init(nonce: [8 of UInt8]) {
        self.nonce = nonce
        var message = [64 of UInt8](repeating: 0)
        for index in nonce.indices {
            message[index] = nonce[index]
        }
        digest = SHA256.digest(of: message, count: nonce.count)
    }

    mutating func advance() {
        count += 1
        var message = [64 of UInt8](repeating: 0)
        for index in 0..<8 {
            message[32 + index] = UInt8(truncatingIfNeeded: count >> (56 - index * 8))
        }
        for _ in 0..<Self.rounds {
            for index in 0..<32 {
                message[index] = digest.byte(index)
            }
            digest = SHA256.digest(of: message, count: 40)
        }
    }

    /// `tick N nonce=HEX sha=HEX time=SECONDS.MILLISECONDS`
    func report(wallClock: Int) {
        var line = Line("tick ")
        line.add(count)
        line.add(" nonce=")
        for index in nonce.indices {
            line.add(hex: nonce[index])
        }
        line.add(" sha=")
        for index in 0..<32 {
            line.add(hex: digest.byte(index))
        }
        line.add(" time=")
        line.add(wallClock / 1000)
        line.add(".")
        line.add(wallClock % 1000, digits: 3)
        line.write()
    }
}
