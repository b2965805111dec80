// SPDX-License-Identifier: Apache-2.0
// Fetching code and building blocks of decoded instructions.

extension Core {
    /// Decodes the block at `linear`, whose first byte lies at `physicalAddress`. An instruction that reaches into the
    /// next page is a block of its own, whose bytes are compared each time, in the scratch slots.
    @inline(never)
    mutating func decodeBlock(_ linear: UInt64, _ physicalAddress: UInt64) throws(Fault) -> UInt32 {
        guard let page = unsafe physical.pointer(physicalAddress & ~4095) else {
            failure =
                "instruction fetch from guest-physical 0x\(String(physicalAddress, radix: 16)), where no memory is"
            throw .generalProtection(0)
        }
        let offset = Int(physicalAddress & 4095)
        if offset > 4096 - 16 {
            // SAFETY: the window stops at the end of the page.
            let start = unsafe CodeWindow(UnsafeRawPointer(page) + offset, available: 4096 - offset)
            if let slot = try findCrossing(linear, physicalAddress, start) { return slot }
        }
        let slot = blocks.reserve()
        // SAFETY: `page` has 4096 bytes; `reserve` left room for the longest block.
        let (count, end) = unsafe blocks.index.slots.decode(slot, page, offset, mode)
        if count == 0 { return try decodeSingle(linear) }
        let header = BlockHeader(
            physical: physicalAddress, count: Int32(count), pageOffset: UInt16(offset), mode: mode, set: accessSet,
            heat: firstHeat(physicalAddress))
        // SAFETY: as above.
        unsafe blocks.header(slot).initialize(to: header)
        blocks.commit(slot, slots: count + 2)
        code.noteCode(physicalAddress, count: UInt64(end - offset))
        return slot
    }

    /// As how often run code counts that was decoded just now.
    private func firstHeat(_ address: UInt64) -> UInt8 {
        physical.changesOften(address) ? 0 : configuration.translationHeat / 2
    }

    /// Decodes one instruction into the scratch slots, fetching from the next page as well if it must.
    mutating func decodeSingle(_ linear: UInt64) throws(Fault) -> UInt32 {
        let first = try fetchFrame(linear) | (linear & 4095)
        guard let host = unsafe physical.pointer(first) else {
            failure = "instruction fetch from guest-physical 0x\(String(first, radix: 16)), where no memory is"
            throw .generalProtection(0)
        }
        let room = min(16, 4096 - Int(linear & 4095))
        // SAFETY: `host` is valid to the end of its page.
        var window = unsafe CodeWindow(UnsafeRawPointer(host), available: room)
        if room < 16, let slot = try findCrossing(linear, first, window) { return slot }
        let start = window
        var result = Decoder.decode(window, mode, pageOffset: UInt16(linear & 4095))
        if case .incomplete = result, room < 16, let whole = try fetchRest(of: window, linear) {
            window = whole
            result = Decoder.decode(window, mode, pageOffset: UInt16(linear & 4095))
        }
        guard case .instruction(var instruction, _) = result else { throw .generalProtection(0) }
        instruction.traits.remove(.samePage)
        if start.available != window.available {
            blocks.remember(
                CrossingInstruction(
                    physical: first, mode: mode, start: start, window: window, instruction: instruction,
                    heat: firstHeat(first)))
        }
        return place(instruction, first, linear)
    }

    /// The block of an instruction that begins in the last bytes of a page, `start`, if it is known and still the same.
    private mutating func findCrossing(
        _ linear: UInt64, _ first: UInt64, _ start: CodeWindow
    ) throws(Fault) -> UInt32? {
        guard let known = blocks.crossing(first, mode, start), try fetchRest(of: start, linear) == known.window else {
            return nil
        }
        return place(known.instruction, first, linear)
    }

    /// The bytes that have been fetched and those of the page behind; nil where no memory is.
    private mutating func fetchRest(of window: CodeWindow, _ linear: UInt64) throws(Fault) -> CodeWindow? {
        let room = UInt64(window.available)
        let following = mode == .bits64 ? linear &+ room : (linear &+ room) & 0xffff_ffff
        let second = try fetchFrame(following)
        guard let more = unsafe physical.pointer(second) else { return nil }
        // SAFETY: a page has at least 16 bytes.
        return window.appending(unsafe CodeWindow(UnsafeRawPointer(more), available: 16))
    }

