// SPDX-License-Identifier: Apache-2.0
// The MMX and SSE rows of the instruction table: found by encoding, free of contradictions.

import HypervisorSoftware
import Testing

struct VectorTableTests {
    @Test(arguments: VectorTable.shared.forms)
    func `a row is found by its encoding`(form: VectorForm) throws {
        let reg = form.group < 0 ? 5 : UInt8(form.group)
        let found = try #require(VectorTable.shared.form(form.map, form.opcode, form.prefix, reg: reg))
        #expect(found.operation == form.operation)
        #expect(found.operands == form.operands)
        #expect(found.group == form.group)
    }

    @Test func `an encoding without a row is not found`() {
        #expect(VectorTable.shared.form(.map0F, 0x05, .none, reg: 0) == nil)
        #expect(VectorTable.shared.form(.map0F, 0x58 + 0x80, .xF3, reg: 0) == nil)
        #expect(VectorTable.shared.form(.map0F, 0x71, .x66, reg: 3) == nil)
        #expect(VectorTable.shared.form(.map0F, 0x73, .none, reg: 7) == nil)
        #expect(VectorTable.shared.form(.map0F, 0xae, .none, reg: 5) == nil)
        // PCLMULQDQ and AESENC are not in x86-64-v2.
        #expect(VectorTable.shared.form(.map0F3A, 0x44, .x66, reg: 0) == nil)
        #expect(VectorTable.shared.form(.map0F38, 0xdc, .x66, reg: 0) == nil)
    }

    @Test func `every operation has a row`() {
        let used = Set(VectorTable.shared.forms.map(\.operation))
        #expect(VectorOperation.allCases.filter { !used.contains($0) } == [])
    }

    @Test(arguments: VectorOperands.allCases)
    func `a shape that cannot be memory has no memory size`(shape: VectorOperands) {
        let layout = shape.layout
        #expect((layout.memoryBytes == 0) == (layout.encodings == .registerOnly))
        #expect((layout.rm == .none) == (layout.encodings == .memoryOnly || shape == .none))
        if layout.isAligned { #expect(layout.memoryBytes == 16) }
    }

    @Test func `REX_W widens moves and conversions of general registers`() {
        #expect(VectorOperands.xmmGeneral32.widened == .xmmGeneral64)
        #expect(VectorOperands.storeGeneral32XmmImmediate.widened.layout.memoryBytes == 8)
        #expect(VectorOperands.storeSingleXmmImmediate.widened == .storeSingleXmmImmediate)
        #expect(VectorOperands.xmmXmm128.widened == .xmmXmm128)
    }
}
