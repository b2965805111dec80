// SPDX-License-Identifier: Apache-2.0
// How a guest is named and ends, and what all of them use.

#ifdef __APPLE__
#define GUEST_SYMBOL(name) _smolvmm_guest_##name
#define GUEST_SECTION .section __DATA,__const
#define GUEST_FILE_END
#else
#define GUEST_SYMBOL(name) smolvmm_guest_##name
#define GUEST_SECTION .section .rodata.smolvmm_guests, "a"
#define GUEST_FILE_END .section .note.GNU-stack, "", @progbits
#endif

#define CR0_PE              0x00000001
#define CR0_PG_AND_PE       0x80000001
#define CR4_PAE             0x00000020
#define MSR_EFER            0xc0000080
#define EFER_LME            0x00000100
#define PRESENT_WRITABLE    0x003
#define LARGE_PAGE          0x083

// A guest that the tests run on a processor alone writes to this port when it is done.
#define DONE_PORT           0xf4
