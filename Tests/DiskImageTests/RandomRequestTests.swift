// SPDX-License-Identifier: Apache-2.0
// Random requests on images of every kind: the disk is what its model is, and QEMU's tools agree.

import DiskImage
import TestSupport
import Testing

struct RandomRequestTests {
    private static let rounds = 6
    private static let requests = 250

    @Test(arguments: ImageKind.all)
    func `a disk is what was done to it`(kind: ImageKind) throws {
        let folder = try TemporaryFolder()
        var chance = SplitMix64(seed: 1)
        let (path, content) = try kind.make(in: folder, &chance)
        var model = DiskModel(content)
        for _ in 0..<(kind.isScratch ? 1 : Self.rounds) {
            let exerciser = Exerciser(try kind.open(path, in: folder), model, chance)
            for _ in 0..<Self.requests {
                exerciser.request()
                if exerciser.chance.oneIn(6) { exerciser.collect() }
            }
            exerciser.collect(all: true)
            #expect(exerciser.model.difference(try Exerciser.content(exerciser.disk)) == nil)
            try exerciser.disk.close()
            if !kind.isScratch { try Self.compareWithQEMU(path, kind, folder, exerciser.model) }
            model = exerciser.model
            chance = exerciser.chance
        }
    }

    @Test(arguments: ImageKind.all)
    func `a frozen disk is what it was while requests go on`(kind: ImageKind) throws {
        let folder = try TemporaryFolder()
        var chance = SplitMix64(seed: 2)
        let (path, content) = try kind.make(in: folder, &chance)
        let exerciser = Exerciser(try kind.open(path, in: folder), DiskModel(content), chance)
        for round in 0..<3 {
            for _ in 0..<200 { exerciser.request() }
            exerciser.collect(all: true)
            let then = exerciser.model
            let view = try exerciser.disk.freeze(scratchFolder: folder.path, aboveBases: false)
            #expect(view.size == UInt64(then.bytes.count))
            var position: UInt64 = 0
            while position < view.size {
                for _ in 0..<12 { exerciser.request() }
                if round > 0 { exerciser.collect() }
                let stored = try view.nextStored(from: position) ?? view.size..<view.size
                // What is not stored reads as zero.
                let gap = [UInt8](repeating: 0, count: Int(stored.lowerBound - position))
                if let sector = then.difference(gap, at: Int(position)) {
                    Issue.record("sector \(sector) is not stored, but has something")
                    return
                }
                var next = stored.lowerBound
                while next < stored.upperBound {
                    let end = min(stored.upperBound, (next | 0xffff) + 1)
                    let bytes = try Exerciser.content(view, next..<end)
                    if let sector = then.difference(bytes, at: Int(next)) {
                        Issue.record("sector \(sector) of the view has changed")
                        return
                    }
                    for _ in 0..<3 { exerciser.request() }
                    next = end
                }
                position = max(stored.upperBound, position + 1)
            }
            exerciser.disk.thaw()
            exerciser.collect(all: true)
            #expect(exerciser.model.difference(try Exerciser.content(exerciser.disk)) == nil)
        }
        try exerciser.disk.close()
    }

    /// `qemu-img check` finds nothing, not even leaks, and `qemu-img convert` reads the same bytes.
    static func compareWithQEMU(_ path: String, _ kind: ImageKind, _ folder: TemporaryFolder, _ model: DiskModel) throws
    {
        let format = kind.options == nil ? "raw" : "qcow2"
        if kind.options != nil {
            guard let check = runProgram(["qemu-img", "check", "-U", "-q", path]) else {
                return print("skipped: there is no qemu-img on this host")
            }
            #expect(check.status == 0, "\(check.output)")
        }
        let copy = folder.file("copy")
        guard let convert = runProgram(["qemu-img", "convert", "-U", "-f", format, "-O", "raw", path, copy]) else {
            return
        }
        #expect(convert.status == 0, "\(convert.output)")
        #expect(model.difference(try readFile(copy)) == nil)
    }
}
