// SPDX-License-Identifier: Apache-2.0
// An ELF kernel that does one thing with interrupts, clocks or processors, tells on the serial port how it went, and
// turns the machine off. The first letter of the last word of the command line says what: see `errands`.
//
// Entered as the boot ROM enters kernels: long mode, the first 4 GiB mapped one to one, RSI at the boot parameters. QEMU,
// beside which it is measured, enters it in protected mode (Xen's misc/pvh.pandoc).

#include "symbols.h"

#define LOAD_ADDRESS        0x100000
#define MEMORY_SIZE         0x100000
#define IDT                 0x140000
#define STACK_TOP           0x150000
#define SECOND_STACK_TOP    0x158000
#define STATE_BEFORE        0x160000
#define STATE_AFTER         0x161000
#define STATE_SIZE          0x400
#define CLOCK_PAGE          0x170000
#define WALL_CLOCK          0x171000

#define VARIABLES           0x172000
#define COUNT               (VARIABLES + 0x00)
#define RECEIVED            (VARIABLES + 0x10)
#define NMI_DEPTH           (VARIABLES + 0x20)
#define NMI_DEEPEST         (VARIABLES + 0x28)
#define STARTED             (VARIABLES + 0x30)
#define STARTED_APIC_ID     (VARIABLES + 0x34)
#define STARTED_CPUID_ID    (VARIABLES + 0x38)
#define PVH_COMMAND_LINE    (VARIABLES + 0x40)

// What the boot ROM leaves: its selectors, its page tables.
#define CODE64_SELECTOR     0x10
#define DATA_SELECTOR       0x18
#define PAGE_TABLES         0x9000
#define PAGE_TABLE_BYTES    0x6000
#define COMMAND_LINE_POINTER 0x228

#define ROUND_TRIPS         1000

#define SERIAL              0x3f8
#define SERIAL_LINE         4
#define SLEEP_CONTROL       0x600
#define SOFT_OFF            0x34

#define LOCAL_APIC          0xfee00000
#define APIC_ID             0x20
#define APIC_EOI            0xb0
#define APIC_SPURIOUS       0xf0
#define APIC_COMMAND        0x300
#define APIC_DESTINATION    0x310
#define APIC_LVT_TIMER      0x320
#define APIC_LVT_LINT0      0x350
#define APIC_INITIAL_COUNT  0x380
#define APIC_DIVIDE         0x3e0
#define IOAPIC              0xfec00000

#define TIMER_VECTOR        0x40
#define LINE_VECTOR         0x41
#define MESSAGE_VECTOR      0x42
#define PIC_VECTOR          0x50
#define SPURIOUS_VECTOR     0xff

// Where the second processor starts.
#define TRAMPOLINE_PAGE     0x10

#define MSR_TSC_DEADLINE    0x6e0
#define MSR_KVM_WALL_CLOCK  0x4b564d00
#define MSR_KVM_SYSTEM_TIME 0x4b564d01

// Prints a text. Changes RAX, RDX, RSI.
.macro say text
    leaq    .Ltext\@(%rip), %rsi
    call    print
    jmp     .Lnext\@
.Ltext\@:
    .asciz  "\text"
.Lnext\@:
.endm

// Puts the address of `handler` into the IDT. Changes RSI, RDI.
.macro handle vector, handler
    movl    $\vector, %edi
    leaq    \handler(%rip), %rsi
    call    set_gate
.endm

// Ends the interrupt in service. Changes RAX.
.macro end_of_interrupt
    movl    $(LOCAL_APIC + APIC_EOI), %eax
    movl    $0, (%rax)
.endm

    GUEST_SECTION
    .balign 4096
    .globl GUEST_SYMBOL(platform)
GUEST_SYMBOL(platform):
image:
    // System V ABI, chapters 4 and 5: the header of an executable for x86-64, one loadable segment, and a note.
    .byte   0x7f
    .ascii  "ELF"
    .byte   2, 1, 1
    .fill   9, 1, 0
    .word   2, 62
    .long   1
    .quad   LOAD_ADDRESS + entry - image
    .quad   64, 0
    .long   0
    .word   64, 56, 2, 0, 0, 0
    .long   1, 7
    .quad   0, LOAD_ADDRESS, LOAD_ADDRESS, image_end - image, MEMORY_SIZE, 0x1000
    .long   4, 4
    .quad   note - image, LOAD_ADDRESS + note - image, LOAD_ADDRESS + note - image, note_end - note, note_end - note, 4

