// SPDX-License-Identifier: Apache-2.0
// The compressed payload of a bzImage, unpacked on the host: a guest's own decompressor is most of a slow boot.

internal import CHost
internal import CLz4
internal import CLzma
internal import CZlib
internal import CZstd
internal import Host

/// What `scripts/Makefile.lib` of Linux packs: the compressed image, then its size in four bytes.
struct Payload {
    private enum Format: String {
        case none, gzip, xz, lzma, zstd, lz4
    }

    /// No kernel unpacks to more.
    private static let largest: UInt64 = 1 << 30

    private let format: Format
    /// Bytes when unpacked.
    let size: Int

    init(_ bytes: borrowing Span<UInt8>) throws(BootError) {
        guard bytes.count > 12 else {
            throw .truncated(what: "its payload", needed: 12, available: UInt64(bytes.count))
        }
        let magic = LittleEndian(bytes.extracting(first: 4).array)[0, 4]
        let size = LittleEndian(bytes.extracting(last: 4).array)[0, 4]
        guard size <= Self.largest else {
            throw .decompressionFailed(format: "compressed", reason: "it claims to unpack to \(size) bytes")
        }
        switch magic {
        case 0x464c_457f: format = .none
        case _ where magic & 0xffff == 0x8b1f: format = .gzip
        case 0x587a_37fd: format = .xz
        case _ where magic & 0xff_ffff == 0x00_005d: format = .lzma
        case 0xfd2f_b528: format = .zstd
        case 0x184c_2102: format = .lz4
        default: throw .unsupportedCompression(magic: "0x" + String(magic, radix: 16))
        }
        self.size = format == .none ? bytes.count : Int(size)
    }

    /// Bytes that the host is asked for at a time.
    private static let piece: UInt = 2 << 20

    /// The unpacked image; `bytes` are those that it was made with.
    func unpack(_ bytes: borrowing Span<UInt8>) throws(BootError) -> [UInt8] {
        var failure: String?
        let output = unsafe bytes.withUnsafeBufferPointer { input in
            unsafe [UInt8](unsafeUninitializedCapacity: size) { output, count in
                // SAFETY: the array's own bytes.
                unsafe chost_prefer_large_pages(output.baseAddress, output.count)
                failure = unsafe unpack(input, into: output, &count)
            }
        }
        if let failure { throw .decompressionFailed(format: format.rawValue, reason: failure) }
        return output
    }

    /// Unpacks the image into `output`, of `size` bytes. A second thread has the host provide their memory from the end
    /// on, which takes longer than to unpack most kernels.
    func unpack(_ bytes: borrowing Span<UInt8>, into output: UnsafeMutableBufferPointer<UInt8>) throws(BootError) {
        var count = 0
        var failure: String?
        let start = UInt(bitPattern: output.baseAddress)
        let size = UInt(output.count)
        unsafe bytes.withUnsafeBufferPointer { input in
            withHelperThreads(1) {
                for offset in stride(from: size / Self.piece * Self.piece, through: 0, by: -Int(Self.piece)) {
                    unsafe chost_provide_memory(
                        UnsafeMutableRawPointer(bitPattern: start + offset), Int(min(Self.piece, size - offset)))
                }
            } body: {
                failure = unsafe unpack(input, into: output, &count)
            }
        }
        if let failure {
            throw .decompressionFailed(format: format.rawValue, reason: failure)
        }
    }

    /// Returns why it cannot be unpacked, if so; `count` bytes have been written.
    private func unpack(_ input: Input, into output: Output, _ count: inout Int) -> String? {
        let failure: String?
        switch format {
        case .none:
            (_, count) = unsafe output.update(from: input)
            failure = nil
        case .gzip: failure = unsafe Self.gzip(input, output, &count)
        case .xz, .lzma: failure = unsafe Self.lzma(input, output, &count)
        case .zstd: failure = unsafe Self.zstd(input, output, &count)
        case .lz4: failure = unsafe Self.lz4(input, output, &count)
        }
        return failure ?? (count == size ? nil : "\(count) bytes instead of \(size)")
    }

    private typealias Input = UnsafeBufferPointer<UInt8>
    private typealias Output = UnsafeMutableBufferPointer<UInt8>

    private static func gzip(_ input: Input, _ output: Output, _ count: inout Int) -> String? {
        var stream = unsafe z_stream()
        // SAFETY: zlib does not write to its input.
        unsafe stream.next_in = UnsafeMutablePointer(mutating: input.baseAddress)
        unsafe stream.avail_in = UInt32(input.count)
        unsafe stream.next_out = output.baseAddress
        unsafe stream.avail_out = UInt32(output.count)
        // SAFETY: the stream reads and writes within the two buffers' counts. 16 asks for a gzip header.
        var result = unsafe inflateInit2_(&stream, 15 + 16, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size))
        if result == Z_OK {
            result = unsafe inflate(&stream, Z_FINISH)
            count = unsafe output.count - Int(stream.avail_out)
            unsafe inflateEnd(&stream)
        }
        return result == Z_STREAM_END ? nil : "zlib error \(result)"
    }

    private static func lzma(_ input: Input, _ output: Output, _ count: inout Int) -> String? {
        var stream = unsafe lzma_stream()
        // SAFETY: the stream reads and writes within the two buffers' counts.
        var result = unsafe lzma_auto_decoder(&stream, 1 << 30, 0)
        unsafe stream.next_in = input.baseAddress
        unsafe stream.avail_in = input.count
        unsafe stream.next_out = output.baseAddress
        unsafe stream.avail_out = output.count
        while result == LZMA_OK, unsafe stream.avail_out > 0 { result = unsafe lzma_code(&stream, LZMA_RUN) }
        count = unsafe output.count - stream.avail_out
        unsafe lzma_end(&stream)
        return count == output.count ? nil : "liblzma error \(result.rawValue)"
    }

    private static func zstd(_ input: Input, _ output: Output, _ count: inout Int) -> String? {
        // SAFETY: both sizes are those of the buffers; the last four bytes are the size, not zstd's.
        let written = unsafe ZSTD_decompress(output.baseAddress, output.count, input.baseAddress, input.count - 4)
        if ZSTD_isError(written) != 0 { return unsafe String(cString: ZSTD_getErrorName(written)) }
        count = written
        return nil
    }

    /// The legacy frame: chunks of at most 8 MiB, each with its packed size before it.
    private static func lz4(_ input: Input, _ output: Output, _ count: inout Int) -> String? {
        let input = UnsafeRawBufferPointer(input)
        var position = 4
        while count < output.count, position + 4 <= input.count - 4 {
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
                Int32(min(output.count - count, 8 << 20)))
            if written < 0 { break }
            count += Int(written)
            position += packed
        }
        return count == output.count ? nil : "it ends early"
    }
}
