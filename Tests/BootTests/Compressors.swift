// SPDX-License-Identifier: Apache-2.0
// Packs payloads the way that Linux does: the packed image, then its unpacked size in four bytes.

import CLz4
import CLzma
import CZlib
import CZstd

/// The compressions that a bzImage may have.
enum Compression: String, CaseIterable {
    case gzip, xz, lzma, zstd, lz4

    /// The payload of a bzImage, which says that it unpacks to `size` bytes (nil: the truth).
    func payload(_ bytes: [UInt8], size: UInt32? = nil) -> [UInt8] {
        let size = size ?? UInt32(bytes.count)
        return pack(bytes) + (0..<4).map { UInt8(truncatingIfNeeded: size >> UInt32($0 * 8)) }
    }

    private func pack(_ input: [UInt8]) -> [UInt8] {
        let capacity = input.count * 2 + 1024
        return unsafe [UInt8](unsafeUninitializedCapacity: capacity) { output, count in
            // SAFETY: every library gets the two buffers with their own sizes.
            unsafe input.withUnsafeBufferPointer { input in
                switch self {
                case .gzip: count = unsafe Self.gzip(input, output)
                case .xz, .lzma: count = unsafe Self.lzma(input, output, isLegacy: self == .lzma)
                case .zstd:
                    count = unsafe ZSTD_compress(output.baseAddress, output.count, input.baseAddress, input.count, 3)
                case .lz4: count = unsafe Self.lz4(input, output)
                }
            }
        }
    }

    private static func gzip(_ input: UnsafeBufferPointer<UInt8>, _ output: UnsafeMutableBufferPointer<UInt8>) -> Int {
        var stream = unsafe z_stream()
        unsafe stream.next_in = UnsafeMutablePointer(mutating: input.baseAddress)
        unsafe stream.avail_in = UInt32(input.count)
        unsafe stream.next_out = output.baseAddress
        unsafe stream.avail_out = UInt32(output.count)
        // SAFETY: the stream has both buffers' sizes. 16 asks for a gzip header.
        unsafe _ = deflateInit2_(
            &stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size))
        unsafe _ = deflate(&stream, Z_FINISH)
        let left = unsafe Int(stream.avail_out)
        unsafe _ = deflateEnd(&stream)
        return output.count - left
    }

    private static func lzma(
        _ input: UnsafeBufferPointer<UInt8>, _ output: UnsafeMutableBufferPointer<UInt8>, isLegacy: Bool
    ) -> Int {
        var stream = unsafe lzma_stream()
        var options = unsafe lzma_options_lzma()
        unsafe _ = lzma_lzma_preset(&options, 6)
        // SAFETY: the stream has both buffers' sizes.
        if isLegacy {
            unsafe _ = lzma_alone_encoder(&stream, &options)
        } else {
            unsafe _ = lzma_easy_encoder(&stream, 6, LZMA_CHECK_CRC32)
        }
        unsafe stream.next_in = input.baseAddress
        unsafe stream.avail_in = input.count
        unsafe stream.next_out = output.baseAddress
        unsafe stream.avail_out = output.count
        while unsafe lzma_code(&stream, LZMA_FINISH) == LZMA_OK {}
        let left = unsafe stream.avail_out
        unsafe lzma_end(&stream)
        return output.count - left
    }

    /// The legacy frame: a magic number, then chunks of at most 8 MiB with their packed sizes.
    private static func lz4(_ input: UnsafeBufferPointer<UInt8>, _ output: UnsafeMutableBufferPointer<UInt8>) -> Int {
        func put(_ value: UInt32, at position: Int) {
            // SAFETY: positions are below the output's count by far.
            for byte in 0..<4 { unsafe output[position + byte] = UInt8(truncatingIfNeeded: value >> UInt32(byte * 8)) }
        }
        put(0x184c_2102, at: 0)
        var position = 4
        for start in stride(from: 0, to: input.count, by: 8 << 20) {
            let size = min(8 << 20, input.count - start)
            guard let from = input.baseAddress, let to = output.baseAddress else { return 0 }
            // SAFETY: the chunk lies in the input; the output has twice its size.
            let packed = unsafe LZ4_compress_default(
                UnsafeRawPointer(from + start).assumingMemoryBound(to: CChar.self),
                UnsafeMutableRawPointer(to + position + 4).assumingMemoryBound(to: CChar.self), Int32(size),
                Int32(output.count - position - 4))
            put(UInt32(packed), at: position)
            position += 4 + Int(packed)
        }
        return position
    }
}
