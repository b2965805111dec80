// SPDX-License-Identifier: Apache-2.0
// What stands for a machine's first boot: work that takes time, fills memory, and need not be done twice.

enum Provisioning {
    private static let blocks = 128
    private static let blockSize = 65536

    /// Prepares the machine and ends with the line `PROVISIONED`, which `--snapshot-when` waits for.
    static func run(from proof: Proof) {
        say("smolvmm-guest: provisioning")
        say("smolvmm-guest: installing the application")
        let seed = proof.nonce.indices.reduce(UInt64(0)) { $0 << 8 | UInt64(proof.nonce[$1]) }
        let installed = install(seed: seed)
        say(installed ? "smolvmm-guest: installed 8 MiB" : "smolvmm-guest: there is no room for the application")
        say("smolvmm-guest: warming up")
        var warm = proof
        for _ in 0..<8 {
            warm.advance()
        }
        let memory = Kernel.memory
        var line = Line("smolvmm-guest: memory used=")
        line.add(memory.used)
        line.add(" total=")
        line.add(memory.total)
        line.add(" KiB")
        line.write()
        say("PROVISIONED")
    }

    /// The file that stands for the application: 64 KiB a block, and no block like another.
    private static func install(seed: UInt64) -> Bool {
        guard let file = Kernel.create("/run/application.data") else { return false }
        defer { Kernel.close(file) }
        var state = seed | 1
        var block = [UInt8](repeating: 0, count: blockSize)
        for _ in 0..<blocks {
            // Every other word is left zero: it compresses about as well as programs do.
            for index in stride(from: 0, to: blockSize, by: 16) {
                // xorshift64 (Marsaglia 2003): cheap numbers without a pattern.
                state ^= state << 13
                state ^= state >> 7
                state ^= state << 17
                for byte in 0..<8 {
                    block[index + byte] = UInt8(truncatingIfNeeded: state >> UInt64(byte * 8))
                }
            }
            guard Kernel.write(block, to: file) else { return false }
        }
        return true
    }
}