    /// Makes `instruction` the block in the scratch slots.
    private mutating func place(_ instruction: DecodedInstruction, _ first: UInt64, _ linear: UInt64) -> UInt32 {
        let slot = BlockCache.scratch
        let header = BlockHeader(
            physical: first, count: 1, pageOffset: UInt16(linear & 4095), mode: mode, set: accessSet)
        // SAFETY: the scratch block has three slots.
        unsafe blocks.header(slot).initialize(to: header)
        blocks.index.slots.fill(slot, instruction)
        return slot
    }
}

extension BlockSlots {
    /// Most instructions in one block.
    private static let longest = 62

    /// Decodes instructions at `offset` of `page` into the slots behind `slot`, up to the end of their block or of the page.
    /// Returns how many there are, and the offset of their end; none if the first one lies in two pages.
    /// - Parameters:
    ///   - slot: has `BlockCache.longestBlock` slots from it on.
    ///   - page: has 4096 bytes.
    ///   - base: the offset of `page` from the page base.
    func decode(
        _ slot: UInt32, _ page: UnsafeRawPointer, _ offset: Int, _ mode: CodeMode, base: Int = 0
    ) -> (count: Int, end: Int) {
        var offset = offset
        var count = 0
        var open = true
        while open, count < Self.longest, offset < 4096 {
            // SAFETY: the window stops at the end of the page.
            let window = unsafe CodeWindow(page + offset, available: min(16, 4096 - offset))
            guard
                case .instruction(let decoded, let endsBlock) = Decoder.decode(
                    window, mode, pageOffset: UInt16(base + offset))
            else { break }
            // SAFETY: there is room for `longestBlock` slots.
            unsafe instruction(slot + 1 + UInt32(count)).initialize(to: decoded)
            offset += max(Int(decoded.length), 1)
            count += 1
            open = !endsBlock
        }
        finish(slot, count: count, next: base + offset)
        return (count, offset)
    }

    /// Puts one instruction behind `slot`, which has three slots.
    func fill(_ slot: UInt32, _ only: DecodedInstruction) {
        // SAFETY: the second of the three.
        unsafe instruction(slot + 1).initialize(to: only)
        finish(slot, count: 1, next: Int(only.nextPageOffset))
    }

    /// The closing slot, and for each conditional jump the number of instructions after it.
    private func finish(_ slot: UInt32, count: Int, next: Int) {
        // SAFETY: the block has `count` instructions and room for the closing slot.
        unsafe instruction(slot + 1 + UInt32(count)).initialize(to: .end(at: next))
        for position in 0..<count {
            let instruction = unsafe instruction(slot + 1 + UInt32(position))
            if unsafe instruction.pointee.handler.isConditionalJump {
                unsafe instruction.pointee.scale = UInt8(count - 1 - position)
            }
        }
    }
}

/// An instruction whose bytes lie in two pages, as it was decoded last.
struct CrossingInstruction {
    /// Where it begins.
    var physical: UInt64
    var mode: CodeMode
    /// Its bytes in the first page; those and more from the second.
    var start: CodeWindow
    var window: CodeWindow
    var instruction: DecodedInstruction
    /// How often it ran before it was translated.
    var heat: UInt8
    /// The block that was made for its translation, or 0.
    var slot: UInt32 = 0
}

extension CodeWindow {
    /// The `available` bytes at `start`, at most 16: fewer only where they end with their page.
    init(_ start: UnsafeRawPointer, available: Int) {
        let missing = 16 - available
        // SAFETY: 16 bytes are there, or the last 16 of a page.
        let bytes = unsafe (start - missing).loadUnaligned(as: UInt128.self) >> UInt128(missing * 8)
        self.init(bytes, available: available)
    }

    private init(_ bytes: UInt128, available: Int) {
        low = UInt64(truncatingIfNeeded: bytes)
        high = UInt64(truncatingIfNeeded: bytes >> 64)
        self.available = available
    }

    private var bytes: UInt128 { UInt128(high) << 64 | UInt128(low) }

    /// These and 16 bytes of the page behind, up to 16 in all.
    func appending(_ other: CodeWindow) -> CodeWindow {
        CodeWindow(bytes | other.bytes << UInt128(available * 8), available: 16)
    }
}
