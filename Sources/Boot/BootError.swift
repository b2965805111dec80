// SPDX-License-Identifier: Apache-2.0
// Why a kernel cannot be booted.

public import GuestMemory

public enum BootError: Error, Equatable, CustomStringConvertible {
    case notAKernel(firstBytes: String)
    case truncated(what: String, needed: UInt64, available: UInt64)
    case unsupportedProtocol(version: UInt16)
    case not64Bit
    case unsupportedCompression(magic: String)
    case decompressionFailed(format: String, reason: String)
    case invalidSegment(index: Int, reason: String)
    case doesNotFit(what: String, needed: UInt64, available: UInt64)
    case commandLineTooLong(bytes: Int, limit: Int)
    case memory(GuestMemoryError)

    public var description: String {
        switch self {
        case .notAKernel(let bytes):
            "kernel: neither a bzImage nor an ELF file (first bytes: \(bytes)); give a vmlinuz or a vmlinux"
        case .truncated(let what, let needed, let available):
            "kernel: \(what) needs \(needed) bytes, the file has \(available): it is truncated or damaged"
        case .unsupportedProtocol(let version):
            "kernel: boot protocol \(version >> 8).\(version & 0xff) is too old, 2.12 is needed (Linux 3.8)"
        case .not64Bit: "kernel: not a 64-bit x86 kernel"
        case .unsupportedCompression(let magic):
            "kernel: payload compression with magic \(magic) is not known (gzip, xz, lzma, zstd and lz4 are)"
        case .decompressionFailed(let format, let reason): "kernel: damaged \(format) payload: \(reason)"
        case .invalidSegment(let index, let reason): "kernel: ELF segment \(index): \(reason)"
        case .doesNotFit(let what, let needed, let available):
            "\(what) needs \(needed >> 20) MiB of guest memory, \(available >> 20) MiB are there: use a larger --memory"
        case .commandLineTooLong(let bytes, let limit):
            "kernel command line has \(bytes) bytes, this kernel takes \(limit)"
        case .memory(let error): error.description
        }
    }
}
