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
// Where smolvmm has the registers of its first virtio device, if there is one.
#define DEVICE_PAGE         0xd0000000

#define UNDEFINED_VECTOR    6
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
    errand  'a', vector_extension
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
    errand  'u', unusual_access
    errand  'x', triple_fault
    .quad   0

power_off:
    movw    $SLEEP_CONTROL, %dx
    movb    $SOFT_OFF, %al
    outb    %al, %dx
1:  hlt
    jmp     1b

#include "platform-interrupts.h"
#include "platform-processors.h"
#include "platform-clocks.h"
#include "platform-state.h"

// MARK: Faults

// A shuffle whose operand is a device's memory: hypervisors that emulate such accesses do not know it.
unusual_access:
    movl    $DEVICE_PAGE, %ebx
    pshufb  (%rbx), %xmm0
    say     "done\n"
    jmp     power_off

triple_fault:
    lidt    no_idt(%rip)
    int3

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
