// SPDX-License-Identifier: Apache-2.0
// Disks in a bundle: real qcow2 images that are used in place, each piece checked against its hash when it is first read.

internal import Host
public import DiskImage
internal import Synchronization

/// A disk that goes into a bundle.
public struct BundleDiskContents: Sendable {
    /// The disk, or what of it lies above `bases`.
    public var source: any DiskSource & Sendable
    /// Images that stay outside, the topmost first, as the configuration names them.
    public var bases: [any DiskSource & Sendable]

    public init(source: any DiskSource & Sendable, bases: [any DiskSource & Sendable] = []) {
        self.source = source
        self.bases = bases
    }
}

/// The hashes of a file's pieces: SHA-256 of each 64 KiB, the last one of what is left.
struct PieceHashes: Sendable {
    static let piece: UInt64 = 64 << 10

    private(set) var bytes: [UInt8]

    init(bytes: [UInt8]) { self.bytes = bytes }

    /// Room for the hashes of `size` bytes.
    init(size: UInt64) { bytes = [UInt8](repeating: 0, count: Int(Self.count(size)) * Digest.size) }

    /// Pieces of a file of `size` bytes.
    static func count(_ size: UInt64) -> UInt64 { (size + piece - 1) / piece }

    mutating func set(_ number: UInt64, _ hash: [UInt8]) {
        let start = Int(number) * Digest.size
        if bytes.count < start + Digest.size {
            bytes += [UInt8](repeating: 0, count: start + Digest.size - bytes.count)
        }
        bytes.replaceSubrange(start..<start + Digest.size, with: hash)
    }

    func matches(_ number: UInt64, _ piece: UnsafeRawBufferPointer) -> Bool {
        let start = Int(number) * Digest.size
        guard start + Digest.size <= bytes.count else { return false }
        // SAFETY: the range lies in `bytes`; the buffer is only used inside the closure.
        return unsafe bytes.withUnsafeBytes { hashes in
            unsafe Digest.matches(piece, UnsafeRawBufferPointer(rebasing: hashes[start..<start + Digest.size]))
        }
    }
}

extension PieceHashes {
    /// The hashes of all of `file`'s bytes; what it does not store is zeros.
    init(of file: any DiskSource, id: String) throws(BundleError) {
        self.init(size: file.size)
        guard let buffer = WorkBuffer(count: Int(Self.piece)) else { throw .outOfMemory(purpose: "hashing a disk") }
        do throws(DiskImageError) {
            // A sparse file is read only where it has data: all other pieces have the hash of zeros.
            unsafe _ = buffer.bytes.initializeMemory(as: UInt8.self, repeating: 0)
            let zeros = unsafe Digest.of(UnsafeRawBufferPointer(buffer.bytes))
            var stored = try file.nextStored(from: 0)
            for number in 0..<Self.count(file.size) {
                let size = Int(min(Self.piece, file.size - number * Self.piece))
                if let range = stored, range.upperBound <= number * Self.piece {
                    stored = try file.nextStored(from: number * Self.piece)
                }
                if size == Int(Self.piece), stored.map({ $0.lowerBound >= (number + 1) * Self.piece }) ?? true {
                    set(number, zeros)
                    continue
                }
                // SAFETY: `size` is at most a piece.
                let piece = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<size])
                unsafe try file.read(at: number * Self.piece, into: piece)
                unsafe set(number, Digest.of(UnsafeRawBufferPointer(piece)))
            }
        } catch {
            throw .disk(id: id, reason: error.description)
        }
    }
}

/// Size, hashes and CRC-32 of a disk as its clusters are written: from the second on, then the first.
final class DiskSink: ClusterObserver {
    private(set) var hashes = PieceHashes(bytes: [])
    private var first = CRC32()
    private var rest = CRC32()
    private(set) var size: UInt64 = 0

