// SPDX-License-Identifier: Apache-2.0
// What platform.S does with registers: fills them, stands still while it is frozen, and compares.

// What is in all registers, into `base`. Changes RAX, RCX, RDX, RSI, RDI and flags once they are stored.
.macro store_state base
    movq    %rax, \base + 0x00
    movq    %rcx, \base + 0x08
    movq    %rdx, \base + 0x10
    movq    %rbx, \base + 0x18
    movq    %rsp, \base + 0x20
    movq    %rbp, \base + 0x28
    movq    %rsi, \base + 0x30
    movq    %rdi, \base + 0x38
    movq    %r8, \base + 0x40
    movq    %r9, \base + 0x48
    movq    %r10, \base + 0x50
    movq    %r11, \base + 0x58
    movq    %r12, \base + 0x60
    movq    %r13, \base + 0x68
    movq    %r14, \base + 0x70
    movq    %r15, \base + 0x78
    pushfq
    popq    \base + 0x80
    movl    $\base, %edi
    call    store_system_state
.endm

// The other registers, into the page at RDI.
store_system_state:
    movq    %cr0, %rax
    movq    %rax, 0x88(%rdi)
    movq    %cr2, %rax
    movq    %rax, 0x90(%rdi)
    movq    %cr3, %rax
    movq    %rax, 0x98(%rdi)
    movq    %cr4, %rax
    movq    %rax, 0xa0(%rdi)
    movq    %cr8, %rax
    movq    %rax, 0xa8(%rdi)
    movq    %dr0, %rax
    movq    %rax, 0xb0(%rdi)
    movq    %dr1, %rax
    movq    %rax, 0xb8(%rdi)
    movq    %dr2, %rax
    movq    %rax, 0xc0(%rdi)
    movq    %dr3, %rax
    movq    %rax, 0xc8(%rdi)
    movq    %dr6, %rax
    movq    %rax, 0xd0(%rdi)
    movq    %dr7, %rax
    movq    %rax, 0xd8(%rdi)
    movw    %ds, 0xe0(%rdi)
    movw    %es, 0xe2(%rdi)
    movw    %fs, 0xe4(%rdi)
    movw    %gs, 0xe6(%rdi)
    movw    %ss, 0xe8(%rdi)
    movw    %cs, 0xea(%rdi)
    str     0xec(%rdi)
    sldt    0xee(%rdi)
    sgdt    0xf0(%rdi)
    sidt    0x100(%rdi)
    // Of the local APIC and the IOAPIC, what does not change by itself.
    movl    $LOCAL_APIC, %esi
    movl    APIC_SPURIOUS(%rsi), %eax
    movl    %eax, 0x110(%rdi)
    movl    APIC_LVT_TIMER(%rsi), %eax
    movl    %eax, 0x114(%rdi)
    movl    APIC_INITIAL_COUNT(%rsi), %eax
    movl    %eax, 0x118(%rdi)
    movl    APIC_DIVIDE(%rsi), %eax
    movl    %eax, 0x11c(%rdi)
    movl    $IOAPIC, %esi
    movl    $(0x10 + 2 * SERIAL_LINE), (%rsi)
    movl    0x10(%rsi), %eax
    movl    %eax, 0x120(%rdi)
    fxsave64 0x200(%rdi)
    // Some processors keep the place of the last x87 instruction only when it has failed; the mask of MXCSR is theirs.
    movw    $0, 0x206(%rdi)
    movq    $0, 0x208(%rdi)
    movq    $0, 0x210(%rdi)
    movl    $0, 0x21c(%rdi)
    addq    $0x128, %rdi
    leaq    registers(%rip), %rsi
1:  movl    (%rsi), %ecx
    testl   %ecx, %ecx
    jz      2f
    rdmsr
    movl    %eax, (%rdi)
    movl    %edx, 4(%rdi)
    addq    $16, %rsi
    addq    $8, %rdi
    jmp     1b
2:  ret

    .balign 8
// Model-specific registers, and what is written to them. AMD's processors keep the low halves of SYSENTER's.
registers:
    .quad   0xc0000081, 0x0023001000000000  // STAR
    .quad   0xc0000082, 0xffff800012345678  // LSTAR
    .quad   0xc0000083, 0xffff800087654321  // CSTAR
    .quad   0xc0000084, 0x47700             // SFMASK
    .quad   0xc0000100, 0x0000123456789abc  // FS.base
    .quad   0xc0000101, 0xffff888000001000  // GS.base
    .quad   0xc0000102, 0x00007fff12345678  // KernelGSbase
    .quad   0xc0000103, 0x55                // TSC_AUX
    .quad   0x174, 0x10                     // SYSENTER_CS
    .quad   0x175, 0x150000                 // SYSENTER_ESP
    .quad   0x176, 0x12345678               // SYSENTER_EIP
    .quad   0x277, 0x0007010600070106       // PAT
    .quad   0

