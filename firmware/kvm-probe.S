// SPDX-License-Identifier: Apache-2.0
// What asks a hypervisor how it runs supervisor code: some thousand instructions in long mode, then a write to a port.
//
// Entered with paging on, RSP unused, RDI at sixteen bytes of aligned memory, and ESI the number of rounds. Each round is
// five instructions, the first of them CMPXCHG16B, which hosts that emulate supervisor code tend not to know.

#define DONE_PORT 0x80

#ifdef __APPLE__
#define SYMBOL(name) _##name
    .section __DATA,__const
#else
#define SYMBOL(name) name
    .section .rodata.smolvmm_kvm_probe, "a"
#endif

    .balign 16
    .globl SYMBOL(smolvmm_kvm_probe)
SYMBOL(smolvmm_kvm_probe):
    .code64
start:
    movl    %esi, %r8d
round:
    lock cmpxchg16b (%rdi)
    addq    $1, %rbx
    xorq    %rbx, %rcx
    decl    %r8d
    jnz     round
    outb    %al, $DONE_PORT
    jmp     start

    .globl SYMBOL(smolvmm_kvm_probe_end)
SYMBOL(smolvmm_kvm_probe_end):
