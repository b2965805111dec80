// SPDX-License-Identifier: Apache-2.0
// A process or host that dies at any moment: of what was written after the last sync, any sectors may be in the file.

@testable import DiskImage
import TestSupport
import Testing

/// Everything that reached the file, in order.
private final class Recorder: ImageFileObserver {
    enum Event {
        case write([UInt8], UInt64)
        case truncate(UInt64)
        case sync
    }

    var events: [Event] = []

    func wrote(_ bytes: [UInt8], at offset: UInt64) { events.append(.write(bytes, offset)) }
    func truncated(to size: UInt64) { events.append(.truncate(size)) }
    func synced() { events.append(.sync) }

    /// The file after the first `count` events, when of those behind the last sync only some sectors arrived.
    func file(_ start: [UInt8], after count: Int, _ chance: inout SplitMix64) -> [UInt8] {
        var bytes = start
        let happened = events[..<count]
        let durable = happened.lastIndex { if case .sync = $0 { true } else { false } } ?? 0
        // All, none or some of it.
        let mood = chance.below(4)
        for (index, event) in happened.enumerated() {
            switch event {
            case .sync: break
            case .truncate(let size):
                if bytes.count > size { bytes.removeLast(bytes.count - Int(size)) }
                bytes += [UInt8](repeating: 0, count: Int(size) - bytes.count)
            case .write(let data, let offset):
                for start in stride(from: 0, to: data.count, by: 512) {
                    let arrives = index < durable || mood == 0 || (mood > 1 && chance.oneIn(2))
                    guard arrives else { continue }
                    let end = min(start + 512, data.count)
                    let place = Int(offset) + start
                    if bytes.count < place + end - start {
                        bytes += [UInt8](repeating: 0, count: place + end - start - bytes.count)
                    }
                    bytes.replaceSubrange(place..<place + end - start, with: data[start..<end])
                }
            }
        }
        return bytes
    }
}

struct CrashTests {
    /// What was flushed, and how many events had happened by then.
    private struct Flushed {
        var events: Int
        var model: DiskModel
    }

    @Test(arguments: ImageKind.durable)
    func `whenever it dies, the image is whole and has everything that was flushed`(kind: ImageKind) throws {
        let folder = try TemporaryFolder()
        var chance = SplitMix64(seed: 3)
        let (path, content) = try kind.make(in: folder, &chance)
        let start = try readFile(path)
        let disk = try kind.open(path, in: folder)
        let recorder = Recorder()
        disk.layers[0].file.observer = recorder
        let exerciser = Exerciser(disk, DiskModel(content), chance)
        var flushes = [Flushed(events: 0, model: exerciser.model)]
        // The model after each batch of requests, which ends with a flush or not.
        var batches = [(events: 0, model: exerciser.model)]
        for _ in 0..<40 {
            for _ in 0..<12 { exerciser.request() }
            exerciser.collect(all: true)
            batches.append((recorder.events.count, exerciser.model))
            if exerciser.chance.oneIn(2) {
                let before = exerciser.model
                disk.flush(.max)
                disk.drain()
                #expect(disk.takeCompletions().map(\.error) == [0])
                flushes.append(Flushed(events: recorder.events.count, model: before))
            }
        }
        let total = recorder.events.count
        for _ in 0..<30 {
            let count = Int(exerciser.chance.below(UInt64(total) + 1))
            let dead = folder.file("dead")
            try writeFile(recorder.file(start, after: count, &exerciser.chance), to: dead)
            guard let flushed = flushes.last(where: { $0.events <= count }) else { continue }
            // Sectors that later requests touched may be new, old, or in between.
            let later = batches.first { $0.events >= count }?.model ?? exerciser.model
            try Self.examine(dead, kind, folder, flushed.model, touched: Self.changes(flushed, batches, later, count))
        }
        try disk.close()
    }

    /// Sectors that requests after the flush may have changed until the end came.
    private static func changes(
        _ flushed: Flushed, _ batches: [(events: Int, model: DiskModel)], _ last: DiskModel, _ count: Int
    ) -> [Bool] {
        var touched = last.unknown
        var models = batches.filter { $0.events > flushed.events && $0.events < count }.map(\.model)
        models.append(last)
        for model in models {
            for sector in touched.indices where !touched[sector] {
                let range = sector * DiskModel.sector..<(sector + 1) * DiskModel.sector
                touched[sector] = model.unknown[sector] || model.bytes[range] != flushed.model.bytes[range]
            }
        }
        return touched
    }

    private static func examine(
        _ path: String, _ kind: ImageKind, _ folder: TemporaryFolder, _ model: DiskModel, touched: [Bool]
    ) throws {
        if kind.options?.hasLazyRefcounts == true {
            // Its dirty bit says that refcounts are to be made anew: QEMU does that when it writes, and so do we.
            let copy = path + ".copy"
            try writeFile(try readFile(path), to: copy)
            _ = runProgram(["qemu-img", "check", "-q", "-r", "all", copy])
            if let check = runProgram(["qemu-img", "check", "-q", copy]) {
                #expect(check.status == 0, "\(check.output)")
            }
        } else if kind.options != nil, let check = runProgram(["qemu-img", "check", "-U", path]) {
            // 3: clusters that nobody uses.
            #expect(check.status == 0 || check.status == 3, "\(check.output)")
        }
        let disk = try kind.open(path, in: folder)
        if let sector = model.difference(try Exerciser.content(disk), except: touched) {
            Issue.record("sector \(sector) was flushed and is lost")
        }
        // It goes on from there.
        let exerciser = Exerciser(disk, DiskModel(try Exerciser.content(disk)), SplitMix64(seed: 4))
        for _ in 0..<30 { exerciser.request() }
        exerciser.collect(all: true)
        #expect(exerciser.model.difference(try Exerciser.content(disk)) == nil)
        try disk.close()
        if kind.options != nil, let check = runProgram(["qemu-img", "check", "-U", path]) {
            #expect(check.status == 0 || check.status == 3, "\(check.output)")
        }
    }
}
