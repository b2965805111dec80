// SPDX-License-Identifier: Apache-2.0
// Small kernels, made field by field. Linux Documentation/arch/x86/boot.rst; System V ABI, chapter 5.

@testable import Boot

/// A file that is built field by field.
struct Fields {
    var bytes: [UInt8]

    init(count: Int) { bytes = [UInt8](repeating: 0, count: count) }

    mutating func put<T: FixedWidthInteger>(_ value: T, at offset: Int) {
        for byte in 0..<T.bitWidth / 8 { bytes[offset + byte] = UInt8(truncatingIfNeeded: value >> T(byte * 8)) }
    }
}

/// An ELF kernel with one segment.
struct ELFFixture {
    static let entry: UInt64 = 0x100_0010
    static let physical: UInt64 = 0x100_0000
    /// 64 bytes of header, 56 of one program header, the segment from 120.
    static let segmentOffset: UInt64 = 120

    var file: Fields

    /// The code is at the entry, 16 bytes into the segment.
    init(code: [UInt8] = [0xf4], memorySize: UInt64 = 0x3000) {
        let segment = [UInt8](repeating: 0x90, count: 16) + code + [UInt8](repeating: 0x11, count: 4000)
        file = Fields(count: Int(Self.segmentOffset))
        file.bytes.replaceSubrange(0..<7, with: [0x7f, 0x45, 0x4c, 0x46, 2, 1, 1])
        file.put(UInt16(2), at: 16)  // e_type: executable
        file.put(UInt16(62), at: 18)  // e_machine: x86-64
        file.put(UInt32(1), at: 20)
        file.put(Self.entry, at: 24)
        file.put(UInt64(64), at: 32)  // e_phoff
        file.put(UInt16(64), at: 52)
        file.put(UInt16(56), at: 54)  // e_phentsize
        file.put(UInt16(1), at: 56)  // e_phnum
        file.put(UInt32(1), at: 64)  // p_type: loadable
        file.put(Self.segmentOffset, at: 72)
        file.put(Self.physical, at: 88)
        file.put(UInt64(segment.count), at: 96)
        file.put(memorySize, at: 104)
        file.bytes += segment
    }
}

/// An ELF kernel as Linux is linked: its first segment at 2 MiB in the file, the second nearer to it in memory than there.
struct LinkedFixture {
    static let physical: UInt64 = 0x100_0000
    static let distance = 0x10_0000

    var file: Fields
    let first = (0..<0x5000).map { UInt8(truncatingIfNeeded: $0 &* 7 >> 2 | 1) }
    let second = (0..<0x9_0000).map { UInt8(truncatingIfNeeded: $0 &* 11 >> 3 | 1) }
    /// Where the second segment belongs; it overlaps the place where it is unpacked.
    let secondPhysical: UInt64 = Self.physical + 0x8_0000
    let secondMemorySize: UInt64 = 0x9_2000

    /// - Parameter offset: of the first segment in the file.
    init(offset: Int = 2 << 20) {
        file = ELFFixture().file
        file.bytes.removeSubrange(120...)
        file.bytes += [UInt8](repeating: 0xaa, count: 56) + [UInt8](repeating: 0, count: offset - 176)
        file.put(UInt16(2), at: 56)
        let sizes = [(UInt64(first.count), UInt64(first.count)), (UInt64(second.count), secondMemorySize)]
        for (number, (fileSize, memorySize)) in sizes.enumerated() {
            let header = 64 + number * 56
            file.put(UInt32(1), at: header)
            file.put(UInt64(offset + number * Self.distance), at: header + 8)
            file.put(number == 0 ? Self.physical : secondPhysical, at: header + 24)
            file.put(fileSize, at: header + 32)
            file.put(memorySize, at: header + 40)
        }
        file.bytes += first + [UInt8](repeating: 0xbb, count: Self.distance - first.count) + second
        file.bytes += [UInt8](repeating: 0xcc, count: 0x1000)
    }
}

/// A bzImage around a payload.
struct BzImageFixture {
    var file: Fields
    static let setupSize = 1024

    init(payload: [UInt8], preferredAddress: UInt64 = 0) {
        file = Fields(count: Self.setupSize)
        file.put(UInt8(1), at: 0x1f1)  // setup_sects
        file.put(UInt16(0xaa55), at: 0x1fe)
        file.put(UInt16(0x66eb), at: 0x200)  // the header ends at 0x268
        file.bytes.replaceSubrange(0x202..<0x206, with: Array("HdrS".utf8))
        file.put(UInt16(0x20f), at: 0x206)
        file.put(UInt32(0x7fff_ffff), at: 0x22c)  // initrd_addr_max
        file.put(UInt16(1), at: 0x236)  // XLF_KERNEL_64
        file.put(UInt32(2047), at: 0x238)  // cmdline_size
        file.put(UInt32(16), at: 0x248)  // payload_offset
        file.put(UInt32(payload.count), at: 0x24c)
        file.put(preferredAddress, at: 0x258)
        file.bytes += [UInt8](repeating: 0xcc, count: 16) + payload
    }
}

extension KernelImage {
    init(_ file: [UInt8], unpackingInto target: BootTarget? = nil) throws(BootError) {
        try self.init(file.span, unpackingInto: target)
    }
}