// Has something in every register, says FREEZE and stands still. A byte at the serial port lets it go on; then everything
// must be as it was, and the timer must still tick.
freeze:
    // Before any interrupt: QEMU 7.2 as an emulated KVM host ends when a guest writes CR8 while one waits.
    movl    $2, %eax
    movq    %rax, %cr8
    handle  TIMER_VECTOR, count_local
    handle  LINE_VECTOR, let_go
    movl    $0xb, APIC_DIVIDE(%r14)
    movl    $(1 << 17 | TIMER_VECTOR), APIC_LVT_TIMER(%r14)
    // Slow enough for emulated hosts, on which an interrupt takes more than a millisecond.
    movl    $20000000, APIC_INITIAL_COUNT(%r14)
    xorl    %edi, %edi
    call    route_serial_line
    say     "FREEZ"

    leaq    registers(%rip), %rsi
1:  movl    (%rsi), %ecx
    testl   %ecx, %ecx
    jz      2f
    movl    8(%rsi), %eax
    movl    12(%rsi), %edx
    wrmsr
    addq    $16, %rsi
    jmp     1b
2:  movabsq $0xffff800000001000, %rax
    movq    %rax, %cr2
    // A breakpoint for an address where nothing is, and others that are off.
    movabsq $0x00007fff00001000, %rax
    movq    %rax, %dr0
    incq    %rax
    movq    %rax, %dr1
    incq    %rax
    movq    %rax, %dr2
    incq    %rax
    movq    %rax, %dr3
    movl    $0x402, %eax
    movq    %rax, %dr7
    fninit
    fldpi
    fldl2e
    fld1
    fldcw   x87_control(%rip)
    ldmxcsr mxcsr(%rip)
    movabsq $0x0102030405060708, %rax
    .irp    number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movq    %rax, %xmm\number
    rolq    $4, %rax
    pinsrq  $1, %rax, %xmm\number
    .endr
    movabsq $0x1111111111111111, %rcx
    movabsq $0x3333333333333333, %rbx
    movabsq $0x5555555555555555, %rbp
    movabsq $0x6666666666666666, %rsi
    movabsq $0x7777777777777777, %rdi
    movabsq $0x8888888888888888, %r8
    movabsq $0x9999999999999999, %r9
    movabsq $0xaaaaaaaaaaaaaaaa, %r10
    movabsq $0xbbbbbbbbbbbbbbbb, %r11
    movabsq $0xcccccccccccccccc, %r12
    movabsq $0xdddddddddddddddd, %r13
    movabsq $0xeeeeeeeeeeeeeeee, %r14
    movabsq $0xffffffffffffffff, %r15
    movl    $SERIAL, %edx
    movl    $'E', %eax
    // CF, PF, AF, ZF, SF, IF, DF, OF, AC, ID.
    pushq   $0x240ed7
    popfq
    store_state STATE_BEFORE
    // What storing has changed, as it was.
    pushq   STATE_BEFORE + 0x80
    popfq
    movq    STATE_BEFORE + 0x00, %rax
    movq    STATE_BEFORE + 0x08, %rcx
    movq    STATE_BEFORE + 0x10, %rdx
    movq    STATE_BEFORE + 0x30, %rsi
    movq    STATE_BEFORE + 0x38, %rdi
    outb    %al, %dx
    jmp     .

let_go_on:
    store_state STATE_AFTER
    cld
    movl    $STATE_BEFORE, %esi
    movl    $STATE_AFTER, %edi
    movl    $(STATE_SIZE / 4), %ecx
    repe cmpsl
    jne     1f
    say     "\nsame\n"
    jmp     2f
1:  movl    %esi, %ebx
    say     "\ndiffers before "
    movl    %ebx, %eax
    call    print_hexadecimal
    say     "\n"
2:  movl    $0, COUNT
    call    wait_for_five
    say     "timer\n"
    jmp     power_off

x87_control:
    .word   0x0a7f
    .balign 4
mxcsr:
    .long   0x9fa0

// Has something in all of YMM0 to YMM15, says FREEZE and waits for a byte at the serial port; then they must be as they
// were.
vector_extension:
    movq    %cr4, %rax
    orl     $(1 << 18), %eax
    movq    %rax, %cr4
    call    enable_vectors
    handle  UNDEFINED_VECTOR, enable_vectors_again
    movl    $STATE_BEFORE, %edi
    movabsq $0x0123456789abcdef, %rax
    movl    $64, %ecx
1:  stosq
    rolq    $5, %rax
    incq    %rax
    decl    %ecx
    jnz     1b
    .irp    number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovdqu STATE_BEFORE + 32 * \number, %ymm\number
    .endr
    say     "FREEZE\n"
    movw    $(SERIAL + 5), %dx
2:  inb     %dx, %al
    testb   $1, %al
    jz      2b
    .irp    number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovdqu %ymm\number, STATE_AFTER + 32 * \number
    .endr
    movl    $STATE_BEFORE, %esi
    movl    $STATE_AFTER, %edi
    movl    $128, %ecx
    repe cmpsl
    jne     3f
    say     "same\n"
    jmp     power_off
3:  say     "differs\n"
    jmp     power_off

// QEMU 7.2 as an emulated KVM host does not let KVM see what its guest writes to XCR0, so that each exit undoes it.
enable_vectors_again:
    pushq   %rax
    pushq   %rcx
    pushq   %rdx
    call    enable_vectors
    popq    %rdx
    popq    %rcx
    popq    %rax
    iretq

// x87, SSE and AVX in XCR0. Changes RAX, RCX, RDX.
enable_vectors:
    movl    $7, %eax
    xorl    %edx, %edx
    xorl    %ecx, %ecx
    xsetbv
    ret
