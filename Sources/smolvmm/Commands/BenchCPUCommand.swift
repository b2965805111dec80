// SPDX-License-Identifier: Apache-2.0
// `smolvmm bench-cpu`: the software CPU's speed, for tools/bench.

import ArgumentParser
import HypervisorSoftware
import Machine

struct BenchCPUCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench-cpu", abstract: "Measure the software CPU on small loops.", shouldDisplay: false)

    @Option(help: ArgumentHelp("How the software CPU runs them.", valueName: "name"))
    var cpuEngine = SoftwareEngine.standard

    func run() throws {
        for result in try ProcessorBenchmark.run(cpuEngine) {
            let speed = Int(result.speed.rounded())
            let milliseconds = result.nanoseconds / 1_000_000
            writeAll(
                "\(result.name): \(speed) million instructions a second "
                    + "(\(result.instructions) in \(milliseconds) ms)\n", to: 1)
        }
    }
}
