// SPDX-License-Identifier: Apache-2.0
// What platform.S does with its second processor. Intel SDM volume 3, 9.4 and 10.1.

second_processor:
    handle  MESSAGE_VECTOR, count_local
    // Its first code, in real mode, at the page that the start-up interrupt names.
    leaq    trampoline(%rip), %rsi
    movl    $(TRAMPOLINE_PAGE << 12), %edi
    movl    $(trampoline_end - trampoline), %ecx
    rep movsb
    movl    $1, %ebx
    call    start_second
    say     "started "
    movl    STARTED_APIC_ID, %eax
    call    print_hexadecimal
    say     " "
    movl    STARTED_CPUID_ID, %eax
    call    print_hexadecimal
    say     "\n"
    // It halts; a message wakes it.
    movl    $(1 << 24), APIC_DESTINATION(%r14)
    movl    $(0x4000 | MESSAGE_VECTOR), APIC_COMMAND(%r14)
1:  pause
    cmpl    $1, COUNT
    jb      1b
    say     "woken\n"
    // Once more, from where it is now.
    movl    $2, %ebx
    call    start_second
    say     "started again\n"
    jmp     power_off

// INIT and start-up; returns when STARTED is EBX.
start_second:
    movl    $(1 << 24), APIC_DESTINATION(%r14)
    movl    $0xc500, APIC_COMMAND(%r14)
    movl    $10000, %ecx
1:  pause
    decl    %ecx
    jnz     1b
    movl    $(1 << 24), APIC_DESTINATION(%r14)
    movl    $(0x4600 | TRAMPOLINE_PAGE), APIC_COMMAND(%r14)
2:  pause
    cmpl    %ebx, STARTED
    jb      2b
    ret

    .code16
trampoline:
    cli
    cld
    lgdtl   %cs:(gdt_register - trampoline)
    // To long mode in one step: paging and protection together.
    movl    %cr4, %eax
    orl     $(CR4_PAE | 0x600), %eax
    movl    %eax, %cr4
    movl    $PAGE_TABLES, %eax
    movl    %eax, %cr3
    movl    $MSR_EFER, %ecx
    rdmsr
    orl     $EFER_LME, %eax
    wrmsr
    movl    %cr0, %eax
    andl    $~0x60000000, %eax
    orl     $CR0_PG_AND_PE, %eax
    movl    %eax, %cr0
    ljmpl   $CODE64_SELECTOR, $(LOAD_ADDRESS + second_long_mode - image)
    .balign 8
gdt:
    .quad   0
    .quad   0x00cf9b000000ffff      // 32-bit code, as the boot ROM's
    .quad   0x00af9b000000ffff      // 64-bit code
    .quad   0x00cf93000000ffff      // data
gdt_register:
    .word   gdt_register - gdt - 1
    .long   (TRAMPOLINE_PAGE << 12) + gdt - trampoline
trampoline_end:

    .code64
second_long_mode:
    movw    $DATA_SELECTOR, %ax
    movw    %ax, %ds
    movw    %ax, %es
    movw    %ax, %ss
    movl    $SECOND_STACK_TOP, %esp
    lidt    idt_register(%rip)
    movl    $LOCAL_APIC, %r14d
    movl    $(0x100 | SPURIOUS_VECTOR), APIC_SPURIOUS(%r14)
    movl    APIC_ID(%r14), %eax
    shrl    $24, %eax
    movl    %eax, STARTED_APIC_ID
    movl    $1, %eax
    cpuid
    shrl    $24, %ebx
    movl    %ebx, STARTED_CPUID_ID
    sti
    lock incl STARTED
1:  hlt
    jmp     1b
