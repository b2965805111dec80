// SPDX-License-Identifier: Apache-2.0
// What the state of a processor may be, whichever backend it is for. It may come from a hostile file.

public import Snapshot

extension CPUState {
    /// Refuses what no processor of `model` could have saved.
    public func validate(layer: String, model: CPUModel) throws(SnapshotError) {
        try require(
            general.count == 16, layer: layer, field: "general", value: general.count,
            allowed: "16 registers")
        try require(
            segments.count == 6, layer: layer, field: "segments", value: segments.count,
            allowed: "6 segments")
        try require(
            debug.count == 6, layer: layer, field: "debug", value: debug.count, allowed: "6 registers")
        let floating = floatingPoint
        try require(
            floating.xmm.count == 32, layer: layer, field: "xmm", value: floating.xmm.count, allowed: "32 halves")
        try require(
            floating.mxcsr <= 0xffff, layer: layer, field: "mxcsr", value: floating.mxcsr, allowed: "0 to 65535")
        try require(
            floating.stack.count == 8 && floating.stack.allSatisfy { $0.count == 10 }, layer: layer, field: "stack",
            value: floating.stack.count, allowed: "8 registers of 10 bytes")
        try require(
            rflags & ~0x3f_7fd7 == 0 && rflags & 2 != 0, layer: layer, field: "rflags",
            value: rflags, allowed: "without reserved bits")
        try require(
            cr0 & ~(ControlRegister0.writable | ControlRegister0.extensionType) == 0, layer: layer, field: "cr0",
            value: cr0, allowed: "without reserved bits")
        let paging = cr0 & ControlRegister0.paging != 0
        try require(
            !paging || cr0 & ControlRegister0.protection != 0, layer: layer, field: "cr0", value: cr0,
            allowed: "protected mode when paging is on")
        try require(
            cr4 & ~model.writableControlRegister4 == 0, layer: layer, field: "cr4", value: cr4,
            allowed: "features of the CPU model only")
        let efer = msr.efer
        let knownEFER = ExtendedFeatures.writable | ExtendedFeatures.longModeActive
        try require(efer & ~knownEFER == 0, layer: layer, field: "efer", value: efer, allowed: "without reserved bits")
        let active = efer & ExtendedFeatures.longModeActive != 0
        let canBeActive =
            paging && efer & ExtendedFeatures.longModeEnable != 0
            && cr4 & ControlRegister4.physicalAddressExtension != 0
        try require(
            active == (paging && efer & ExtendedFeatures.longModeEnable != 0) && (!active || canBeActive), layer: layer,
            field: "efer", value: efer, allowed: "LMA as LME, PG and PAE say")
        try require(cr3 >> 52 == 0, layer: layer, field: "cr3", value: cr3, allowed: "a physical address")
        if let extended {
            let valid: Set<UInt64> = [1, 3, model.extendedComponents]
            try require(
                model.features.contains(.xsave) && valid.contains(extended.xcr0), layer: layer, field: "xcr0",
                value: extended.xcr0, allowed: "features of the CPU model only")
            try require(
                extended.upperHalves.count == 32, layer: layer, field: "upperHalves",
                value: extended.upperHalves.count, allowed: "32 halves")
        }
        for segment in segments + [ldt, task] {
            try require(
                segment.attributes <= 0x1_ffff, layer: layer, field: "segment attributes", value: segment.attributes,
                allowed: "0 to 0x1ffff")
        }
        if let event = pendingEvent, event.kind == .exception {
            try require(
                event.vector < 32, layer: layer, field: "pendingEvent", value: event.vector,
                allowed: "an exception, 0 to 31")
        }
    }
}

extension CPUModel {
    /// Bits of CR4 that a guest may set.
    var writableControlRegister4: UInt64 {
        var bits = ControlRegister4.writable
        if features.contains(.fsgsbase) { bits |= ControlRegister4.fsgsbase }
        if features.contains(.pcid) { bits |= ControlRegister4.processContextIdentifiers }
        if features.contains(.xsave) { bits |= ControlRegister4.xsave }
        return bits
    }
}
