// SPDX-License-Identifier: Apache-2.0
// Writing into guest memory before the first instruction: where things go, and the zero page.
// Linux Documentation/arch/x86/zero-page.rst.

import GuestMemory

/// Fixed places below 1 MiB.
enum BootLayout {
    static let setupData: UInt64 = 0x6000
    static let zeroPage: UInt64 = 0x7000
    static let stack: UInt64 = 0x8ff0
    static let commandLine: UInt64 = 0x2_0000
    /// Where software expects the reset vector in real mode, in the firmware's part of the first MiB.
    static let legacyResetVector: UInt64 = 0xf_fff0
    /// Offset in the ROM of the 16 bytes that belong there.
    static let restartEntry = 0xffe0
    static let handOver = GuestMemory.romStart.rawValue + 0xff00
    /// Conventional memory ends here; the rest of the first MiB belongs to firmware tables.
    static let conventionalEnd: UInt64 = 0x9_fc00
    static let highMemory: UInt64 = 0x10_0000
    /// What a kernel gets beyond its image and the initramfs.
    static let workingSpace: UInt64 = 8 << 20
}

/// Guest memory as the loader sees it.
struct BootTarget {
    /// Types of memory in the map that the kernel gets. ACPI specification, 15.1.
    private enum MapType: UInt32 {
        case usable = 1
        case reserved = 2
    }

    private let memory: GuestMemory

    init(_ memory: GuestMemory) { self.memory = memory }

    /// End of RAM below the hole.
    var lowEnd: UInt64 { min(memory.size, GuestMemory.holeStart.rawValue) }

    func write(_ bytes: [UInt8], at address: UInt64) throws(BootError) { try write(bytes.span, at: address) }

    func write(_ bytes: borrowing Span<UInt8>, at address: UInt64) throws(BootError) {
        do throws(GuestMemoryError) {
            try memory.write(bytes, at: GuestPhysicalAddress(address))
        } catch {
            throw .memory(error)
        }
    }

    func write<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at address: UInt64) throws(BootError) {
        do throws(GuestMemoryError) {
            try memory.store(value, at: GuestPhysicalAddress(address))
        } catch {
            throw .memory(error)
        }
    }

    /// `size` bytes of RAM below the hole to write to; nil where they are not all there, or below the first MiB.
    func room(at address: UInt64, size: Int) -> UnsafeMutableBufferPointer<UInt8>? {
        let (end, overflow) = address.addingReportingOverflow(UInt64(size))
        guard !overflow, address >= BootLayout.highMemory, end <= lowEnd,
            let host = unsafe try? memory.hostPointer(at: GuestPhysicalAddress(address), count: UInt64(size))
        else { return nil }
        memory.willChange(GuestPhysicalAddress(address), count: UInt64(size))
        // SAFETY: `hostPointer` checked the size.
        return unsafe UnsafeMutableBufferPointer(start: host.assumingMemoryBound(to: UInt8.self), count: size)
    }

    /// Moves `count` bytes of RAM.
    func move(_ source: UInt64, to destination: UInt64, count: Int) throws(BootError) {
        guard source != destination, count > 0 else { return }
        do throws(GuestMemoryError) {
            let from = unsafe try memory.hostPointer(at: GuestPhysicalAddress(source), count: UInt64(count))
            let to = unsafe try memory.hostPointer(at: GuestPhysicalAddress(destination), count: UInt64(count))
            memory.willChange(GuestPhysicalAddress(destination), count: UInt64(count))
            // SAFETY: both have `count` bytes; they may overlap.
            unsafe to.copyMemory(from: from, byteCount: count)
        } catch {
            throw .memory(error)
        }
    }

    /// Zeroes what is not zero already, page by page, so that untouched pages stay untouched.
    func clear(_ start: UInt64, to end: UInt64) throws(BootError) {
        var address = start
        while address < end {
            let count = min(4096 - (address & 4095), end - address)
            let bits: UInt8
            do throws(GuestMemoryError) {
                let host = unsafe try memory.hostPointer(at: GuestPhysicalAddress(address), count: count)
                // SAFETY: `hostPointer` checked the count.
                bits = unsafe UnsafeRawBufferPointer(start: host, count: Int(count)).reduce(0, |)
            } catch {
                throw .memory(error)
            }
            if bits != 0 { try write([UInt8](repeating: 0, count: Int(count)), at: address) }
            address += count
        }
    }

    /// boot_params: setup header, initramfs, command line, ACPI root pointer, memory map.
    func writeZeroPage(
        _ image: KernelImage, initramfs: UInt64, count: Int, rsdp: GuestPhysicalAddress, reserved: [ReservedRange]
    ) throws(BootError) {
        let page = BootLayout.zeroPage
        try write([UInt8](repeating: 0, count: 4096), at: page)
        try write(image.setupHeader, at: page + 0x1f1)
        try write(rsdp.rawValue, at: page + 0x70)
        try write(UInt16(0xaa55), at: page + 0x1fe)
        try write(UInt32(0x5372_6448), at: page + 0x202)
        try write(UInt8(0xff), at: page + 0x210)  // type_of_loader: unassigned
        try write(UInt8(1), at: page + 0x211)  // loadflags: LOADED_HIGH
        try write(UInt32(truncatingIfNeeded: initramfs), at: page + 0x218)
        try write(UInt32(truncatingIfNeeded: count), at: page + 0x21c)
        try write(UInt32(BootLayout.commandLine), at: page + 0x228)
        try writeSeed()
        try write(BootLayout.setupData, at: page + 0x250)  // setup_data
        let map = memoryMap(reserved)
        try write(UInt8(map.count), at: page + 0x1e8)
        for (index, entry) in map.enumerated() {
            let at = page + 0x2d0 + UInt64(index) * 20
            try write(entry.start, at: at)
            try write(entry.size, at: at + 8)
            try write(entry.type.rawValue, at: at + 16)
        }
    }

    /// Random bytes from the host, in a `setup_data` node that the kernel erases when it has used them: its own random
    /// numbers are good from the start, and it does not wait for them.
    private func writeSeed() throws(BootError) {
        let randomSeed: UInt32 = 9  // SETUP_RNG_SEED
        let words = 4
        try write(UInt64(0), at: BootLayout.setupData)  // no next node
        try write(randomSeed, at: BootLayout.setupData + 8)
        try write(UInt32(words * 8), at: BootLayout.setupData + 12)
        for word in 0..<UInt64(words) {
            try write(UInt64.random(in: 0...UInt64.max), at: BootLayout.setupData + 16 + word * 8)
        }
    }

    private func memoryMap(_ reserved: [ReservedRange]) -> [(start: UInt64, size: UInt64, type: MapType)] {
        var map: [(start: UInt64, size: UInt64, type: MapType)] = [
            (0, BootLayout.conventionalEnd, .usable), (BootLayout.highMemory, lowEnd - BootLayout.highMemory, .usable),
        ]
        if memory.size > lowEnd { map.append((GuestMemory.holeEnd.rawValue, memory.size - lowEnd, .usable)) }
        map.append((GuestMemory.romStart.rawValue, GuestMemory.romSize, .reserved))
        map += reserved.prefix(64).map { ($0.start.rawValue, $0.size, .reserved) }
        return map
    }
}
