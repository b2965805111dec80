// SPDX-License-Identifier: Apache-2.0
// A block device on a raw image of 1 MiB in which each sector has its number.

import DiskImage
import GuestMemory
import Virtio

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// An image file that is removed with the object.
final class TestImage {
    static let sectors: UInt64 = 2048

    let path: String

    init() throws {
        var template = Array("/var/tmp/smolvmm-virtio-XXXXXX".utf8CString)
        // SAFETY: the template is NUL-terminated.
        let descriptor = unsafe mkstemp(&template)
        defer { close(descriptor) }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        for sector in 0..<Self.sectors {
            let bytes = [UInt8](repeating: UInt8(truncatingIfNeeded: sector), count: 512)
            // SAFETY: `bytes` has the count that is passed.
            guard unsafe write(descriptor, bytes, bytes.count) == bytes.count else {
                throw DiskImageError.io(operation: "write", path: path, errno: errno)
            }
        }
    }

    deinit { unsafe _ = unlink(path) }

    func open(isReadOnly: Bool = false) throws -> DiskImage {
        var options = DiskOpenOptions()
        options.isReadOnly = isReadOnly
        options.isDirect = false
        options.format = .raw
        return try DiskImage.open(path: path, options)
    }
}

/// A driver of a block device.
struct BlockGuest {
    static let header = GuestDriver<BlockDevice>.data
    static let status = GuestDriver<BlockDevice>.data + 0x800
    static let buffer = GuestDriver<BlockDevice>.data + 0x1000

    let image: TestImage
    let driver: GuestDriver<BlockDevice>
    let device: BlockDevice

    init(isReadOnly: Bool = false, queues: Int = 1, size: UInt16 = 16) throws {
        image = try TestImage()
        device = BlockDevice(disk: try image.open(isReadOnly: isReadOnly), serial: "serial", queues: queues)
        driver = try GuestDriver(device, size: size)
        driver.start()
    }

    func setHeader(type: UInt32, sector: UInt64) {
        driver.store(type, at: Self.header)
        driver.store(UInt32(0), at: Self.header + 4)
        driver.store(sector, at: Self.header + 8)
        driver.store(UInt8(0xee), at: Self.status)
    }

    /// One request with `count` bytes of data; its status, or nil when it did not come back.
    func request(type: UInt32, sector: UInt64, count: UInt32, queue: Int = 0) -> UInt8? {
        setHeader(type: type, sector: sector)
        let data = count > 0 ? [(Self.buffer, count)] : []
        let isToDevice = type != 0 && type != 8
        driver.lend(
            readable: [(Self.header, 16)] + (isToDevice ? data : []),
            writable: (isToDevice ? [] : data) + [(Self.status, 1)], queue: queue)
        guard driver.takeUsed(queue) != nil else { return nil }
        return driver.load(UInt8.self, at: Self.status)
    }

    /// Whether reads work, as after a reset they must.
    var works: Bool {
        driver.start()
        guard request(type: 0, sector: 7, count: 512) == 0 else { return false }
        return driver.load(UInt8.self, at: Self.buffer) == 7 && !driver.isBroken
    }
}
