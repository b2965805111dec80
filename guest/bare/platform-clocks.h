// SPDX-License-Identifier: Apache-2.0
// What platform.S does with clocks: reads kvm-clock, and measures with it. Linux Documentation/virt/kvm/x86/msr.rst.

// kvm-clock goes on, and knows the wall clock.
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
