// SPDX-License-Identifier: Apache-2.0
// From real mode to long mode by itself, then every kind of access that leaves the guest. Intel SDM volume 3, 10.8.5.
//
// It is loaded at 0x8000 and started there as a start-up interrupt would, with CS based at 0x8000 and IP 0. Port 0x500 and
// the page at 0xd0000000 answer. What it reads it writes back, so that whoever answers sees whether it arrived.

#include "symbols.h"

#define LOAD_ADDRESS        0x8000
#define PAGE_TABLES         0x10000
#define PAGE_TABLE_BYTES    0x4000
#define STRING              0x20000
#define PORT                0x500
#define DEVICE_PAGE         0xd0000000

#define CODE32_SELECTOR     0x08
#define CODE64_SELECTOR     0x10
#define DATA_SELECTOR       0x18

    GUEST_SECTION
    .balign 16
    .globl GUEST_SYMBOL(exits)
GUEST_SYMBOL(exits):
image:
    .code16
    cli
    cld
    lgdtl   %cs:(gdt_register - image)
    movl    %cr0, %eax
    orl     $CR0_PE, %eax
    movl    %eax, %cr0
    ljmpl   $CODE32_SELECTOR, $(LOAD_ADDRESS + protected_mode - image)

    .code32
protected_mode:
    movw    $DATA_SELECTOR, %ax
    movw    %ax, %ds
    movw    %ax, %es
    movw    %ax, %ss

    // One PML4, one page-directory-pointer table, page directories for the first GiB and for the one of the device.
    movl    $PAGE_TABLES, %edi
    xorl    %eax, %eax
    movl    $(PAGE_TABLE_BYTES / 4), %ecx
    rep stosl
    movl    $(PAGE_TABLES + 0x1000 + PRESENT_WRITABLE), PAGE_TABLES
    movl    $(PAGE_TABLES + 0x2000 + PRESENT_WRITABLE), PAGE_TABLES + 0x1000
    movl    $(PAGE_TABLES + 0x3000 + PRESENT_WRITABLE), PAGE_TABLES + 0x1000 + 3 * 8
    movl    $LARGE_PAGE, PAGE_TABLES + 0x2000
    movl    $(DEVICE_PAGE + LARGE_PAGE), PAGE_TABLES + 0x3000 + (DEVICE_PAGE - 0xc0000000) / 0x200000 * 8

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
    ljmpl   $CODE64_SELECTOR, $(LOAD_ADDRESS + long_mode - image)

    .code64
long_mode:
    // Ports, one item of each width in each direction.
    movw    $PORT, %dx
    inb     %dx, %al
    outb    %al, %dx
    inw     %dx, %ax
    outw    %ax, %dx
    inl     %dx, %eax
    outl    %eax, %dx

    // Ports, three items of each width into memory and out again.
    movl    $STRING, %edi
    movl    $3, %ecx
    rep insb
    movl    $STRING, %esi
    movl    $3, %ecx
    rep outsb
    movl    $STRING, %edi
    movl    $3, %ecx
    rep insw
    movl    $STRING, %esi
    movl    $3, %ecx
    rep outsw
    movl    $STRING, %edi
    movl    $3, %ecx
    rep insl
    movl    $STRING, %esi
    movl    $3, %ecx
    rep outsl

    // Memory of the device, each width in each direction.
    movl    $DEVICE_PAGE, %ebx
    movb    0x10(%rbx), %al
    movb    %al, 0x11(%rbx)
    movw    0x20(%rbx), %ax
    movw    %ax, 0x22(%rbx)
    movl    0x30(%rbx), %eax
    movl    %eax, 0x34(%rbx)
    movq    0x40(%rbx), %rax
    movq    %rax, 0x48(%rbx)

    // With extension, with an operation in between, with an immediate, and by a string instruction.
    movzbl  0x50(%rbx), %eax
    movl    %eax, 0x54(%rbx)
    movsbl  0x58(%rbx), %eax
    movl    %eax, 0x5c(%rbx)
    addl    $1, 0x60(%rbx)
    movl    $0x12345678, 0x70(%rbx)
    leaq    0x80(%rbx), %rsi
    movl    $STRING, %edi
    movsl
    movl    STRING, %eax
    movl    %eax, 0x88(%rbx)

    outb    %al, $DONE_PORT
    jmp     .

    .balign 8
gdt:
    .quad   0
    .quad   0x00cf9b000000ffff      // 32-bit code, 0 to 4 GiB
    .quad   0x00af9b000000ffff      // 64-bit code
    .quad   0x00cf93000000ffff      // data, 0 to 4 GiB
gdt_register:
    .word   gdt_register - gdt - 1
    .long   LOAD_ADDRESS + gdt - image

    .globl GUEST_SYMBOL(exits_end)
GUEST_SYMBOL(exits_end):
    GUEST_FILE_END
