// SPDX-License-Identifier: Apache-2.0
// What the interpreter's main switch goes by: the hot forms one by one, everything else by group.

/// Index of the interpreter's main switch.
///
/// Hot forms are named by operation, width and operands, the destination first: R register, M memory, I immediate.
/// Their registers are none of AH to BH and their addresses are flat, 64 bits wide.
enum Handler: UInt8 {
    // Block structure.
    case endOfBlock, blockInvalid, invalid
    // Groups.
    case integer, system, vector, x87
    // Conditional jumps, in the order of their opcodes.
    case jo, jno, jb, jnb, jz, jnz, jbe, jnbe, js, jns, jp, jnp, jl, jnl, jle, jnle
    case jmp, call, ret, jmpIndirect, callIndirect, loop
    case mov32RR, mov64RR, mov32RI, mov64RI
    case mov8RM, mov16RM, mov32RM, mov64RM, mov8MR, mov16MR, mov32MR, mov64MR
    case mov8MI, mov16MI, mov32MI, mov64MI
    case lea32, lea64
    case zero8R, zero8M, zero16R, zero16M, sign8R32, sign8R64, sign32R, sign32M
    case push64, pop64
    case add32RR, add64RR, add32RI, add64RI, add32RM, add64RM, add32MR, add64MR, add32MI, add64MI
    case sub32RR, sub64RR, sub32RI, sub64RI, sub32RM, sub64RM, sub32MR, sub64MR
    case adc64RR, adc64RI, adc64RM, sbb32RR, sbb64RR, sbb64RI
    case and32RR, and64RR, and32RI, and64RI, and32RM, and64RM
    case or32RR, or64RR, or32RI, or64RI, or32RM, or64RM
    case xor32RR, xor64RR, xor32RI, xor64RI, xor32RM, xor64RM
    case cmp8RR, cmp32RR, cmp64RR, cmp8RI, cmp32RI, cmp64RI
    case cmp8RM, cmp32RM, cmp64RM, cmp8MR, cmp32MR, cmp64MR, cmp8MI, cmp32MI, cmp64MI
    case test8RR, test32RR, test64RR, test8RI, test32RI, test8MI, test32MI
    case inc32R, inc64R, dec32R, dec64R, inc32M, dec32M, neg32R, neg64R, not64R
    case shl32I, shl64I, shr32I, shr64I, sar32I, sar64I, rol32I, ror32I
    case imul32RR, imul64RR, imul64RM, imul32RRI, imul64RRI
    case cmov32RR, cmov64RR, setR
    case nop

    /// JO to JNLE by the low four bits of the opcode.
    static func conditionalJump(_ condition: UInt8) -> Handler {
        Handler(rawValue: Handler.jo.rawValue + (condition & 15)) ?? .invalid
    }

    var isConditionalJump: Bool { (Handler.jo.rawValue...Handler.jnle.rawValue).contains(rawValue) }
}
