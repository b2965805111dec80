// SPDX-License-Identifier: Apache-2.0
// What stands for a machine's first boot: work that takes time, fills memory, and need not be done twice.

enum Provisioning {
    private static let dataBlocks = 256

    /// Prepares the machine and ends with the line `PROVISIONED`, which `--snapshot-when` waits for.
    static func run(from proof: Proof) {
        say("smolvmm-guest: provisioning")
        say("smolvmm-guest: installing the application")
        let installed = Kernel.create("/run/application.data", with: data(from: proof), times: dataBlocks)
        say(installed ? "smolvmm-guest: installed 16 MiB" : "smolvmm-guest: there is no room for the application")
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

    /// 64 KiB that compress about as well as programs do: half of them digests, half of them zero.
    private static func data(from proof: Proof) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(65536)
        var chain = proof
        for block in 0..<1024 {
            if block % 64 == 0 { chain.advance() }
            for index in 0..<32 {
                bytes.append(chain.digest.byte(index) ^ UInt8(truncatingIfNeeded: block))
            }
            bytes.append(contentsOf: repeatElement(0, count: 32))
        }
        return bytes
    }
}
