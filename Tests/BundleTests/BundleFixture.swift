// SPDX-License-Identifier: Apache-2.0
// Small machines to bundle.

import Bundle
import GuestMemory
import TestSupport

/// Bytes that do not compress, the same for the same seed.
func noise(_ count: Int, seed: UInt64) -> [UInt8] {
    var state = seed &* 0x9e37_79b9_7f4a_7c15 | 1
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + 8)
    while bytes.count < count {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        for shift in 0..<8 { bytes.append(UInt8(truncatingIfNeeded: state >> UInt64(shift * 8))) }
    }
    return Array(bytes[0..<count])
}

/// Guest RAM with something in its first, a middle and its last page.
func smallMemory(size: UInt64 = 1 << 20) throws -> GuestMemory {
    let memory = try GuestMemory(size: size)
    try memory.write(noise(700, seed: 1), at: GuestPhysicalAddress(0x1000))
    try memory.write(Array("hello from the middle".utf8), at: GuestPhysicalAddress(size / 2 + 5))
    try memory.write([1, 2, 3], at: GuestPhysicalAddress(size - 3))
    return memory
}

func smallContents(memory: GuestMemory) -> BundleContents {
    BundleContents(
        configuration: MachineConfiguration(
            name: "small", memoryBytes: memory.size, cpus: 1, cpuModel: "x86-64-v2", commandLine: "console=ttyS0"),
        parent: nil, states: [("vcpu0", Array(#"{ "rip" : 65520 }"#.utf8))], kernel: noise(300, seed: 2),
        initramfs: Array("070701".utf8), memory: memory)
}

/// The bytes of a valid small bundle.
func smallBundle() throws -> [UInt8] {
    let folder = try TemporaryFolder()
    let path = folder.file("small.smolmachine")
    _ = try BundleWriter.write(smallContents(memory: try smallMemory()), to: path)
    return try readFile(path)
}

/// All guest RAM, as bytes.
func ram(_ memory: GuestMemory) throws -> [UInt8] {
    var bytes: [UInt8] = []
    for range in memory.ranges { bytes += try memory.read(at: range.start, count: Int(range.size)) }
    return bytes
}

/// Opens `bytes` as a bundle and checks all of it.
func openAndVerify(_ bytes: [UInt8]) throws -> BundleReader {
    let folder = try TemporaryFolder()
    let path = folder.file("b.smolmachine")
    try writeFile(bytes, to: path)
    let reader = try BundleReader(path: path)
    _ = try reader.verify()
    return reader
}

/// What `body` throws, if it is the bundle's error.
func bundleError(_ body: () throws -> Void) -> BundleError? {
    do {
        try body()
        return nil
    } catch {
        return error as? BundleError
    }
}
