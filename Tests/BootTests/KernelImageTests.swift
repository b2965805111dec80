// SPDX-License-Identifier: Apache-2.0
// What is taken as a kernel, and what is refused.

import Testing

@testable import Boot

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

struct KernelImageTests {
    private let elf = ELFFixture().file.bytes

    @Test func `an ELF kernel gives its segment and its entry`() throws {
        let image = try KernelImage(elf)
        #expect(image.entry == ELFFixture.entry)
        #expect(image.segments.map(\.physical) == [ELFFixture.physical])
        #expect(image.segments.map(\.source) == [120..<elf.count])
        #expect(image.end == ELFFixture.physical + 0x3000)
    }

    @Test(arguments: Compression.allCases)
    func `a bzImage is unpacked, whatever packed it`(compression: Compression) throws {
        let image = try KernelImage(BzImageFixture(payload: compression.payload(elf)).file.bytes)
        #expect(image.bytes == elf)
        #expect(image.entry == ELFFixture.entry)
        #expect(image.commandLineLimit == 2047)
        #expect(image.setupHeader.count == 0x268 - 0x1f1)
    }

    @Test func `an lz4 payload of several chunks is unpacked`() throws {
        var fixture = ELFFixture(memorySize: 32 << 20)
        fixture.file.bytes += (0..<20 << 20).map { UInt8(truncatingIfNeeded: $0 &* 7 >> 3) }
        let image = try KernelImage(BzImageFixture(payload: Compression.lz4.payload(fixture.file.bytes)).file.bytes)
        #expect(image.bytes == fixture.file.bytes)
    }

    @Test func `what is cut off anywhere is refused`() {
        let packed = BzImageFixture(payload: Compression.zstd.payload(elf)).file.bytes
        for file in [elf, packed] {
            for count in (0..<file.count - 1).reversed() where count < 700 || count % 61 == 0 {
                #expect(throws: BootError.self, "\(count) of \(file.count) bytes") {
                    try KernelImage(Array(file[..<count]))
                }
            }
        }
    }

    @Test(arguments: Compression.allCases)
    func `a payload with a byte changed is refused or unpacks to as many bytes`(compression: Compression) throws {
        let payload = compression.payload(elf)
        for position in stride(from: 0, to: payload.count, by: 3) {
            var damaged = payload
            damaged[position] ^= 0x55
            guard let image = try? KernelImage(BzImageFixture(payload: damaged).file.bytes) else { continue }
            #expect(image.bytes.count == elf.count)
        }
    }

    @Test(arguments: Compression.allCases, [1, 4000, 1 << 20, 1 << 30, UInt32.max])
    func `a payload that lies about its size is refused`(compression: Compression, size: UInt32) {
        let file = BzImageFixture(payload: compression.payload(elf, size: size)).file.bytes
        #expect(throws: BootError.self) { try KernelImage(file) }
    }

    @Test func `a zip bomb is not unpacked beyond what it says`() {
        let bomb = [UInt8](repeating: 0, count: 64 << 20)
        for compression in Compression.allCases {
            let file = BzImageFixture(payload: compression.payload(bomb, size: 4096)).file.bytes
            #expect(throws: BootError.self) { try KernelImage(file) }
        }
    }

    @Test func `an unknown compression is refused with its magic number`() {
        let file = BzImageFixture(payload: Array("BZh91AY&SY is bzip2".utf8)).file.bytes
        #expect(throws: BootError.unsupportedCompression(magic: "0x39685a42")) { try KernelImage(file) }
    }

    @Test func `a file of something else is refused with its first bytes`() {
        let png: [UInt8] = [0x89, 0x50, 0x4e, 0x47] + [UInt8](repeating: 0, count: 4096)
        #expect(throws: BootError.notAKernel(firstBytes: "89 50 4e 47")) { try KernelImage(png) }
        #expect(throws: BootError.notAKernel(firstBytes: "none")) { try KernelImage([]) }
    }

    @Test func `an old protocol and a 32-bit kernel are refused`() {
        var fixture = BzImageFixture(payload: Compression.zstd.payload(elf))
        fixture.file.put(UInt16(0x20b), at: 0x206)
        #expect(throws: BootError.unsupportedProtocol(version: 0x20b)) { try KernelImage(fixture.file.bytes) }
        fixture.file.put(UInt16(0x20f), at: 0x206)
        fixture.file.put(UInt16(0), at: 0x236)
        #expect(throws: BootError.not64Bit) { try KernelImage(fixture.file.bytes) }
    }

    /// Offset, value and width of a field that must not be believed.
    private static let lies: [(Int, UInt64, Int)] = [
        (4, 1, 1), (5, 2, 1), (18, 3, 2),  // 32-bit, big-endian, i386
        (24, 0, 8), (24, 0x100_3000, 8), (24, .max, 8),  // entries outside the segment
        (32, 0x8000, 8), (32, .max, 8), (32, .max - 55, 8), (54, 0, 2), (54, 55, 2), (56, 0xffff, 2), (56, 0, 2),
        (72, 0x8000, 8), (72, .max, 8), (96, 0x8000, 8), (96, .max, 8),
        (88, 0, 8), (88, 0xf_ffff, 8), (88, .max, 8), (88, 1 << 40, 8), (104, 16, 8), (104, .max, 8), (104, 1 << 32, 8),
    ]

    @Test(arguments: lies)
    func `an ELF field that lies is refused`(offset: Int, value: UInt64, width: Int) {
        var fixture = ELFFixture()
        for byte in 0..<width {
            fixture.file.bytes[offset + byte] = UInt8(truncatingIfNeeded: value >> UInt64(byte * 8))
        }
        #expect(throws: BootError.self) { try KernelImage(fixture.file.bytes) }
    }

    @Test(arguments: [(0x248, UInt32.max), (0x24c, UInt32.max), (0x248, 0x8000), (0x24c, 3)])
    func `a bzImage field that lies is refused`(offset: Int, value: UInt32) {
        var fixture = BzImageFixture(payload: Compression.gzip.payload(elf))
        fixture.file.put(value, at: offset)
        #expect(throws: BootError.self) { try KernelImage(fixture.file.bytes) }
    }

    private static let debianKernel = "cache/vmlinuz-cloud"

    @Test(.enabled(if: unsafe access(debianKernel, R_OK) == 0, "tools/fetch-kernel cloud was not run"))
    func `Debian's kernel is taken`() throws {
        guard let file = unsafe fopen(Self.debianKernel, "r") else { return }
        defer { unsafe fclose(file) }
        let capacity = 64 << 20
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: capacity) { buffer, count in
            // SAFETY: at most the buffer's capacity is read.
            count = unsafe fread(buffer.baseAddress, 1, capacity, file)
        }
        let image = try KernelImage(bytes)
        #expect(image.segments.count >= 3)
        #expect(image.entry == 0x100_0000)
        #expect(image.commandLineLimit == 2047)
    }
}
