// SPDX-License-Identifier: Apache-2.0
// SSE: products of matrices in floats and doubles, and packed integers.

import CBench

/// Products of matrices of small whole numbers, which floats and doubles hold exactly.
enum Matrix {
    private static let size = 64

    static func run(scale: Int) -> Outcome {
        var numbers = Numbers(seed: 11)
        let first = (0..<size * size).map { _ in numbers.next(below: 64) - 32 }
        let second = (0..<size * size).map { _ in numbers.next(below: 64) - 32 }
        let firstFloats = first.map { Float($0) }
        let secondFloats = vectors(second) { SIMD4<Float>(Float($0[0]), Float($0[1]), Float($0[2]), Float($0[3])) }
        let firstDoubles = first.map { Double($0) }
        let secondDoubles = vectors(second) { SIMD2<Double>(Double($0[0]), Double($0[1])) }
        var floats = [SIMD4<Float>](repeating: .zero, count: size * size / 4)
        var doubles = [SIMD2<Double>](repeating: .zero, count: size * size / 2)
        var checksum: UInt64 = 0
        var stopwatch = Stopwatch()
        for round in 0..<scale * 24 {
            multiply(firstFloats, secondFloats, &floats)
            multiply(firstDoubles, secondDoubles, &doubles)
            let index = round % (size * size)
            checksum = folded(checksum, UInt64(floats[index / 4][index % 4].bitPattern))
            checksum = folded(checksum, doubles[index / 2][index % 2].bitPattern)
        }
        stopwatch.stop()
        var errors = 0
        for row in 0..<size {
            for column in 0..<size {
                var sum = 0
                for index in 0..<size { sum += first[row * size + index] * second[index * size + column] }
                let index = row * size + column
                if floats[index / 4][index % 4] != Float(sum) { errors += 1 }
                if doubles[index / 2][index % 2] != Double(sum) { errors += 1 }
            }
        }
        return Outcome(stopwatch, checksum, isRight: errors == 0)
    }

    private static func vectors<Vector: SIMD>(_ values: [Int], _ vector: (ArraySlice<Int>.SubSequence) -> Vector)
        -> [Vector]
    {
        stride(from: 0, to: values.count, by: Vector.scalarCount).map { start in
            vector(ArraySlice(Array(values[start..<start + Vector.scalarCount])))
        }
    }

    @inline(never)
    private static func multiply(_ first: [Float], _ second: [SIMD4<Float>], _ product: inout [SIMD4<Float>]) {
        let width = size / 4
        for row in 0..<size {
            for column in 0..<width {
                var sum = SIMD4<Float>.zero
                for index in 0..<size { sum += first[row * size + index] * second[index * width + column] }
                product[row * width + column] = sum
            }
        }
    }

    @inline(never)
    private static func multiply(_ first: [Double], _ second: [SIMD2<Double>], _ product: inout [SIMD2<Double>]) {
        let width = size / 2
        for row in 0..<size {
            for column in 0..<width {
                var sum = SIMD2<Double>.zero
                for index in 0..<size { sum += first[row * size + index] * second[index * width + column] }
                product[row * width + column] = sum
            }
        }
    }
}

/// Differences of bytes, products of words, and shuffled, averaged and multiplied vectors.
enum PackedIntegers {
    static func run(scale: Int) -> Outcome {
        guard let first = Pages(count: 4), let second = Pages(count: 4) else { return .refused }
        first.fill(seed: 12)
        second.fill(seed: 13)
        let blocks = first.count * Pages.size / 16
        var state = [UInt8](repeating: 1, count: 16)
        var differences: UInt64 = 0
        var products: Int64 = 0
        let rounds = scale * 400
        var stopwatch = Stopwatch()
        for _ in 0..<rounds {
            differences = 0
            products = 0
            for block in 0..<blocks {
                // SAFETY: blocks of 16 bytes, all inside of the mappings.
                let one = unsafe first.start + block * 16
                let other = unsafe second.start + block * 16
                unsafe differences &+= absolute_differences(one, other)
                unsafe products &+= dot_of_words(one, other)
                unsafe state.withUnsafeMutableBytes { unsafe mix_bytes($0.baseAddress, one) }
            }
        }
        stopwatch.stop()
        var expected = (differences: UInt64(0), products: Int64(0))
        for index in 0..<blocks * 16 {
            let (one, other) = unsafe (Int(first.bytes[index]), Int(second.bytes[index]))
            expected.differences += UInt64((one - other).magnitude)
        }
        for index in 0..<blocks * 8 {
            // SAFETY: words inside of the mappings.
            let one = unsafe first.start.load(fromByteOffset: index * 2, as: Int16.self)
            let other = unsafe second.start.load(fromByteOffset: index * 2, as: Int16.self)
            expected.products += Int64(one) * Int64(other)
        }
        let checksum = state.reduce(folded(differences, UInt64(bitPattern: products))) { folded($0, UInt64($1)) }
        let isRight = differences == expected.differences && products == expected.products
        return Outcome(stopwatch, checksum, isRight: isRight)
    }
}
