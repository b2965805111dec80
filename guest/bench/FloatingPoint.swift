// SPDX-License-Identifier: Apache-2.0
// Floating point: scalar doubles and the x87.

import CBench

/// Bodies that attract each other: a heavy one and four on circles around it.
enum Bodies {
    private struct Body {
        var x, y, z, speedX, speedY, speedZ: Double
        let mass: Double
    }

    static func run(scale: Int) -> Outcome {
        var bodies = [Body(x: 0, y: 0, z: 0, speedX: 0, speedY: 0, speedZ: 0, mass: 1000)]
        for index in 1...4 {
            let radius = Double(index) * 10
            // On a circle the speed is the root of the attracting mass over the radius.
            let speed = (1000 / radius).squareRoot()
            bodies.append(
                Body(
                    x: radius, y: 0, z: Double(index), speedX: 0, speedY: speed, speedZ: 0.1, mass: 1 / Double(index)))
        }
        let before = energy(bodies)
        var stopwatch = Stopwatch()
        for _ in 0..<scale * 60_000 { advance(&bodies, by: 0.001) }
        stopwatch.stop()
        let after = energy(bodies)
        let checksum = bodies.reduce(after.bitPattern) { folded($0, $1.x.bitPattern ^ $1.speedY.bitPattern) }
        return Outcome(stopwatch, checksum, isRight: ((after - before) / before).magnitude < 0.001)
    }

    private static func advance(_ bodies: inout [Body], by time: Double) {
        for first in bodies.indices {
            for second in first + 1..<bodies.count {
                let x = bodies[first].x - bodies[second].x
                let y = bodies[first].y - bodies[second].y
                let z = bodies[first].z - bodies[second].z
                let square = x * x + y * y + z * z
                let pull = time / (square * square.squareRoot())
                let firstPull = bodies[second].mass * pull
                let secondPull = bodies[first].mass * pull
                bodies[first].speedX -= x * firstPull
                bodies[first].speedY -= y * firstPull
                bodies[first].speedZ -= z * firstPull
                bodies[second].speedX += x * secondPull
                bodies[second].speedY += y * secondPull
                bodies[second].speedZ += z * secondPull
            }
        }
        for index in bodies.indices {
            bodies[index].x += bodies[index].speedX * time
            bodies[index].y += bodies[index].speedY * time
            bodies[index].z += bodies[index].speedZ * time
        }
    }

    private static func energy(_ bodies: [Body]) -> Double {
        var energy = 0.0
        for (index, body) in bodies.enumerated() {
            let square = body.speedX * body.speedX + body.speedY * body.speedY + body.speedZ * body.speedZ
            energy += body.mass * square / 2
            for other in bodies[(index + 1)...] {
                let (x, y, z) = (body.x - other.x, body.y - other.y, body.z - other.z)
                energy -= body.mass * other.mass / (x * x + y * y + z * z).squareRoot()
            }
        }
        return energy
    }
}

/// Newton's roots, exact to the last of 64 bits, and sines, which processors do not round alike.
enum ExtendedPrecision {
    static func run(scale: Int) -> Outcome {
        var checksum: UInt64 = 0
        var errors = 0
        var sines: Float80 = 0
        let rounds = scale * 48_000
        var stopwatch = Stopwatch()
        for round in 1...rounds {
            let number = Float80(round)
            var root = number
            var steps = 0
            while steps < 40 {
                let next = (root + number / root) * 0.5
                steps += 1
                if next >= root, steps > 1 { break }
                root = next
            }
            let exact = x87_root(number)
            if (root - exact).magnitude > exact.ulp * 2 { errors += 1 }
            checksum = folded(checksum, exact.significandBitPattern ^ UInt64(exact.exponentBitPattern))
            if round & 7 == 0 { sines += x87_sine(number) }
        }
        stopwatch.stop()
        // The sum over sines of 8, 16, ... 8 n is sin(4 n) sin(4 n + 4) / sin(4).
        let count = Float80(rounds / 8)
        let expected = x87_sine(4 * count) * x87_sine(4 * count + 4) / x87_sine(4)
        let isRight = errors == 0 && (sines - expected).magnitude < 0.000_001
        return Outcome(stopwatch, checksum, isRight: isRight)
    }
}
