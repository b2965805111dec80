// SPDX-License-Identifier: Apache-2.0
// Segment descriptors: reading tables, loading segment registers. Intel SDM volume 3, chapters 3 and 5.

/// A code, data or system descriptor taken apart. SDM volume 3, figure 3-8.
struct Descriptor {
    var base: UInt64
    /// Bytes, expanded.
    var limit: UInt32
    var attributes: SegmentAttributes
    /// Linear address it was read from.
    var address: UInt64

    init(_ raw: UInt64, address: UInt64) {
        base = (raw >> 16 & 0xff_ffff) | (raw >> 56 & 0xff) << 24
        let pages = UInt32(truncatingIfNeeded: raw & 0xffff | (raw >> 32 & 0xf_0000))
        attributes = SegmentAttributes(rawValue: UInt32(truncatingIfNeeded: raw >> 40) & 0xf0ff)
        limit = attributes.contains(.granular) ? pages << 12 | 0xfff : pages
        self.address = address
    }

    var isPresent: Bool { attributes.contains(.present) }
    var isCode: Bool { attributes.contains([.codeOrData, .code]) }
    var isSystem: Bool { !attributes.contains(.codeOrData) }
    var privilege: UInt8 { attributes.privilege }
}

extension Core {
    /// Reads the descriptor of `selector`; nil when it lies outside its table.
    mutating func descriptor(_ selector: UInt16) throws(Fault) -> Descriptor? {
        let offset = UInt64(selector & 0xfff8)
        let base: UInt64
        let limit: UInt64
        if selector & 4 != 0 {
            base = ldtBase
            limit = ldt.attributes.contains(.present) ? UInt64(ldt.limit) : 0
        } else {
            base = gdt.base
            limit = UInt64(gdt.limit)
        }
        guard offset + 7 <= limit else { return nil }
        return Descriptor(try load(UInt64.self, at: base &+ offset, .supervisor), address: base &+ offset)
    }

    /// The upper half of a 16-byte system descriptor in long mode: the high half of its base.
    private mutating func highBase(_ descriptor: Descriptor) throws(Fault) -> UInt64 {
        UInt64(try load(UInt32.self, at: descriptor.address &+ 8, .supervisor)) << 32
    }

    private mutating func markAccessed(_ descriptor: Descriptor) throws(Fault) {
        if descriptor.attributes.contains(.accessed) { return }
        let type = try load(UInt8.self, at: descriptor.address &+ 5, .supervisor)
        try store(type | 1, at: descriptor.address &+ 5, .supervisor)
    }

    /// Puts a descriptor into a segment register without any check.
    mutating func setSegment(_ index: UInt8, _ selector: UInt16, _ descriptor: Descriptor) {
        segments[Int(index & 7)] = Segment(
            selector: selector, limit: descriptor.limit, attributes: descriptor.attributes.union(.accessed))
        segmentBase[Int(index & 7)] = descriptor.base
    }

    /// Real-mode and virtual-8086 load: the base follows from the selector, the rest stays or is fixed.
    private mutating func setRealSegment(_ index: UInt8, _ selector: UInt16) {
        segments[Int(index & 7)].selector = selector
        segmentBase[Int(index & 7)] = UInt64(selector) << 4
        if isVirtual8086 {
            segments[Int(index & 7)].limit = 0xffff
            segments[Int(index & 7)].attributes = SegmentAttributes(rawValue: 0xf3)
        }
    }

    /// A null selector in a data segment register, or in SS in 64-bit mode.
    mutating func setNullSegment(_ index: UInt8, _ selector: UInt16) {
        segments[Int(index & 7)] = Segment(
            selector: selector, limit: 0,
            attributes: SegmentAttributes(rawValue: SegmentAttributes.unusable.rawValue | UInt32(privilege) << 5))
        // Loading null into FS and GS clears the base, as Intel does.
        segmentBase[Int(index & 7)] = 0
    }

