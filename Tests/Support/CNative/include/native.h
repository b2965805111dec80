// SPDX-License-Identifier: Apache-2.0
// Runs arbitrary instruction bytes on the host's own processor: the reference that the software CPU is compared with.
#pragma once

#include <stddef.h>
#include <stdint.h>

/// Where both sides have the data window: two pages that may be used, then one that may not.
#define NATIVE_WINDOW 0x10000000ul
#define NATIVE_WINDOW_SIZE 0x2000ul
/// Where the instruction under test lies.
#define NATIVE_CODE 0x10010000ul
/// The longest code that fits before the return jump.
#define NATIVE_CODE_SIZE 4000ul

/// The registers, as 64-bit words: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15, RFLAGS, RIP (an output), then an
/// FXSAVE64 image.
#define NATIVE_FLAGS 16
#define NATIVE_RIP 17
#define NATIVE_FX 18
#define NATIVE_WORDS 82

/// How it ended.
struct native_outcome {
    /// The exception vector, or -1 when the code ran to its end.
    int32_t vector;
    uint32_t error_code;
    /// CR2 of a page fault.
    uint64_t address;
};

/// Whether this host can run native code here; maps the window and the code page on the first call.
int native_available(void);

/// Runs `count` bytes of `code` from the NATIVE_WORDS words of `state` and leaves there what they became. Returns 0, or
/// -1 when it cannot. The caller holds the lock.
int native_run(const uint8_t *code, size_t count, uint64_t *state, struct native_outcome *outcome);

/// Copies the window in or out.
void native_set_window(const uint8_t *bytes);
void native_get_window(uint8_t *bytes);

/// Keeps other threads from running native code between two calls that belong together.
void native_lock(void);
void native_unlock(void);