note:
    // XEN_ELFNOTE_PHYS32_ENTRY
    .long   4, 4, 18
    .asciz  "Xen"
    .long   LOAD_ADDRESS + pvh_entry - image
note_end:

    .code32
pvh_entry:
    cli
    cld
    movl    24(%ebx), %eax
    movl    %eax, PVH_COMMAND_LINE
    movl    $STACK_TOP, %esp
    movl    $PAGE_TABLES, %edi
    xorl    %eax, %eax
    movl    $(PAGE_TABLE_BYTES / 4), %ecx
    rep stosl
    movl    $(PAGE_TABLES + 0x1000 + PRESENT_WRITABLE), PAGE_TABLES
    movl    $(PAGE_TABLES + 0x2000 + PRESENT_WRITABLE), PAGE_TABLES + 0x1000
    movl    $(PAGE_TABLES + 0x3000 + PRESENT_WRITABLE), PAGE_TABLES + 0x1008
    movl    $(PAGE_TABLES + 0x4000 + PRESENT_WRITABLE), PAGE_TABLES + 0x1010
    movl    $(PAGE_TABLES + 0x5000 + PRESENT_WRITABLE), PAGE_TABLES + 0x1018
    movl    $(PAGE_TABLES + 0x2000), %edi
    movl    $LARGE_PAGE, %eax
1:  movl    %eax, (%edi)
    addl    $8, %edi
    addl    $0x200000, %eax
    cmpl    $(PAGE_TABLES + PAGE_TABLE_BYTES), %edi
    jne     1b
    movl    %cr4, %eax
    orl     $CR4_PAE, %eax
    movl    %eax, %cr4
    movl    $PAGE_TABLES, %eax
    movl    %eax, %cr3
    movl    $MSR_EFER, %ecx
    rdmsr
    orl     $EFER_LME, %eax
    wrmsr
    movl    %cr0, %eax
    orl     $CR0_PG_AND_PE, %eax
    movl    %eax, %cr0
    lgdtl   LOAD_ADDRESS + pvh_gdt_register - image
    movl    $(PVH_COMMAND_LINE - COMMAND_LINE_POINTER), %esi
    ljmpl   $CODE64_SELECTOR, $(LOAD_ADDRESS + pvh_long_mode - image)
pvh_gdt_register:
    .word   gdt_register - gdt - 1
    .long   LOAD_ADDRESS + gdt - image

    .code64
pvh_long_mode:
    movw    $DATA_SELECTOR, %ax
    movw    %ax, %ds
    movw    %ax, %es
    movw    %ax, %ss
entry:
    cli
    cld
    movl    $STACK_TOP, %esp
    movl    COMMAND_LINE_POINTER(%rsi), %r12d
    // The last word of the command line.
    movq    %r12, %rcx
1:  movzbl  (%rcx), %eax
    incq    %rcx
    cmpb    $' ', %al
    jne     2f
    movq    %rcx, %r12
2:  testb   %al, %al
    jnz     1b
    movb    (%r12), %bl

    // Caches on, SSE and x87 usable: clear CD, NW, EM, TS; set NE, MP; OSFXSR, OSXMMEXCPT.
    movq    %cr0, %rax
    andl    $~0x6000000c, %eax
    orl     $0x22, %eax
    movq    %rax, %cr0
    movq    %cr4, %rax
    orl     $0x600, %eax
    movq    %rax, %cr4

    xorl    %ecx, %ecx
1:  movl    %ecx, %edi
    leaq    unexpected(%rip), %rsi
    call    set_gate
    incl    %ecx
    cmpl    $32, %ecx
    jne     1b
    handle  SPURIOUS_VECTOR, ignore
    lidt    idt_register(%rip)
    movl    $LOCAL_APIC, %r14d
    movl    $(0x100 | SPURIOUS_VECTOR), APIC_SPURIOUS(%r14)

    leaq    errands(%rip), %rcx
