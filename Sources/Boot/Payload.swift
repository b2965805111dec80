// SPDX-License-Identifier: Apache-2.0
// The compressed payload of a bzImage, unpacked on the host: a guest's own decompressor is most of a slow boot.

internal import CHost
internal import CLz4
internal import CLzma
internal import CZlib
internal import CZstd

/// Unpacks what `scripts/Makefile.lib` of Linux packs: the compressed image, then its size in four bytes.
enum Payload {
    /// No kernel unpacks to more.
    private static let largest: UInt64 = 1 << 30

    static func unpack(_ bytes: ArraySlice<UInt8>) throws(BootError) -> [UInt8] {
        guard bytes.count > 12 else {
            throw .truncated(what: "its payload", needed: 12, available: UInt64(bytes.count))
        }
        let magic = LittleEndian(Array(bytes.prefix(4)))[0, 4]
        let size = LittleEndian(Array(bytes.suffix(4)))[0, 4]
        guard size <= largest else {
            throw .decompressionFailed(format: "compressed", reason: "it claims to unpack to \(size) bytes")
        }
        switch magic {
        case 0x464c_457f: return Array(bytes)
        case _ where magic & 0xffff == 0x8b1f: return try gzip(bytes, Int(size))
        case 0x587a_37fd: return try lzma(bytes, Int(size), format: "xz")
        case _ where magic & 0xff_ffff == 0x00_005d: return try lzma(bytes, Int(size), format: "lzma")
        case 0xfd2f_b528: return try zstd(bytes, Int(size))
        case 0x184c_2102: return try lz4(bytes, Int(size))
        default: throw .unsupportedCompression(magic: "0x" + String(magic, radix: 16))
        }
    }

    private static func failed(_ format: String, _ reason: String) -> BootError {
        .decompressionFailed(format: format, reason: reason)
    }

    /// An array of up to `size` bytes that `body` writes.
    private static func uninitialized(
        _ size: Int, _ body: (UnsafeMutableBufferPointer<UInt8>, inout Int) -> Void
    ) -> [UInt8] {
        unsafe [UInt8](unsafeUninitializedCapacity: size) { output, count in
            // SAFETY: the array's own bytes.
            unsafe chost_prefer_large_pages(output.baseAddress, output.count)
            unsafe body(output, &count)
        }
    }

    private static func gzip(_ input: ArraySlice<UInt8>, _ size: Int) throws(BootError) -> [UInt8] {
        var result = Z_OK
        let output = unsafe uninitialized(size) { output, count in
            unsafe input.withUnsafeBufferPointer { input in
                var stream = unsafe z_stream()
                // SAFETY: zlib does not write to its input.
                unsafe stream.next_in = UnsafeMutablePointer(mutating: input.baseAddress)
                unsafe stream.avail_in = UInt32(input.count)
                unsafe stream.next_out = output.baseAddress
                unsafe stream.avail_out = UInt32(output.count)
                // SAFETY: the stream reads and writes within the two buffers' counts. 16 asks for a gzip header.
                result = unsafe inflateInit2_(&stream, 15 + 16, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size))
                if result == Z_OK {
                    result = unsafe inflate(&stream, Z_FINISH)
                    count = unsafe output.count - Int(stream.avail_out)
                    unsafe inflateEnd(&stream)
                }
            }
        }
        guard result == Z_STREAM_END, output.count == size else { throw failed("gzip", "zlib error \(result)") }
        return output
    }

    private static func lzma(_ input: ArraySlice<UInt8>, _ size: Int, format: String) throws(BootError) -> [UInt8] {
        var result = LZMA_PROG_ERROR
        let output = unsafe uninitialized(size) { output, count in
            unsafe input.withUnsafeBufferPointer { input in
                var stream = unsafe lzma_stream()
                // SAFETY: the stream reads and writes within the two buffers' counts.
                result = unsafe lzma_auto_decoder(&stream, 1 << 30, 0)
                unsafe stream.next_in = input.baseAddress
                unsafe stream.avail_in = input.count
                unsafe stream.next_out = output.baseAddress
                unsafe stream.avail_out = output.count
                while result == LZMA_OK, unsafe stream.avail_out > 0 { result = unsafe lzma_code(&stream, LZMA_RUN) }
                count = unsafe output.count - stream.avail_out
                unsafe lzma_end(&stream)
            }
        }
        guard output.count == size else { throw failed(format, "liblzma error \(result.rawValue)") }
        return output
    }

    private static func zstd(_ input: ArraySlice<UInt8>, _ size: Int) throws(BootError) -> [UInt8] {
        var failure: String?
        let output = unsafe uninitialized(size) { output, count in
            unsafe input.withUnsafeBufferPointer { input in
                // SAFETY: both sizes are those of the buffers; the last four bytes are the size, not zstd's.
                let written = unsafe ZSTD_decompress(
                    output.baseAddress, output.count, input.baseAddress, input.count - 4)
                if ZSTD_isError(written) != 0 {
                    failure = unsafe String(cString: ZSTD_getErrorName(written))
                } else {
                    count = written
                }
            }
        }
        if let failure { throw failed("zstd", failure) }
        guard output.count == size else { throw failed("zstd", "\(output.count) bytes instead of \(size)") }
        return output
    }

    /// The legacy frame: chunks of at most 8 MiB, each with its packed size before it.
    private static func lz4(_ input: ArraySlice<UInt8>, _ size: Int) throws(BootError) -> [UInt8] {
        var intact = true
        let output = unsafe uninitialized(size) { output, count in
            unsafe input.withUnsafeBytes { input in
                var position = 4
                while count < size, position + 4 <= input.count - 4 {
                    // SAFETY: four bytes are there.
                    let packed = unsafe Int(
                        UInt32(littleEndian: input.loadUnaligned(fromByteOffset: position, as: UInt32.self)))
                    position += 4
                    guard packed > 0, packed <= input.count - 4 - position, let from = input.baseAddress,
                        let to = output.baseAddress
                    else { break }
                    // SAFETY: `packed` bytes lie in `input`, and the rest of `output` is the room given.
                    let written = unsafe LZ4_decompress_safe(
                        from.assumingMemoryBound(to: CChar.self) + position,
                        UnsafeMutableRawPointer(to).assumingMemoryBound(to: CChar.self) + count, Int32(packed),
                        Int32(min(size - count, 8 << 20)))
                    if written < 0 { break }
                    count += Int(written)
                    position += packed
                }
                intact = count == size
            }
        }
        guard intact else { throw failed("lz4", "it ends early") }
        return output
    }
}