    func wrote(cluster number: UInt64, _ bytes: UnsafeRawBufferPointer) {
        unsafe hashes.set(number, Digest.of(bytes))
        size += UInt64(bytes.count)
        if number == 0 { unsafe first.update(bytes) } else { unsafe rest.update(bytes) }
    }

    var crc: CRC32 {
        var whole = first
        whole.append(rest, count: size - PieceHashes.piece)
        return whole
    }
}

/// Checks pieces of a file when they are first used. Any thread.
final class PieceVerifier: RangeVerifier {
    private let hashes: PieceHashes
    private let member: String
    private let size: UInt64
    private let file: InputFile
    /// Where the pieces start in the file.
    private let start: UInt64
    /// One bit for each piece that was right.
    private let verified: Mutex<[UInt64]>

    init(_ hashes: PieceHashes, member: String, file: InputFile, start: UInt64, size: UInt64) {
        self.hashes = hashes
        self.member = member
        self.file = file
        self.start = start
        self.size = size
        verified = Mutex([UInt64](repeating: 0, count: Int((PieceHashes.count(size) + 63) / 64)))
    }

    func verify(offset: UInt64, count: UInt64) throws(DiskImageError) {
        guard count > 0, offset < size else { return }
        let last = (min(offset + count, size) - 1) / PieceHashes.piece
        for number in offset / PieceHashes.piece...last {
            if verified.withLock({ $0[Int(number / 64)] >> (number % 64) & 1 == 1 }) { continue }
            try verifyPiece(number)
            verified.withLock { $0[Int(number / 64)] |= 1 << (number % 64) }
        }
    }

    func isVerified(offset: UInt64, count: UInt64) -> Bool {
        guard count > 0, offset < size else { return true }
        let numbers = offset / PieceHashes.piece...(min(offset + count, size) - 1) / PieceHashes.piece
        return verified.withLock { bits in numbers.allSatisfy { bits[Int($0 / 64)] >> ($0 % 64) & 1 == 1 } }
    }

    private func verifyPiece(_ number: UInt64) throws(DiskImageError) {
        let offset = number * PieceHashes.piece
        guard let buffer = WorkBuffer(count: Int(min(PieceHashes.piece, size - offset))) else {
            throw .outOfMemory(purpose: "checking \(member)")
        }
        do throws(BundleError) { unsafe try file.read(member, at: start + offset, into: buffer.bytes) } catch {
            throw .corrupt(path: member, reason: error.description)
        }
        guard unsafe hashes.matches(number, UnsafeRawBufferPointer(buffer.bytes)) else {
            throw .corrupt(path: member, reason: "the 64 KiB at offset \(offset) do not have their SHA-256")
        }
    }
}

extension BundleReader {
    /// The machine's disks, each under an overlay of its own in `scratchFolder` that ends with the process. Data is read
    /// from the bundle, and checked, when it is used.
    public func openDisks(scratchFolder: String) throws(BundleError) -> [DiskImage] {
        var disks: [DiskImage] = []
        for (index, disk) in manifest.configuration.disks.enumerated() {
            do throws(DiskImageError) {
                var files = [try diskFile(index)]
                for (number, base) in disk.bases.enumerated() { files.append(try baseFile(index, number, base)) }
                let image = try DiskImage.open(
                    chain: files, formats: [.qcow2] + disk.bases.map { DiskFormat(rawValue: $0.format) ?? .raw },
                    isReadOnly: disk.isReadOnly, scratchFolder: scratchFolder)
                guard image.size == disk.size else {
                    throw .corrupt(
                        path: BundleName.disk(index),
                        reason: "it has \(image.size) bytes, the manifest says \(disk.size)")
                }
                disks.append(image)
            } catch {
                throw .disk(id: disk.id, reason: error.description)
            }
        }
        return disks
    }

