// SPDX-License-Identifier: Apache-2.0
// `smolbench`: programs that measure a processor and check it, the same in a guest and on its host.
//
//   smolbench list                       the programs: `NAME GROUP`, a line each
//   smolbench NAME [SCALE]               does the program's work SCALE times (1): `NAME seconds checksum`
//   smolbench blocks SEED COUNT          runs random blocks of code from SEED on: `blocks seconds checksum`
//   smolbench block SEED                 runs one of them and shows its code, its exceptions and its end
//   smolbench command NAME PROGRAM...    the same for another program, with a checksum of what it prints
//
// Status 1: a program found a result that is wrong; 2: wrong usage.

import CBench
import CLibc

@c(main)
func main(_ count: Int32, _ arguments: UnsafePointer<UnsafePointer<CChar>?>) -> Int32 {
    // SAFETY: the kernel passes `count` strings.
    let words = (1..<max(Int(count), 1)).map { unsafe bytes(of: arguments[$0]) }
    guard let name = words.first else { return usage() }
    if name.equals("list"), words.count == 1 {
        Program.all.forEach { $0.describe() }
        return 0
    }
    if name.equals("nothing"), words.count == 1 { return Processes.statusOfNothing }
    if name.equals("command"), words.count >= 3 {
        // SAFETY: `main`'s strings end with nil, and there are more than three.
        guard let outcome = unsafe Command.run(arguments + 3) else { return refuse("cannot run ", words[2]) }
        return report(words[1], outcome)
    }
    if name.equals("blocks"), words.count == 3, let seed = number(words[1]), let count = number(words[2]) {
        return report(name, BlockRunner.run(seed: seed, count: count))
    }
    if name.equals("block"), words.count == 2, let seed = number(words[1]) {
        return BlockRunner.show(seed: seed) ? 0 : 1
    }
    guard let program = Program.all.first(where: { name.equals($0.name) }) else {
        return refuse("no such program: ", name)
    }
    guard words.count <= 2, let scale = words.count == 2 ? number(words[1]) : 1, scale > 0 else { return usage() }
    return report(name, program.run(scale))
}

private func report(_ name: [UInt8], _ outcome: Outcome) -> Int32 {
    var line = Line()
    line.add(name)
    line.add(" ")
    line.add(outcome.nanoseconds / 1_000_000_000)
    line.add(".")
    line.add(outcome.nanoseconds % 1_000_000_000, digits: 9)
    line.add(" ")
    for index in 0..<8 {
        line.add(hex: UInt8(truncatingIfNeeded: outcome.checksum >> UInt64(56 - index * 8)))
    }
    if !outcome.isRight { line.add(" WRONG") }
    line.write()
    return outcome.isRight ? 0 : 1
}

private func refuse(_ what: StaticString, _ word: [UInt8]) -> Int32 {
    var line = Line("smolbench: ")
    line.add(what)
    line.add(word)
    line.write(to: STDERR_FILENO)
    return 2
}

private func usage() -> Int32 {
    let line = Line(
        "usage: smolbench list | NAME [SCALE] | blocks SEED COUNT | block SEED | command NAME PROGRAM [ARGUMENT...]")
    line.write(to: STDERR_FILENO)
    return 2
}

private func bytes(of text: UnsafePointer<CChar>?) -> [UInt8] {
    guard var next = unsafe text else { return [] }
    var bytes: [UInt8] = []
    // SAFETY: a C string ends with a zero byte.
    while unsafe next.pointee != 0 {
        unsafe bytes.append(UInt8(bitPattern: next.pointee))
        unsafe next += 1
    }
    return bytes
}

/// A decimal number of at most nine digits.
private func number(_ text: [UInt8]) -> Int? {
    guard (1...9).contains(text.count) else { return nil }
    var value = 0
    for byte in text {
        guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { return nil }
        value = value * 10 + Int(byte - UInt8(ascii: "0"))
    }
    return value
}
