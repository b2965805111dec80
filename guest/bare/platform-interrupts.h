// SPDX-License-Identifier: Apache-2.0
// What platform.S does with interrupts: timers, lines, NMIs. Intel SDM volume 3, chapters 6 and 11.

// The local APIC's timer, periodic: five interrupts that end five HLTs.
timer:
    handle  TIMER_VECTOR, count_local
    movl    $0xb, APIC_DIVIDE(%r14)
    movl    $(1 << 17 | TIMER_VECTOR), APIC_LVT_TIMER(%r14)
    movl    $1000000, APIC_INITIAL_COUNT(%r14)
    call    wait_for_five
    say     "timer\n"
    jmp     power_off

// The same timer, armed for an instant of the time stamp counter, five times.
deadline:
    handle  TIMER_VECTOR, count_local
    movl    $(2 << 17 | TIMER_VECTOR), APIC_LVT_TIMER(%r14)
    mfence
1:  rdtsc
    addl    $1000000, %eax
    adcl    $0, %edx
    movl    $MSR_TSC_DEADLINE, %ecx
    wrmsr
    movl    COUNT, %ebx
2:  sti
    hlt
    cli
    cmpl    COUNT, %ebx
    je      2b
    cmpl    $5, COUNT
    jb      1b
    say     "deadline\n"
    jmp     power_off

// The PIT through the PICs and LINT0.
pic_timer:
    handle  PIC_VECTOR, count_pic
    movl    $0x700, APIC_LVT_LINT0(%r14)
    movb    $0x11, %al
    outb    %al, $0x20
    outb    %al, $0xa0
    movb    $PIC_VECTOR, %al
    outb    %al, $0x21
    movb    $(PIC_VECTOR + 8), %al
    outb    %al, $0xa1
    movb    $4, %al
    outb    %al, $0x21
    movb    $2, %al
    outb    %al, $0xa1
    movb    $1, %al
    outb    %al, $0x21
    outb    %al, $0xa1
    movb    $0xfe, %al
    outb    %al, $0x21
    movb    $0xff, %al
    outb    %al, $0xa1
    // Channel 0, rate generator, 1193182 Hz / 1193.
    movb    $0x34, %al
    outb    %al, $0x43
    movb    $(1193 & 0xff), %al
    outb    %al, $0x40
    movb    $(1193 >> 8), %al
    outb    %al, $0x40
    call    wait_for_five
    say     "pic timer\n"
    jmp     power_off

wait_for_five:
    sti
    hlt
    cli
    cmpl    $5, COUNT
    jb      wait_for_five
    ret

// Two bytes that arrive at the serial port, an interrupt each, through the IOAPIC.
edge_triggered:
    xorl    %edi, %edi
    jmp     receive
level_triggered:
    movl    $0x8000, %edi
receive:
    pushq   %rdi
    handle  LINE_VECTOR, receive_byte
    popq    %rdi
    call    route_serial_line
    say     "ready\n"
1:  sti
    hlt
    cli
    cmpl    $2, COUNT
    jb      1b
    say     "received "
    movl    $RECEIVED, %esi
    call    print
    say     "\n"
    jmp     power_off

// EDI: more bits for the entry of the IOAPIC. Changes RAX, RCX, RDX.
route_serial_line:
    movl    $IOAPIC, %ecx
    movl    $(0x10 + 2 * SERIAL_LINE + 1), (%rcx)
    movl    $0, 0x10(%rcx)
    movl    $(0x10 + 2 * SERIAL_LINE), (%rcx)
    orl     $LINE_VECTOR, %edi
    movl    %edi, 0x10(%rcx)
    // OUT2 connects the line, and received data interrupts.
    movw    $(SERIAL + 4), %dx
    movb    $8, %al
    outb    %al, %dx
    movw    $(SERIAL + 1), %dx
    movb    $1, %al
    outb    %al, %dx
    ret

// An NMI by the local APIC, and one more from inside its handler, which must wait for the IRET.
non_maskable:
    handle  2, count_non_maskable
    call    send_non_maskable
1:  pause
    cmpl    $2, COUNT
    jb      1b
    cmpl    $1, NMI_DEEPEST
    jne     2f
    say     "nmi\n"
    jmp     power_off
2:  say     "nmi in nmi\n"
    jmp     power_off

// To processor 0. Changes RAX.
send_non_maskable:
    movl    $LOCAL_APIC, %eax
    movl    $0, APIC_DESTINATION(%rax)
    movl    $0x4400, APIC_COMMAND(%rax)
    ret
