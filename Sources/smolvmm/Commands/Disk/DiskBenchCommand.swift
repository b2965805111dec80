// SPDX-License-Identifier: Apache-2.0
// `smolvmm disk bench`, for tools/bench: the requests of `qemu-img bench`, in the same order.

import ArgumentParser
import DiskImage

/// Hidden: a user's figures come from programs in a guest.
struct DiskBenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench", abstract: "Time requests to an image.", shouldDisplay: false)

    @Argument(help: "The image.", completion: .file())
    var file: String

    @Option(name: [.customShort("c"), .long], help: "Requests.")
    var count = 75_000

    @Option(name: [.customShort("d"), .long], help: "Requests under way at once.")
    var depth = 64

    @Option(name: [.customShort("s"), .long], help: "Bytes of a request.")
    var size = 4096

    @Option(
        name: [.customShort("S"), .long], help: "Bytes from a request's start to the next one's. (default: --size)")
    var step: UInt64?

    @Flag(name: [.customShort("w"), .long], help: "Write.")
    var write = false

    @Flag(help: "Through the host's cache.")
    var cached = false

    func validate() throws {
        guard count > 0, (1...DiskImage.depth).contains(depth), size > 0, size <= 1 << 28 else {
            throw ValidationError("--count, --depth (to \(DiskImage.depth)) and --size (to 256M) must be positive")
        }
    }

    func run() throws {
        var options = DiskOpenOptions()
        options.isReadOnly = !write
        options.isDirect = !cached
        let image = try DiskImage.open(path: file, options)
        guard image.size > UInt64(size) else { throw CommandError("\(file) is smaller than one request") }
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: depth * size, alignment: 4096)
        defer { unsafe memory.deallocate() }
        unsafe _ = memory.initializeMemory(as: UInt8.self, repeating: 0x5a)
        guard let start = memory.baseAddress else { return }

        var offset: UInt64 = 0
        var begun = 0
        var ended = 0
        var free = Array(0..<depth)
        let since = ContinuousClock.now
        while ended < count {
            while begun < count, let slot = free.popLast() {
                // SAFETY: each slot has `size` bytes of the memory.
                let buffer = unsafe DiskBuffer(start: start + slot * size, count: size)
                if write {
                    image.write(UInt64(slot), at: offset, from: [buffer])
                } else {
                    image.read(UInt64(slot), at: offset, into: [buffer])
                }
                begun += 1
                // As qemu-img bench does: with other offsets the host reads other amounts ahead.
                offset = (offset &+ (step ?? UInt64(size))) % image.size
                if image.size - offset < UInt64(size) { offset = 0 }
            }
            image.kick()
            for completion in image.takeCompletions(waiting: true) {
                guard completion.error == 0 else {
                    throw CommandError("a request failed with error \(completion.error)")
                }
                free.append(Int(completion.token))
                ended += 1
            }
        }
        let milliseconds = (ContinuousClock.now - since) / .milliseconds(1)
        let whole = Int(milliseconds)
        writeAll("Run completed in \(whole / 1000).\(String(whole % 1000 + 1000).dropFirst()) seconds.\n", to: 1)
        try image.close()
    }
}
