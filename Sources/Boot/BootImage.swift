// SPDX-License-Identifier: Apache-2.0
// A kernel, its initramfs and command line, placed in guest memory behind the boot ROM. Linux boot protocol, 64-bit.

internal import CFirmware
public import GuestMemory
public import Host

/// A range that the memory map reports as reserved.
public struct ReservedRange: Equatable, Sendable {
    public let start: GuestPhysicalAddress
    public let size: UInt64

    public init(start: GuestPhysicalAddress, size: UInt64) {
        self.start = start
        self.size = size
    }
}

/// What a machine boots. Parsing and unpacking wait until it is loaded: a restored machine may never reboot.
public struct BootImage {
    public let kernel: FileBytes
    public let initramfs: FileBytes
    public let commandLine: String

    public init(kernel: FileBytes, initramfs: FileBytes, commandLine: String) {
        self.kernel = kernel
        self.initramfs = initramfs
        self.commandLine = commandLine
    }

    /// Places ROM, kernel, initramfs, boot parameters and hand-over block. The processor starts at its reset vector.
    /// `rsdp` is the address of the ACPI root pointer; `reserved` goes into the memory map.
    public func load(
        into memory: GuestMemory, rsdp: GuestPhysicalAddress, reserved: [ReservedRange]
    ) throws(BootError) {
        let target = BootTarget(memory)
        let image = try kernel.withSpan { (file) throws(BootError) in try KernelImage(file, unpackingInto: target) }
        try Self.loadROM(into: memory)
        try place(image, in: target)
        let ramdisk = try initramfs.withSpan { (file) throws(BootError) in try place(initramfs: file, image, in: target)
        }
        try target.writeZeroPage(
            image, initramfs: ramdisk.lowerBound, count: ramdisk.count, rsdp: rsdp, reserved: reserved)
        let line = Array(commandLine.utf8)
        guard line.count <= image.commandLineLimit else {
            throw .commandLineTooLong(bytes: line.count, limit: image.commandLineLimit)
        }
        try target.write(line + [0], at: BootLayout.commandLine)
        for (position, value) in [image.entry, BootLayout.zeroPage, BootLayout.stack].enumerated() {
            try target.write(value, at: BootLayout.handOver + UInt64(position * 8))
        }
    }

    /// Puts the boot ROM at the end of the first 4 GiB, and what restarts the machine at the end of the first MiB.
    ///
    /// A restored machine needs it before its memory: the ROM is in no bundle, and its descriptor table may be in use.
    public static func loadROM(into memory: GuestMemory) throws(BootError) {
        // SAFETY: the image has exactly `romSize` bytes.
        let rom = unsafe [UInt8](
            UnsafeRawBufferPointer(start: smolvmm_boot_rom_start(), count: Int(GuestMemory.romSize)))
        let target = BootTarget(memory)
        try target.write(rom, at: GuestMemory.romStart.rawValue)
        // Software that restarts the machine as a BIOS would jumps here: RAM with the ROM's entry for that.
        let restart = rom[BootLayout.restartEntry..<BootLayout.restartEntry + 16]
        try target.write(Array(restart), at: BootLayout.legacyResetVector)
    }

    private func place(_ image: KernelImage, in target: BootTarget) throws(BootError) {
        guard image.end <= target.lowEnd else {
            throw .doesNotFit(what: "the kernel", needed: image.end, available: target.lowEnd)
        }
        for segment in image.segments {
            if let place = image.place {
                try target.move(
                    place.lowerBound + UInt64(segment.source.lowerBound), to: segment.physical,
                    count: segment.source.count)
            } else {
                try target.write(image.bytes.span.extracting(segment.source), at: segment.physical)
            }
            // After a reboot memory still has what the last kernel left there.
            try target.clear(segment.physical + UInt64(segment.source.count), to: segment.physical + segment.memorySize)
        }
        try clearRest(of: image, in: target)
    }

    /// Zeroes what the unpacked file has left beside the segments.
    private func clearRest(of image: KernelImage, in target: BootTarget) throws(BootError) {
        guard let place = image.place else { return }
        var position = place.lowerBound
        for segment in image.segments {
            try target.clear(position, to: segment.physical)
            position = max(position, segment.physical + segment.memorySize)
        }
        try target.clear(position, to: place.upperBound)
    }

    /// As high as the kernel allows, page-aligned, above the kernel. Returns where.
    private func place(
        initramfs: borrowing Span<UInt8>, _ image: KernelImage, in target: BootTarget
    ) throws(BootError) -> Range<UInt64> {
        if initramfs.isEmpty { return 0..<0 }
        let top = min(target.lowEnd, image.initramfsLimit &+ 1)
        let size = (UInt64(initramfs.count) + 4095) & ~4095
        // A kernel needs some room beyond its image to start.
        guard top >= size, (top - size) & ~4095 >= image.end + BootLayout.workingSpace else {
            throw .doesNotFit(
                what: "kernel and initramfs", needed: image.end + BootLayout.workingSpace + size, available: top)
        }
        let start = (top - size) & ~4095
        try target.write(initramfs, at: start)
        return start..<start + UInt64(initramfs.count)
    }
}
