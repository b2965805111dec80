// SPDX-License-Identifier: Apache-2.0
// Runs decoded SSE floating-point instructions: MXCSR and #XM. Intel SDM volume 1, 11.5.

import X86

extension Core {
    /// An operation that uses MXCSR and whose destination is the XMM register in ModRM.reg, or the flags.
    @inline(__always)
    mutating func executeFloat(
        _ operation: VectorOperation, _ i: DecodedInstruction, _ s: Vector128, _ imm: UInt8
    ) throws(Fault) {
        let d = self[xmm: i.reg]
        let control = MXCSR.control(mxcsr)
        if operation.rawValue >= VectorOperation.comiss.rawValue {
            let result = vectorCompareFlags(operation, d, s, control: control)
            try raise(result.raised)
            setFlags(cf: result.carry, pf: result.parity, af: false, zf: result.zero, sf: false, of: false)
        } else {
            self[xmm: i.reg] = try checked(vectorFloat(operation, d, s, imm: imm, control: control))
        }
    }

    /// The value of `result`, unless it raises #XM.
    @inline(__always)
    mutating func checked(_ result: VectorFloatResult) throws(Fault) -> Vector128 {
        try raise(result.raised)
        return result.value
    }

    /// Sets exception flags in MXCSR.
    /// - Throws: #XM when one is not masked, or #UD when the system does not know of #XM (CR4.OSXMMEXCPT is clear).
    @inline(__always)
    mutating func raise(_ raised: UInt32) throws(Fault) {
        if raised & ~(mxcsr &>> 7) == 0 {
            mxcsr |= raised
        } else {
            try raiseUnmasked(raised)
        }
    }

    @inline(never)
    private mutating func raiseUnmasked(_ raised: UInt32) throws(Fault) {
        let report = MXCSR.report(raised, mxcsr)
        mxcsr |= report.flags
        if report.faults { throw cr4 & ControlRegister4.simdExceptions != 0 ? .simdError : .invalidOpcode }
    }
}
