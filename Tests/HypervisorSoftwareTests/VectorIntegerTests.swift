// SPDX-License-Identifier: Apache-2.0
// Integer vector operations against the host's processor.

import HypervisorSoftware
import Testing

#if arch(x86_64)
    /// Rows whose r/m can be a register, by operand shapes.
    private func forms(_ shapes: VectorOperands..., where condition: (VectorOperation) -> Bool) -> [VectorForm] {
        VectorTable.shared.forms.filter {
            shapes.contains($0.operands) && condition($0.operation) && $0.allows(isMemory: false)
        }
    }

    private func isInteger(_ operation: VectorOperation) -> Bool {
        operation.rawValue >= VectorOperation.pand.rawValue && !operation.usesMXCSR
    }

    private func immediates(_ form: VectorForm) -> ClosedRange<UInt8> {
        form.operands.layout.hasImmediate ? 0...255 : 0...0
    }

    private func rounds(_ form: VectorForm) -> Int { form.operands.layout.hasImmediate ? 8 : 2000 }

    struct VectorIntegerTests {
        static let xmmForms = forms(
            .xmmXmm128, .xmmXmm128Immediate, .xmmXmm64, .xmmXmm32, .xmmXmm32Immediate, .xmmXmm16, where: isInteger)
        static let mmxForms = forms(.mmMm64, .mmMm64Immediate, .mmMm32, where: isInteger)
        static let shiftForms = forms(.shiftXmmImmediate, .shiftMmImmediate, where: isInteger)

        @Test(arguments: xmmForms)
        func `an XMM operation gives what the host gives`(form: VectorForm) throws {
            var source = VectorOperandSource(seed: UInt64(form.operation.rawValue))
            for imm in immediates(form) {
                let native = try #require(NativeVectorInstruction(form, imm: imm))
                for _ in 0..<rounds(form) {
                    let before = source.registers()
                    let after = native.run(before)
                    let result = vectorInteger(form.operation, before.xmm1, before.xmm2, imm: imm, mask: before.xmm0)
                    if result != after.xmm1 {
                        Issue.record("\(form.operation) imm \(imm): \(result) from \(before) and not \(after.xmm1)")
                        return
                    }
                }
            }
        }

        @Test(arguments: xmmForms)
        func `the portable arithmetic gives what the host gives`(form: VectorForm) throws {
            let approximations: [VectorOperation] = [.rcpps, .rcpss, .rsqrtps, .rsqrtss]
            guard form.operation.rawValue >= VectorOperation.paddb.rawValue, !approximations.contains(form.operation)
            else { return }
            var source = VectorOperandSource(seed: 1 + UInt64(form.operation.rawValue))
            for round in 0..<2048 {
                let imm = UInt8(truncatingIfNeeded: round)
                let (d, s) = (source.vector(), source.vector())
                let result = vectorArithmeticPortable(form.operation, d, s, imm: imm)
                let expected = vectorArithmetic(form.operation, d, s, imm: imm)
                if result != expected {
                    Issue.record("\(form.operation) imm \(imm) of \(d), \(s): \(result) and not \(expected)")
                    return
                }
            }
        }

        @Test(arguments: mmxForms)
        func `an MMX operation gives what the host gives`(form: VectorForm) throws {
            var source = VectorOperandSource(seed: 2 + UInt64(form.operation.rawValue))
            for imm in immediates(form) {
                let native = try #require(NativeVectorInstruction(form, imm: imm))
                for _ in 0..<rounds(form) {
                    let before = source.registers()
                    let after = native.run(before)
                    let result = vectorIntegerMMX(form.operation, before.mm1, before.mm2, imm: imm)
                    if result != after.mm1 {
                        Issue.record("\(form.operation) imm \(imm): \(result) from \(before) and not \(after.mm1)")
                        return
                    }
                }
            }
        }

        @Test(arguments: shiftForms)
        func `a shift by an immediate gives what the host gives`(form: VectorForm) throws {
            var source = VectorOperandSource(seed: 3 + UInt64(form.operation.rawValue))
            for imm in UInt8.min...UInt8.max {
                let native = try #require(NativeVectorInstruction(form, imm: imm))
                let before = source.registers()
                let after = native.run(before)
                if form.operands == .shiftXmmImmediate {
                    let result = vectorInteger(
                        form.operation, before.xmm2, Vector128(low: UInt64(imm)), imm: imm)
                    #expect(result == after.xmm2, "\(form.operation) by \(imm)")
                } else {
                    let result = vectorIntegerMMX(form.operation, before.mm2, UInt64(imm), imm: imm)
                    #expect(result == after.mm2, "\(form.operation) by \(imm)")
                }
            }
        }

        @Test(arguments: forms(.general32XmmRegister, .general32MmRegister, where: { _ in true }))
        func `sign masks are what the host gives`(form: VectorForm) throws {
            let native = try #require(NativeVectorInstruction(form))
            var source = VectorOperandSource(seed: 4)
            for _ in 0..<1000 {
                let before = source.registers()
                let operand = form.operands.isMMX ? Vector128(low: before.mm2) : before.xmm2
                #expect(vectorSigns(form.operation, operand) == native.run(before).rcx)
            }
        }

        @Test(
            arguments: forms(.xmmXmm128UnalignedImmediate, where: { _ in true }), UInt8.min..<128)
        func `a string comparison gives what the host gives`(form: VectorForm, imm: UInt8) throws {
            let isExplicit = form.operation == .pcmpestri || form.operation == .pcmpestrm
            let isMask = form.operation == .pcmpestrm || form.operation == .pcmpistrm
            var source = VectorOperandSource(seed: UInt64(imm))
            let natives = [
                try #require(NativeVectorInstruction(form, imm: imm)),
                try #require(NativeVectorInstruction(form, imm: imm, isWide: true)),
            ]
            for round in 0..<400 {
                let isWide = round & 1 != 0
                var before = source.registers()
                if round & 2 != 0 {
                    // Few distinct letters, so that strings match.
                    before.xmm1.low &= 0x0101_0101_0101_0101
                    before.xmm1.high &= 0x0101_0101_0101_0101
                    before.xmm2.low &= 0x0101_0101_0101_0101
                    before.xmm2.high &= 0x0101_0101_0101_0101
                    if round & 4 != 0 {
                        before.xmm1.low |= 0x4040_4040_4040_4040
                        before.xmm2.low |= 0x4040_4040_4040_4040
                        before.xmm2.high |= 0x4040_4040_4040_4040
                    }
                }
                let after = natives[round & 1].run(before)
                let (first, second) =
                    isExplicit
                    ? (
                        VectorStringComparison.explicitLength(before.rax, isWide: isWide, imm: imm),
                        VectorStringComparison.explicitLength(before.rdx, isWide: isWide, imm: imm)
                    )
                    : (
                        VectorStringComparison.implicitLength(before.xmm1, imm: imm),
                        VectorStringComparison.implicitLength(before.xmm2, imm: imm)
                    )
                let result = VectorStringComparison(before.xmm1, first, before.xmm2, second, imm: imm)
                let flags: UInt64 =
                    (result.matches != 0 ? 1 : 0) | (result.secondEnds ? 0x40 : 0) | (result.firstEnds ? 0x80 : 0)
                    | (result.matches & 1 != 0 ? 0x800 : 0)
                let isSame = isMask ? result.mask == after.xmm0 : result.index == after.rcx
                if !isSame || flags != after.flags & 0x8d5 {
                    Issue.record("\(result), \(flags) from \(before) and not \(after)")
                    return
                }
            }
        }
    }
#endif
