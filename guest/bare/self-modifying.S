// SPDX-License-Identifier: Apache-2.0
// A loop that rewrites its own instruction in each round, the second time in a block that has run before. Intel SDM
// volume 3, 12.1.3. It adds 1, 2, 3 … 10 into EAX.

#include "symbols.h"

    GUEST_SECTION
    .balign 16
    .globl GUEST_SYMBOL(self_modifying)
GUEST_SYMBOL(self_modifying):
    .code64
    xorl    %eax, %eax
    movl    $10, %ecx
round:
    // 83 /0 with an immediate of one byte, the instruction's third.
    addl    $1, %eax
after:
    incb    after - 1(%rip)
    decl    %ecx
    jnz     round
    outb    %al, $DONE_PORT
    jmp     .

    .globl GUEST_SYMBOL(self_modifying_end)
GUEST_SYMBOL(self_modifying_end):
    GUEST_FILE_END
