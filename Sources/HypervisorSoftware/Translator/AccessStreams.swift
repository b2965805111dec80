// SPDX-License-Identifier: Apache-2.0
// Memory accesses of a loop whose addresses grow by a constant each time round: their page is looked up once for all the
// times that they stay in it.

/// What the second copy of a loop's code tells about the loop, for a third one.
struct LoopShape {
    /// What each register gains whenever control comes back to the start; nil where that is no constant. Empty before it did.
    private(set) var gains: [Int64?] = []
    /// The fewest instructions that are charged for going round once.
    private(set) var leastCount = Int32.max
    /// The runs of instructions from which control comes back, by their first slots, and the last slot of each before it does.
    private(set) var ways: [UInt32: UInt32] = [:]
    /// Where each run but the first is come to from.
    private var origins: [UInt32: (run: UInt32, slot: UInt32)] = [:]

    /// The run whose first slot is `run` is come to from an instruction of another.
    mutating func begin(_ run: UInt32, from origin: (run: UInt32, slot: UInt32)) { origins[run] = origin }

    /// Control comes back from the instruction in `slot` of `run`.
    /// - Parameter values: what the registers have then; nil if nothing is known of them.
    mutating func comeBack(_ run: UInt32, _ slot: UInt32, _ values: RegisterValues?, count: Int32) {
        let new = values?.gains ?? Array(repeating: nil, count: RegisterValues.count)
        gains = gains.isEmpty ? new : zip(gains, new).map { $0 == $1 ? $0 : nil }
        leastCount = min(leastCount, count)
        var way = (run: run, slot: slot)
        while true {
            ways[way.run] = max(ways[way.run] ?? 0, way.slot)
            guard let origin = origins[way.run] else { return }
            way = origin
        }
    }

    /// Whether control came back through `run` from there, an instruction of another.
    func leadsBack(_ run: UInt32, from origin: (run: UInt32, slot: UInt32)) -> Bool {
        guard ways[run] != nil, let known = origins[run] else { return false }
        return known == origin
    }

    /// Whether the access of the instruction in `slot` of `run` is made while control may still come back.
    func contains(_ run: UInt32, _ slot: UInt32) -> Bool { slot <= ways[run] ?? 0 }
}

/// The streams of a loop: accesses whose addresses differ by constants, and grow by the same.
struct AccessStreams {
    struct Stream {
        /// What the addresses have in common: values of registers at the beginning.
        var terms: LinearValue
        /// What of that the loop does not change, and is in its place of the context already.
        var fixed: LinearValue.Term?
        /// What they grow by each time.
        var stride: Int64
        var low: Int64
        var high: Int64
        var writes: Bool
        /// An offset that must be a multiple of 16, if some access asks for it.
        var aligned: Int64?

        var use: BlockTranslator.MemoryUse { writes ? .write : .read }
        var span: Int32 { Int32(truncatingIfNeeded: high - low) }
    }

    /// One access of a stream.
    enum Member {
        /// The context has, at this place, what must be added to the address, of which it has a part already.
        case moving(place: Int, rest: GuestAddress)
        /// The address does not change; the context has it without this offset.
        case fixed(place: Int, offset: Int32)

        var place: Int {
            switch self {
            case .moving(let place, _), .fixed(let place, _): place
            }
        }
    }

    /// Each takes a place of the context from groups.
    static let most = 6
    /// A page has enough accesses of a stream to be worth it.
    private static let longestStride: Int64 = 512

    let shape: LoopShape
    private(set) var streams: [Stream] = []

    init(_ shape: LoopShape) { self.shape = shape }

    /// The place in the context of the stream with this number.
    static func place(_ number: Int) -> Int { ContextLayout.groups + (ContextLayout.groupCount - 1 - number) * 8 }

    /// Makes the access part of a stream, if it can be.
    /// - Parameter values: what the registers have there.
    mutating func join(_ access: PlainAccess, _ values: RegisterValues) -> Member? {
        guard let value = values.value(access.address), let stride = stride(value),
            stride.magnitude <= Self.longestStride, !access.isAligned || stride % 16 == 0
        else { return nil }
        let (fixed, rest) = stride == 0 ? (nil, access.address) : split(access.address, values)
        let low = value.offset
        let high = low + Int64(access.size)
        var number = streams.count
        for (other, stream) in streams.enumerated() where stream.terms.hasTerms(of: value) && stream.fixed == fixed {
            guard max(high, stream.high) - min(low, stream.low) <= AccessGroups.longest else { continue }
            if access.isAligned, let aligned = stream.aligned, (aligned - low) % 16 != 0 { continue }
            number = other
            break
        }
        if number == streams.count {
            guard number < Self.most else { return nil }
            streams.append(Stream(terms: value, fixed: fixed, stride: stride, low: low, high: high, writes: false))
        }
        streams[number].low = min(low, streams[number].low)
        streams[number].high = max(high, streams[number].high)
        if access.use == .write { streams[number].writes = true }
        if access.isAligned { streams[number].aligned = low }
        let place = Self.place(number)
        return stride == 0
            ? .fixed(place: place, offset: Int32(truncatingIfNeeded: low)) : .moving(place: place, rest: rest)
    }

    /// Takes from the sum of two registers the one that the loop does not change.
    private func split(
        _ address: GuestAddress, _ values: RegisterValues
    ) -> (fixed: LinearValue.Term?, rest: GuestAddress) {
        guard address.base != RegisterIndex.zero, address.index != RegisterIndex.zero else { return (nil, address) }
        var rest = GuestAddress(
            base: RegisterIndex.zero, index: address.index, scale: address.scale, displacement: address.displacement)
        if let fixed = fixedTerm(address.base, scale: 0, values, &rest) { return (fixed, rest) }
        rest = GuestAddress(base: address.base, displacement: address.displacement)
        if let fixed = fixedTerm(address.index, scale: address.scale, values, &rest) { return (fixed, rest) }
        return (nil, address)
    }

    /// What a register was at the beginning, if the loop does not change it; what it has more goes to `rest`.
    private func fixedTerm(_ register: UInt8, scale: UInt8, _ values: RegisterValues, _ rest: inout GuestAddress)
        -> LinearValue.Term?
    {
        let value = values.value(of: register)
        guard let origin = value.origin, origin < RegisterValues.registers, shape.gains[Int(origin)] == 0,
            let displacement = Int32(exactly: Int64(rest.displacement) + value.offset << Int64(scale))
        else { return nil }
        rest.displacement = displacement
        return LinearValue.Term(origin: origin, factor: 1 << Int16(scale))
    }

    /// What an address grows by each time round; nil if that is no constant.
    private func stride(_ value: LinearValue) -> Int64? {
        var (stride, movesHalf): (Int64, Bool) = (0, false)
        for index in 0..<value.count {
            let term = value.term(index)
            guard Int(term.origin) < shape.gains.count, let gain = shape.gains[Int(term.origin)] else { return nil }
            if term.origin >= RegisterValues.halves {
                guard gain.magnitude <= Self.longestStride else { return nil }
                movesHalf = movesHalf || gain != 0
            }
            guard gain.magnitude < 1 << 30 else { return nil }
            stride += gain * Int64(term.factor)
        }
        // A page bounds how often a lower half moves on.
        return stride == 0 && movesHalf ? nil : stride
    }
}
