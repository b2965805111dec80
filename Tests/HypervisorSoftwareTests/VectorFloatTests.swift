// SPDX-License-Identifier: Apache-2.0
// Floating-point vector operations against the host's processor, in all rounding modes.

import HypervisorSoftware
import Testing

#if arch(x86_64)
    private func forms(_ shapes: VectorOperands..., where condition: (VectorOperation) -> Bool = { _ in true })
        -> [VectorForm]
    {
        VectorTable.shared.forms.filter {
            shapes.contains($0.operands) && $0.operation.usesMXCSR && condition($0.operation)
        }
    }

    private func comparesToFlags(_ operation: VectorOperation) -> Bool {
        operation.rawValue >= VectorOperation.comiss.rawValue
    }

    struct VectorFloatTests {
        static let xmmForms = forms(
            .xmmXmm128, .xmmXmm128Immediate, .xmmXmm64, .xmmXmm64Immediate, .xmmXmm32, .xmmXmm32Immediate,
            where: { !comparesToFlags($0) })

        /// Masked exceptions, any rounding, flush-to-zero and denormals-are-zero, no flag set.
        private static func control(_ round: Int) -> UInt32 {
            UInt32(round & 3) << 13 | (round & 4 != 0 ? 0x8000 : 0) | (round & 8 != 0 ? 0x40 : 0) | 0x1f80
        }

        @Test(arguments: xmmForms)
        func `an operation gives the value and the flags that the host gives`(form: VectorForm) throws {
            var source = VectorOperandSource(seed: UInt64(form.operation.rawValue))
            let hasImmediate = form.operands.layout.hasImmediate
            var native = try #require(NativeVectorInstruction(form))
            for round in 0..<4096 {
                let imm = hasImmediate ? UInt8(truncatingIfNeeded: round >> 4) : 0
                if hasImmediate, round & 15 == 0 { native = try #require(NativeVectorInstruction(form, imm: imm)) }
                var before = source.registers()
                before.mxcsr = UInt64(Self.control(round))
                let after = native.run(before)
                let result = vectorFloat(
                    form.operation, before.xmm1, before.xmm2, imm: imm,
                    control: MXCSR.control(UInt32(truncatingIfNeeded: before.mxcsr)))
                let isSame = result.value == after.xmm1 && UInt64(result.raised) == after.mxcsr & 0x3f
                if !isSame {
                    Issue.record("\(form.operation) imm \(imm): \(result) from \(before) and not \(after)")
                    return
                }
            }
        }

        @Test(arguments: xmmForms)
        func `the portable operation gives the host's value when rounding to nearest`(form: VectorForm) throws {
            var source = VectorOperandSource(seed: 1 + UInt64(form.operation.rawValue))
            for round in 0..<2048 {
                let imm = UInt8(truncatingIfNeeded: round)
                let (d, s) = (source.vector(), source.vector())
                let result = vectorFloatPortable(form.operation, d, s, imm: imm, control: 0x1f80).value
                let expected = vectorFloat(form.operation, d, s, imm: imm, control: 0x1f80).value
                if result != expected {
                    Issue.record("\(form.operation) imm \(imm) of \(d), \(s): \(result) and not \(expected)")
                    return
                }
            }
        }

        @Test(arguments: forms(.xmmXmm32, .xmmXmm64, where: comparesToFlags))
        func `a comparison sets the flags that the host sets`(form: VectorForm) throws {
            let native = try #require(NativeVectorInstruction(form))
            var source = VectorOperandSource(seed: 2)
            for round in 0..<1024 {
                var before = source.registers()
                before.mxcsr = UInt64(Self.control(round))
                let after = native.run(before)
                let control = UInt32(truncatingIfNeeded: before.mxcsr)
                let result = vectorCompareFlags(form.operation, before.xmm1, before.xmm2, control: control)
                #expect(result.zero == (after.flags & 0x40 != 0))
                #expect(result.parity == (after.flags & 4 != 0))
                #expect(result.carry == (after.flags & 1 != 0))
                #expect(UInt64(result.raised) == after.mxcsr & 0x3f)
                let portable = vectorCompareFlagsPortable(form.operation, before.xmm1, before.xmm2)
                if control & 0x40 == 0 {
                    #expect(
                        (portable.zero, portable.parity, portable.carry) == (result.zero, result.parity, result.carry))
                }
            }
        }

        @Test(arguments: forms(.general32Xmm32, .general32Xmm64), [false, true])
        func `a conversion to an integer gives what the host gives`(form: VectorForm, isWide: Bool) throws {
            let native = try #require(NativeVectorInstruction(form, isWide: isWide))
            var source = VectorOperandSource(seed: 3)
            for round in 0..<1024 {
                var before = source.registers()
                before.mxcsr = UInt64(Self.control(round))
                let after = native.run(before)
                let control = UInt32(truncatingIfNeeded: before.mxcsr)
                let result = vectorToInteger(form.operation, isWide: isWide, before.xmm2, control: control)
                #expect(result.value.low == after.rcx)
                #expect(UInt64(result.raised) == after.mxcsr & 0x3f)
                if control & 0x40 == 0 {
                    let portable = vectorToIntegerPortable(
                        form.operation, isWide: isWide, before.xmm2, control: control)
                    #expect(portable.value.low == after.rcx)
                }
            }
        }

        @Test(arguments: forms(.xmmGeneral32), [false, true])
        func `a conversion from an integer gives what the host gives`(form: VectorForm, isWide: Bool) throws {
            let native = try #require(NativeVectorInstruction(form, isWide: isWide))
            var source = VectorOperandSource(seed: 4)
            for round in 0..<1024 {
                var before = source.registers()
                before.mxcsr = UInt64(Self.control(round))
                let after = native.run(before)
                let result = vectorFromInteger(
                    form.operation, isWide: isWide, before.xmm1, before.rdx,
                    control: UInt32(truncatingIfNeeded: before.mxcsr))
                #expect(result.value == after.xmm1)
                #expect(UInt64(result.raised) == after.mxcsr & 0x3f)
                if round & 3 == 0 {
                    let portable = vectorFromIntegerPortable(
                        form.operation, isWide: isWide, before.xmm1, before.rdx)
                    #expect(portable.value == after.xmm1)
                }
            }
        }
    }