    /// MOV, POP and LDS and its relatives into ES, SS, DS, FS or GS.
    mutating func loadSegment(_ index: UInt8, _ selector: UInt16) throws(Fault) {
        if !isProtected || isVirtual8086 {
            setRealSegment(index, selector)
            return
        }
        let code = selector & 0xfffc
        let isStack = index == SegmentIndex.ss
        if code == 0 {
            if isStack, mode != .bits64 || privilege == 3 || selector & 3 != UInt16(privilege) {
                throw .generalProtection(0)
            }
            setNullSegment(index, selector)
            return
        }
        guard let descriptor = try descriptor(selector) else { throw .generalProtection(code) }
        let requested = UInt8(selector & 3)
        if descriptor.isSystem { throw .generalProtection(code) }
        if isStack {
            let writableData = !descriptor.isCode && descriptor.attributes.contains(.writable)
            if requested != privilege || descriptor.privilege != privilege || !writableData {
                throw .generalProtection(code)
            }
            if !descriptor.isPresent { throw .stackFault(code) }
        } else {
            if descriptor.isCode, !descriptor.attributes.contains(.writable) { throw .generalProtection(code) }
            let conforming = descriptor.isCode && descriptor.attributes.contains(.conforming)
            if !conforming, max(requested, privilege) > descriptor.privilege { throw .generalProtection(code) }
            if !descriptor.isPresent { throw .segmentNotPresent(code) }
        }
        try markAccessed(descriptor)
        setSegment(index, selector, descriptor)
    }

    /// Checks `descriptor` as the target of a far transfer to `selector` at privilege `level` and loads CS with it.
    mutating func loadCode(_ selector: UInt16, _ descriptor: Descriptor, privilege level: UInt8) throws(Fault) {
        let both: SegmentAttributes = [.long, .big]
        if isLongMode, descriptor.attributes.contains(both) { throw .generalProtection(selector & 0xfffc) }
        try markAccessed(descriptor)
        setSegment(SegmentIndex.cs, selector & ~3 | UInt16(level), descriptor)
        privilege = level
        updateMode()
    }

    /// LLDT.
    mutating func loadLocalDescriptorTable(_ selector: UInt16) throws(Fault) {
        if selector & 0xfffc == 0 {
            ldt = Segment(selector: selector, limit: 0, attributes: .unusable)
            ldtBase = 0
            return
        }
        let (descriptor, base) = try systemDescriptor(selector, types: [2])
        ldt = Segment(selector: selector, limit: descriptor.limit, attributes: descriptor.attributes)
        ldtBase = base
    }

    /// LTR.
    mutating func loadTask(_ selector: UInt16) throws(Fault) {
        if selector & 0xfffc == 0 { throw .generalProtection(0) }
        let (descriptor, base) = try systemDescriptor(selector, types: isLongMode ? [9] : [1, 9])
        let type = try load(UInt8.self, at: descriptor.address &+ 5, .supervisor)
        try store(type | 2, at: descriptor.address &+ 5, .supervisor)
        task = Segment(
            selector: selector, limit: descriptor.limit,
            attributes: SegmentAttributes(rawValue: descriptor.attributes.rawValue | 2))
        taskBase = base
    }

    /// A present system descriptor of the GDT of one of `types`, with its whole base.
    private mutating func systemDescriptor(
        _ selector: UInt16, types: [UInt32]
    ) throws(Fault) -> (Descriptor, base: UInt64) {
        let code = selector & 0xfffc
        if selector & 4 != 0 { throw .generalProtection(code) }
        guard let descriptor = try descriptor(selector) else { throw .generalProtection(code) }
        guard descriptor.isSystem, types.contains(descriptor.attributes.type) else { throw .generalProtection(code) }
        if !descriptor.isPresent { throw .segmentNotPresent(code) }
        guard isLongMode else { return (descriptor, descriptor.base) }
        guard UInt64(selector & 0xfff8) + 15 <= UInt64(gdt.limit) else { throw .generalProtection(code) }
        return (descriptor, descriptor.base | (try highBase(descriptor)))
    }

    /// LAR, LSL, VERR and VERW: the descriptor if `selector` can be looked at from here.
    mutating func visibleDescriptor(_ selector: UInt16) throws(Fault) -> Descriptor? {
        if selector & 0xfffc == 0 { return nil }
        guard let descriptor = try descriptor(selector) else { return nil }
        let conforming = descriptor.isCode && descriptor.attributes.contains(.conforming)
        if !conforming, max(UInt8(selector & 3), privilege) > descriptor.privilege { return nil }
        return descriptor
    }
}
