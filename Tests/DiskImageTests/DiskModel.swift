// SPDX-License-Identifier: Apache-2.0
// What a disk must have after the same requests, sector by sector, and random requests for both.

import DiskImage
import TestSupport
import Testing

/// The disk's bytes as they must be.
struct DiskModel {
    static let sector = 512

    var bytes: [UInt8]
    /// Sectors whose contents are anybody's guess: discarded ones.
    var unknown: [Bool]

    init(_ bytes: [UInt8]) {
        self.bytes = bytes
        unknown = Array(repeating: false, count: bytes.count / Self.sector)
    }

    mutating func write(_ new: [UInt8], at offset: Int) {
        bytes.replaceSubrange(offset..<offset + new.count, with: new)
        setUnknown(false, offset..<offset + new.count)
    }

    mutating func zero(_ range: Range<Int>) {
        bytes.replaceSubrange(range, with: repeatElement(0, count: range.count))
        setUnknown(false, range)
    }

    mutating func discard(_ range: Range<Int>) { setUnknown(true, range) }

    private mutating func setUnknown(_ value: Bool, _ range: Range<Int>) {
        for sector in range.lowerBound / Self.sector..<range.upperBound / Self.sector { unknown[sector] = value }
    }

    /// The first sector of `found`, which lies at `offset`, that is not what it must be.
    func difference(_ found: [UInt8], at offset: Int = 0, except touched: [Bool]? = nil) -> Int? {
        if touched == nil, found[...] == bytes[offset..<offset + found.count] { return nil }
        for start in stride(from: 0, to: found.count, by: Self.sector) {
            let sector = (offset + start) / Self.sector
            if unknown[sector] || touched?[sector] == true { continue }
            let end = min(start + Self.sector, found.count)
            if found[start..<end] != bytes[offset + start..<offset + end] { return sector }
        }
        return nil
    }
}

/// A disk, its model, and requests under way.
final class Exerciser {
    @safe private struct Request {
        var range: Range<Int>
        /// Nil for anything but a read.
        var expected: DiskModel?
        let memory: UnsafeMutableRawPointer
    }

    let disk: DiskImage
    var model: DiskModel
    var chance: SplitMix64
    private var underWay: [UInt64: Request] = [:]
    private var token: UInt64 = 0

    init(_ disk: DiskImage, _ model: DiskModel, _ chance: SplitMix64) {
        self.disk = disk
        self.model = model
        self.chance = chance
    }

    /// A random range of whole sectors that no request under way touches; nil when there was none to be found.
    private func freeRange() -> Range<Int>? {
        let sectors = UInt64(model.bytes.count / DiskModel.sector)
        for _ in 0..<8 {
            // Small ones are the rule, and half of them near each other.
            let count = min(sectors, chance.oneIn(8) ? 1 + chance.below(600) : 1 + chance.below(24))
            let area = chance.oneIn(2) ? min(sectors, 256) : sectors
            let first = chance.below(max(1, min(area, sectors - count + 1)))
            let range = Int(first) * DiskModel.sector..<Int(first + count) * DiskModel.sector
            if !underWay.values.contains(where: { $0.range.overlaps(range) }) { return range }
        }
        return nil
    }

    private func begin(_ range: Range<Int>, _ expected: DiskModel? = nil) -> DiskBuffer {
        token += 1
        // SAFETY: freed when the request has ended.
        let memory = UnsafeMutableRawPointer.allocate(byteCount: max(range.count, 1), alignment: 4096)
        unsafe underWay[token] = Request(range: range, expected: expected, memory: memory)
        return unsafe DiskBuffer(start: memory, count: range.count)
    }

    /// One random request.
    func request() {
        let kind = chance.below(20)
        guard kind > 0 else {
            _ = begin(0..<0)
            disk.flush(token)
            return
        }
        guard let range = freeRange() else { return }
        switch kind {
        case 1...9:
            let bytes = chance.bytes(range.count)
            let buffer = begin(range)
            // SAFETY: the buffer has the range's count.
            unsafe UnsafeMutableRawBufferPointer(start: buffer.start, count: buffer.count).copyBytes(from: bytes)
            model.write(bytes, at: range.lowerBound)
            disk.write(token, at: UInt64(range.lowerBound), from: split(buffer))
        case 10...14:
            let buffer = begin(range, model)
            disk.read(token, at: UInt64(range.lowerBound), into: split(buffer))
        case 15...17:
            _ = begin(range)
            model.zero(range)
            disk.zero(token, at: UInt64(range.lowerBound), count: UInt64(range.count), releasing: kind == 15)
        default:
            _ = begin(range)
            model.discard(range)
            disk.discard(token, at: UInt64(range.lowerBound), count: UInt64(range.count))
        }
    }

    /// Memory in two pieces now and then.
    private func split(_ buffer: DiskBuffer) -> [DiskBuffer] {
        guard buffer.count > DiskModel.sector, chance.oneIn(3) else { return [buffer] }
        let first = Int(chance.below(UInt64(buffer.count - 1))) + 1
        // SAFETY: both pieces lie in the buffer.
        return unsafe [
            DiskBuffer(start: buffer.start, count: first),
            DiskBuffer(start: buffer.start + first, count: buffer.count - first),
        ]
    }

    /// Hands requests on, and checks those that have ended.
    func collect(all: Bool = false) {
        disk.kick()
        if all { disk.drain() }
        for completion in disk.takeCompletions() {
            #expect(completion.error == 0)
            guard let request = underWay.removeValue(forKey: completion.token) else {
                Issue.record("request \(completion.token) ended twice")
                continue
            }
            // SAFETY: allocated with the range's count, freed once.
            let bytes = unsafe [UInt8](UnsafeRawBufferPointer(start: request.memory, count: request.range.count))
            unsafe request.memory.deallocate()
            guard let expected = request.expected else { continue }
            if let sector = expected.difference(bytes, at: request.range.lowerBound) {
                Issue.record("sector \(sector) was read wrong")
            }
        }
        if all { #expect(underWay.isEmpty) }
    }

    /// Everything that the disk has.
    static func content(_ source: any DiskSource) throws -> [UInt8] {
        try content(source, 0..<source.size)
    }

    static func content(_ source: any DiskSource, _ range: Range<UInt64>) throws -> [UInt8] {
        var failure: (any Error)?
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: range.count) { buffer, filled in
            // SAFETY: the buffer has the range's count.
            let part = unsafe UnsafeMutableRawBufferPointer(start: buffer.baseAddress, count: range.count)
            do { unsafe try source.read(at: range.lowerBound, into: part) } catch { failure = error }
            filled = failure == nil ? range.count : 0
        }
        if let failure { throw failure }
        return bytes
    }
}

extension SplitMix64 {
    mutating func below(_ limit: UInt64) -> UInt64 { next(upperBound: limit) }
    mutating func oneIn(_ count: UInt64) -> Bool { below(count) == 0 }

    mutating func bytes(_ count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count + 8)
        while bytes.count < count {
            let word = next()
            for shift in stride(from: UInt64(0), to: 64, by: 8) {
                bytes.append(UInt8(truncatingIfNeeded: word >> shift))
            }
        }
        bytes.removeLast(bytes.count - count)
        return bytes
    }
}