#endif

struct MXCSRTests {
    @Test func `masked exceptions are reported as raised and do not fault`() {
        let report = MXCSR.report(0x3f, 0x1f80)
        #expect(report.flags == 0x3f)
        #expect(!report.faults)
    }

    @Test func `an unmasked exception before computing hides those after it`() {
        // Divide-by-zero unmasked; invalid and inexact raised too.
        let report = MXCSR.report(0x25, 0x1d80)
        #expect(report.flags == 0x05)
        #expect(report.faults)
    }

    @Test func `an unmasked underflow is not also inexact`() {
        let report = MXCSR.report(0x30, 0x1780)
        #expect(report.flags == 0x10)
        #expect(report.faults)
    }

    @Test func `a flag that is set already and masked does not fault`() {
        #expect(!MXCSR.report(0x20, 0x1fa0).faults)
    }

    @Test func `operations run masked, without old flags, with the guest's rounding`() {
        #expect(MXCSR.control(0x7fbf) == 0x7f80)
        #expect(MXCSR.control(0xe07f) & 0x1f80 == 0x1f80)
    }

    #if arch(x86_64)
        @Test func `an exact tiny result raises an unmasked underflow`() {
            // The least normal single, times one half.
            let (d, s) = (Vector128(low: 0x0080_0000), Vector128(low: 0x3f00_0000))
            let result = vectorFloat(.mulss, d, s, imm: 0, control: MXCSR.control(0x1780))
            let report = MXCSR.report(result.raised, 0x1780)
            #expect(report.flags == 0x10)
            #expect(report.faults)
            #expect(vectorFloat(.mulss, d, s, imm: 0, control: MXCSR.control(0x1f80)).raised == 0)
        }
    #endif
}
