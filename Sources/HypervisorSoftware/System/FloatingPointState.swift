// SPDX-License-Identifier: Apache-2.0
// FXSAVE, FXRSTOR and when x87 and SSE instructions may run at all. Intel SDM volume 1, 10.5; volume 3, 2.5.

import X86

extension Core {
    /// Throws #UD or #NM where an SSE or MMX instruction does, and #MF for a pending x87 error before MMX.
    mutating func checkVectorAvailable(mmx: Bool) throws(Fault) {
        if cr0 & ControlRegister0.emulation != 0 { throw .invalidOpcode }
        if !mmx, cr4 & ControlRegister4.fxsave == 0 { throw .invalidOpcode }
        if cr0 & ControlRegister0.taskSwitched != 0 { throw .deviceNotAvailable }
        if mmx, x87.hasPendingException { throw .x87Error }
    }

    /// Bytes of an FXSAVE image that are written: the SSE registers need CR4.OSFXSR.
    private var imageSize: Int {
        mutating get { cr4 & ControlRegister4.fxsave == 0 ? 160 : mode == .bits64 ? 416 : 288 }
    }

    private mutating func checkImage(_ i: DecodedInstruction) throws(Fault) -> UInt64 {
        if cr0 & (ControlRegister0.emulation | ControlRegister0.taskSwitched) != 0 { throw .deviceNotAvailable }
        let address = effectiveAddress(i)
        if address & 15 != 0 { throw misaligned(address) }
        return address
    }

    mutating func saveFloatingPoint(_ i: DecodedInstruction) throws(Fault) {
        let address = try checkImage(i)
        try checkWritable(address, 512, accessSet)
        let wide = i.operandSize == 8 && mode == .bits64
        let image = x87.fxsaveImage(hasWidePointers: wide)
        for word in 0..<20 {
            let value = word == 3 ? UInt64(mxcsr) | 0xffff << 32 : image[word]
            try store(value, at: address &+ UInt64(word * 8))
        }
        for word in 0..<max(imageSize - 160, 0) / 8 {
            try store(xmm[word & 31], at: address &+ UInt64(160 + word * 8))
        }
    }

    mutating func restoreFloatingPoint(_ i: DecodedInstruction) throws(Fault) {
        let address = try checkImage(i)
        var image = InlineArray<20, UInt64>(repeating: 0)
        for word in 0..<20 { image[word] = try load(UInt64.self, at: address &+ UInt64(word * 8)) }
        // The whole image is read, unused as its end is.
        _ = try load(UInt8.self, at: address &+ 511)
        let newMXCSR = UInt32(truncatingIfNeeded: image[3])
        var registers = xmm
        let count = max(imageSize - 160, 0) / 8
        for word in 0..<count { registers[word & 31] = try load(UInt64.self, at: address &+ UInt64(160 + word * 8)) }
        if count > 0 {
            if newMXCSR & 0xffff_0000 != 0 { throw .generalProtection(0) }
            mxcsr = newMXCSR
        }
        xmm = registers
        x87.restore(fxsaveImage: image, hasWidePointers: i.operandSize == 8 && mode == .bits64)
    }
}