1:  movzbl  (%rcx), %eax
    testb   %al, %al
    jz      2f
    cmpb    %al, %bl
    je      3f
    addq    $8, %rcx
    jmp     1b
2:  say     "no such errand\n"
    jmp     power_off
3:  movslq  4(%rcx), %rax
    leaq    image(%rip), %rdx
    addq    %rdx, %rax
    jmp     *%rax

// What the letters mean.
.macro errand letter, code
    .byte   \letter, 0, 0, 0
    .long   \code - image
.endm
    .balign 8
errands:
    errand  'c', clock
    errand  'd', deadline
    errand  'e', edge_triggered
    errand  'f', freeze
    errand  'l', level_triggered
    errand  'm', pic_timer
    errand  'n', non_maskable
    errand  'r', round_trips
    errand  's', second_processor
    errand  't', timer
    errand  'x', triple_fault
    .quad   0

power_off:
    movw    $SLEEP_CONTROL, %dx
    movb    $SOFT_OFF, %al
    outb    %al, %dx
1:  hlt
    jmp     1b

// MARK: Interrupts

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

// MARK: Processors

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

// MARK: Clocks

// kvm-clock goes on, and knows the wall clock. Linux Documentation/virt/kvm/x86/msr.rst.
clock:
    call    enable_clock
    call    read_clock
    movq    %rax, %rbx
    movl    $10000, %ecx
1:  pause
    decl    %ecx
    jnz     1b
    call    read_clock
    cmpq    %rbx, %rax
    jbe     2f
    say     "goes on\n"
2:  movl    $MSR_KVM_WALL_CLOCK, %ecx
    movl    $WALL_CLOCK, %eax
    xorl    %edx, %edx
    wrmsr
    call    read_clock
    // Seconds since the machine began, and those at which it did.
    xorl    %edx, %edx
    movl    $1000000000, %ecx
    divq    %rcx
    movl    WALL_CLOCK + 4, %ecx
    addq    %rcx, %rax
    call    print_hexadecimal
    say     "\n"
    jmp     power_off

// Changes RAX, RCX, RDX.
enable_clock:
    movl    $MSR_KVM_SYSTEM_TIME, %ecx
    movl    $(CLOCK_PAGE | 1), %eax
    xorl    %edx, %edx
    wrmsr
    ret

// Nanoseconds into RAX. Changes RCX, RDX, R8.
read_clock:
    movl    CLOCK_PAGE, %r8d
    testl   $1, %r8d
    jnz     read_clock
    lfence
    rdtsc
    shlq    $32, %rdx
    orq     %rdx, %rax
    subq    CLOCK_PAGE + 8, %rax
    movsbl  CLOCK_PAGE + 28, %ecx
    testl   %ecx, %ecx
    js      1f
    shlq    %cl, %rax
    jmp     2f
1:  negl    %ecx
    shrq    %cl, %rax
2:  movl    CLOCK_PAGE + 24, %edx
    mulq    %rdx
    shrdq   $32, %rdx, %rax
    addq    CLOCK_PAGE + 16, %rax
    lfence
    cmpl    CLOCK_PAGE, %r8d
    jne     read_clock
    ret

// How many nanoseconds a read of the serial port's scratch register takes, and one of the device's memory whose address
// follows the letter in hexadecimal digits.
round_trips:
    xorl    %r13d, %r13d
1:  incq    %r12
    movzbl  (%r12), %eax
    subl    $'0', %eax
    jb      3f
    cmpl    $10, %eax
    jb      2f
    subl    $('a' - '0' - 10), %eax
2:  shlq    $4, %r13
    addq    %rax, %r13
    jmp     1b
3:  call    enable_clock
    // The first accesses find the way.
    movl    $10, %r15d
    call    read_port
    movl    $10, %r15d
    call    read_device
    call    read_clock
    movq    %rax, %rbx
    movl    $ROUND_TRIPS, %r15d
    call    read_port
    call    time_share
    say     "port "
    call    print_share
    call    read_clock
    movq    %rax, %rbx
    movl    $ROUND_TRIPS, %r15d
    call    read_device
    call    time_share
    say     "memory "
    call    print_share
    jmp     power_off

