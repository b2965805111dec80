// SPDX-License-Identifier: Apache-2.0
// The boot ROM: from the reset vector in real mode to the kernel's 64-bit entry. Intel SDM volume 3, 10.1 and 10.8.5.
//
// The image is 64 KiB and ends at 4 GiB, so the segment that the processor starts in (base 0xffff0000) is the whole
// ROM. What to start is in the hand-over block at offset 0xff00, which the VMM fills in before each reset:
//
//     0xff00  8 bytes  entry point, called with RSI as below
//     0xff08  8 bytes  physical address of the boot parameters ("zero page"), passed in RSI
//     0xff10  8 bytes  initial stack pointer
//
// Page tables for the first 4 GiB are built at 0x9000 ... 0xefff.

#define ROM_BASE            0xffff0000
#define HANDOVER            0xff00
#define RESET_PORT          0xcf9
#define RESET_PROCESSOR_AND_SYSTEM 0x06
#define PAGE_TABLES         0x9000
#define PAGE_TABLE_BYTES    0x6000

#define CODE32_SELECTOR     0x08
#define CODE64_SELECTOR     0x10
#define DATA_SELECTOR       0x18

#define CR0_PE              0x00000001
#define CR0_PG_AND_PE       0x80000001
#define CR4_PAE             0x00000020
#define MSR_EFER            0xc0000080
#define EFER_LME            0x00000100
#define PRESENT_WRITABLE    0x003
#define LARGE_PAGE          0x083

#ifdef __APPLE__
#define SYMBOL(name) _##name
    .section __DATA,__const
#else
#define SYMBOL(name) name
    .section .rodata.smolvmm_boot_rom, "a"
#endif

    .balign 4096
    .globl SYMBOL(smolvmm_boot_rom)
SYMBOL(smolvmm_boot_rom):
rom:

    // Within reach of a 16-bit jump from the reset vector.
    .org    0xf000
    .code16
real_mode:
    cli
    cld
    // CS is still based at the ROM: its own 16-bit offsets reach the descriptor table register image.
    lgdtl   %cs:(gdt_register - rom)
    movl    %cr0, %eax
    orl     $CR0_PE, %eax
    movl    %eax, %cr0
    ljmpl   $CODE32_SELECTOR, $(ROM_BASE + protected_mode - rom)

    .code32
protected_mode:
    movw    $DATA_SELECTOR, %ax
    movw    %ax, %ds
    movw    %ax, %es
    movw    %ax, %ss
    movw    %ax, %fs
    movw    %ax, %gs

    // Clear the six tables, then link them: one PML4, one page-directory-pointer table, four page directories.
    movl    $PAGE_TABLES, %edi
    xorl    %eax, %eax
    movl    $(PAGE_TABLE_BYTES / 4), %ecx
    rep stosl
    movl    $(PAGE_TABLES + 0x1000 + PRESENT_WRITABLE), PAGE_TABLES
    movl    $(PAGE_TABLES + 0x2000 + PRESENT_WRITABLE), PAGE_TABLES + 0x1000
    movl    $(PAGE_TABLES + 0x3000 + PRESENT_WRITABLE), PAGE_TABLES + 0x1008
    movl    $(PAGE_TABLES + 0x4000 + PRESENT_WRITABLE), PAGE_TABLES + 0x1010
    movl    $(PAGE_TABLES + 0x5000 + PRESENT_WRITABLE), PAGE_TABLES + 0x1018

    // 2048 pages of 2 MiB.
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
    ljmpl   $CODE64_SELECTOR, $(ROM_BASE + long_mode - rom)

    .code64
long_mode:
    movl    $(ROM_BASE + HANDOVER), %ebx
    movq    16(%rbx), %rsp
    movq    8(%rbx), %rsi
    xorl    %ebp, %ebp
    xorl    %edi, %edi
    jmpq    *(%rbx)

    .balign 8
gdt:
    .quad   0
    .quad   0x00cf9b000000ffff      // 32-bit code, 0 to 4 GiB
    .quad   0x00af9b000000ffff      // 64-bit code
    .quad   0x00cf93000000ffff      // data, 0 to 4 GiB
gdt_register:
    .word   gdt_register - gdt - 1
    .long   ROM_BASE + gdt - rom

    .org    0xff00
    .fill   0xe0, 1, 0

    // What the VMM copies to the end of the first MiB, where software jumps in real mode to restart the machine: the
    // reset register that the FADT names resets all of it, and then the reset vector runs.
    .org    0xffe0
    .code16
restart:
    movw    $RESET_PORT, %dx
    movb    $RESET_PROCESSOR_AND_SYSTEM, %al
    outb    %al, %dx
1:  hlt
    jmp     1b

    // The reset vector.
    .org    0xfff0
    .code16
    jmp     real_mode
    .org    0x10000, 0
#ifndef __APPLE__
    .section .note.GNU-stack, "", @progbits
#endif
