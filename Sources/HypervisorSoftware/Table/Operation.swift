// SPDX-License-Identifier: Apache-2.0
// What integer and system instructions do, one case for each mnemonic. Intel SDM volume 2.

/// Operations outside the x87 and vector groups.
package enum Operation: UInt16, CaseIterable {
    // Arithmetic and logic, in the order of opcode bits 3 to 5 and of group 1.
    case add, or, adc, sbb, and, sub, xor, cmp
    // Shifts and rotates, in the order of group 2.
    case rol, ror, rcl, rcr, shl, shr, sal, sar
    case test, not, neg, mul, imul, div, idiv, imul2, imul3, inc, dec
    case mov, movzx8, movzx16, movsx8, movsx16, movsxd, xchg, lea, cmov, setcc, bswap
    case push, pop, pushf, popf, pusha, popa, enter, leave, sahf, lahf
    case jcc, jmp, jmpIndirect, call, callIndirect, ret, retImmediate, jcxz, loop, loope, loopne
    case jmpFar, callFar, jmpFarIndirect, callFarIndirect, retFar, retFarImmediate
    case cbw, cwd, shld, shrd, bt, bts, btr, btc, bsf, bsr, popcnt, crc32
    case xadd, cmpxchg, cmpxchg8b, xlat, salc
    case daa, das, aaa, aas, aam, aad, bound, arpl
    case movs, cmps, stos, lods, scas, ins, outs
    case `in`, out, clc, stc, cmc, cld, std, cli, sti
    case nop, pause, hlt, int3, int, into, int1, iret, ud
    case syscall, sysret, sysenter, sysexit, swapgs, cpuid, rdtsc, rdtscp, rdpmc, rdmsr, wrmsr
    case movFromControl, movToControl, movFromDebug, movToDebug, movFromSegment, movToSegment, pushSegment, popSegment
    case loadFarPointer, lgdt, lidt, sgdt, sidt, lldt, ltr, sldt, str, smsw, lmsw, clts, invlpg, wbinvd
    case lar, lsl, verr, verw, clac, stac, vmcall, fxsave, fxrstor, ldmxcsr, stmxcsr, fence, monitor, fwait
    // Handed to other groups.
    case vector, x87
}