// Into R9: nanoseconds since RBX for each of the round trips. Changes RAX, RCX, RDX, R8.
time_share:
    call    read_clock
    subq    %rbx, %rax
    xorl    %edx, %edx
    movl    $ROUND_TRIPS, %ecx
    divq    %rcx
    movq    %rax, %r9
    ret

print_share:
    movq    %r9, %rax
    call    print_hexadecimal
    say     "\n"
    ret

// Reads as often as R15D says. Change RAX, RDX, R15.
read_port:
    movw    $(SERIAL + 7), %dx
1:  inb     %dx, %al
    decl    %r15d
    jnz     1b
    ret
read_device:
    movl    (%r13), %eax
    decl    %r15d
    jnz     read_device
    ret

// MARK: Faults

triple_fault:
    lidt    no_idt(%rip)
    int3

// MARK: State

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

// MARK: Handlers

ignore:
    iretq

unexpected:
    movl    $LOCAL_APIC, %r14d
    say     "unexpected exception at "
    movq    (%rsp), %rax
    call    print_hexadecimal
    movq    8(%rsp), %rax
    call    print_hexadecimal
    say     "\n"
    jmp     power_off

count_local:
    pushq   %rax
    incl    COUNT
    end_of_interrupt
    popq    %rax
    iretq

count_pic:
    pushq   %rax
    incl    COUNT
    movb    $0x20, %al
    outb    %al, $0x20
    popq    %rax
    iretq

receive_byte:
    pushq   %rax
    pushq   %rdx
    pushq   %rcx
    movw    $SERIAL, %dx
    inb     %dx, %al
    movl    COUNT, %ecx
    movb    %al, RECEIVED(%rcx)
    incl    COUNT
    end_of_interrupt
    popq    %rcx
    popq    %rdx
    popq    %rax
    iretq

count_non_maskable:
    pushq   %rax
    incl    COUNT
    incl    NMI_DEPTH
    movl    NMI_DEPTH, %eax
    cmpl    NMI_DEEPEST, %eax
    jbe     1f
    movl    %eax, NMI_DEEPEST
1:  cmpl    $1, COUNT
    jne     3f
    call    send_non_maskable
    movl    $10000, %eax
2:  pause
    decl    %eax
    jnz     2b
3:  decl    NMI_DEPTH
    popq    %rax
    iretq

// Reads the byte, and returns to where the guest goes on.
let_go:
    pushq   %rax
    pushq   %rdx
    movw    $SERIAL, %dx
    inb     %dx, %al
    end_of_interrupt
    leaq    let_go_on(%rip), %rax
    movq    %rax, 16(%rsp)
    popq    %rdx
    popq    %rax
    iretq

// MARK: Routines

// EDI: vector, RSI: handler. Changes both.
set_gate:
    shll    $4, %edi
    addl    $IDT, %edi
    movw    %si, (%rdi)
    movw    $CODE64_SELECTOR, 2(%rdi)
    movw    $0x8e00, 4(%rdi)
    shrq    $16, %rsi
    movw    %si, 6(%rdi)
    shrq    $16, %rsi
    movl    %esi, 8(%rdi)
    movl    $0, 12(%rdi)
    ret

// RSI: text that ends with a zero. Changes RAX, RDX, RSI.
print:
    movw    $SERIAL, %dx
1:  lodsb
    testb   %al, %al
    jz      2f
    outb    %al, %dx
    jmp     1b
2:  ret

// RAX: a number. Changes RAX, RCX, RDX, RDI.
print_hexadecimal:
    movq    %rax, %rdi
    movl    $16, %ecx
    movw    $SERIAL, %dx
1:  rolq    $4, %rdi
    movl    %edi, %eax
    andl    $15, %eax
    cmpl    $10, %eax
    jb      2f
    addl    $('a' - '0' - 10), %eax
2:  addl    $'0', %eax
    outb    %al, %dx
    decl    %ecx
    jnz     1b
    ret

    .balign 8
idt_register:
    .word   0xfff
    .quad   IDT
no_idt:
    .word   0
    .quad   0
image_end:
    .globl GUEST_SYMBOL(platform_end)
GUEST_SYMBOL(platform_end):
    GUEST_FILE_END