    /// Checks every piece of every disk, and the images' CRC-32s.
    func verifyDisks() throws(BundleError) {
        for index in manifest.configuration.disks.indices {
            let name = BundleName.disk(index)
            guard let entry = entries.first(where: { $0.name == name }) else { throw .noSuchMember(name) }
            let hashes = PieceHashes(bytes: try read(BundleName.diskHashes(index)))
            let start = try dataOffset(of: name)
            guard let buffer = WorkBuffer(count: Int(PieceHashes.piece)) else {
                throw .outOfMemory(purpose: "checking a disk")
            }
            var crc = CRC32()
            for number in 0..<PieceHashes.count(entry.size) {
                let offset = number * PieceHashes.piece
                // SAFETY: not more than a piece.
                let piece = unsafe UnsafeMutableRawBufferPointer(
                    rebasing: buffer.bytes[..<Int(min(PieceHashes.piece, entry.size - offset))])
                unsafe try file.read(name, at: start + offset, into: piece)
                guard unsafe hashes.matches(number, UnsafeRawBufferPointer(piece)) else {
                    throw .damaged(member: name, reason: "the 64 KiB at offset \(offset) do not have their SHA-256")
                }
                unsafe crc.update(UnsafeRawBufferPointer(piece))
            }
            guard crc.value == entry.crc else { throw Self.wrongCRC(name) }
        }
    }

    /// The image of disk `index`, in place.
    func diskFile(_ index: Int) throws(DiskImageError) -> ImageFile {
        let name = BundleName.disk(index)
        guard let entry = entries.first(where: { $0.name == name }) else {
            throw .corrupt(path: path, reason: "it has no member \(name)")
        }
        let start: UInt64
        do throws(BundleError) { start = try dataOffset(of: name) } catch {
            throw .corrupt(path: path, reason: error.description)
        }
        let verifier = PieceVerifier(
            try hashes(BundleName.diskHashes(index), entry.size), member: name, file: file, start: start,
            size: entry.size)
        return try ImageFile(
            path: "\(path):\(name)", descriptor: file.descriptor, start: start, size: entry.size, isPart: true,
            verifier: verifier)
    }

    private func hashes(_ name: String, _ size: UInt64) throws(DiskImageError) -> PieceHashes {
        let bytes: [UInt8]
        do throws(BundleError) { bytes = try read(name) } catch {
            throw .corrupt(path: path, reason: error.description)
        }
        guard UInt64(bytes.count) == PieceHashes.count(size) * UInt64(Digest.size) else {
            throw .corrupt(
                path: path, reason: "\(name) has \(bytes.count) bytes, not a hash for each 64 KiB of \(size)")
        }
        return PieceHashes(bytes: bytes)
    }

    /// An image outside of the bundle, which must be what it was.
    private func baseFile(
        _ index: Int, _ number: Int, _ base: DiskConfiguration.Base
    ) throws(DiskImageError) -> ImageFile {
        let hashes = try hashes(BundleName.baseHashes(index, number), base.fileBytes)
        let input: InputFile
        do throws(BundleError) { input = try InputFile(path: base.path) } catch {
            throw .backingRefused(image: path, backing: base.path, reason: error.description)
        }
        guard input.size == base.fileBytes else {
            throw .backingRefused(
                image: path, backing: base.path,
                reason: "it has \(input.size) bytes, had \(base.fileBytes) when the machine was frozen")
        }
        let verifier = PieceVerifier(hashes, member: base.path, file: input, start: 0, size: base.fileBytes)
        let image = try ImageFile(
            path: base.path, descriptor: input.descriptor, start: 0, size: input.size, isPart: false,
            verifier: verifier)
        // Untouched since: pieces are checked when they are used. Otherwise all of them are, before anything runs.
        if image.modified != base.modified {
            do throws(DiskImageError) { try verifier.verify(offset: 0, count: base.fileBytes) } catch {
                throw .backingRefused(
                    image: path, backing: base.path,
                    reason: "it is not what it was when the machine was frozen (\(error.description))")
            }
        }
        return image
    }
}
