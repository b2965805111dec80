// SPDX-License-Identifier: Apache-2.0
// A stranger's disk image: opened, read, checked, written, repaired.

import DiskImage
import Glibc

private let path = "/dev/shm/smolvmm-fuzz-\(getpid()).qcow2"
private let largestDisk: UInt64 = 64 << 20

func fuzzQcow2(_ start: UnsafePointer<UInt8>, _ count: Int) -> Int32 {
    let descriptor = unsafe open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { return 0 }
    // SAFETY: libFuzzer's buffer has `count` bytes.
    unsafe _ = write(descriptor, start, count)
    close(descriptor)
    defer { unsafe _ = unlink(path) }
    var options = DiskOpenOptions()
    options.isDirect = false
    options.format = .qcow2
    options.isReadOnly = true
    if let image = try? DiskImage.open(path: path, options) { read(image) }
    _ = try? DiskTools.check(path: path)
    options.isReadOnly = false
    if let image = try? DiskImage.open(path: path, options) {
        use(image)
        read(image)
        try? image.close()
    }
    _ = try? DiskTools.check(path: path, repair: .all)
    return 0
}

/// Everything that is stored, as a copy would.
private func read(_ image: DiskImage) {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 16, alignment: 4096)
    defer { unsafe buffer.deallocate() }
    var offset: UInt64 = 0
    var left = 64
    while left > 0, offset < image.size, let stored = try? image.nextStored(from: offset) {
        left -= 1
        // SAFETY: not more than the buffer has.
        let part = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[..<min(buffer.count, stored.count)])
        guard (unsafe try? image.read(at: stored.lowerBound, into: part)) != nil else { return }
        offset = stored.lowerBound + UInt64(part.count)
    }
}

/// Requests of every kind, at places that depend on the size only.
private func use(_ image: DiskImage) {
    let size = min(image.size, largestDisk) & ~511
    guard size > 0 else { return }
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 8192, alignment: 4096)
    defer { unsafe buffer.deallocate() }
    unsafe _ = buffer.initializeMemory(as: UInt8.self, repeating: 0xa5)
    guard let start = buffer.baseAddress else { return }
    for step in 0..<12 as Range<UInt64> {
        let offset = (size / 12 * step) & ~511
        let count = min(size - offset, UInt64(buffer.count))
        switch step % 4 {
        case 0, 1: unsafe image.write(step, at: offset, from: [DiskBuffer(start: start, count: Int(count))])
        case 2: image.zero(step, at: offset, count: count, releasing: step > 6)
        default: image.discard(step, at: offset, count: count)
        }
        if step % 5 == 0 { image.flush(100 + step) }
    }
    image.drain()
    _ = image.takeCompletions()
}
