// SPDX-License-Identifier: Apache-2.0
// Guests without an operating system, for the tests of the backends, as bytes of this program.
#pragma once

#include <stddef.h>

/// Some bytes.
struct bare_guest {
    const void *start;
    size_t size;
};

#define BARE_GUEST(name)                                                            \
    extern const unsigned char smolvmm_guest_##name[], smolvmm_guest_##name##_end[]; \
    static inline struct bare_guest smolvmm_guest_##name##_bytes(void) {             \
        return (struct bare_guest){smolvmm_guest_##name, (size_t)(smolvmm_guest_##name##_end - smolvmm_guest_##name)}; \
    }

/// Starts in real mode at 0x8000 and touches port 0x500 and the page at 0xd0000000 in every way; see exits.S.
BARE_GUEST(exits)
/// Starts in long mode anywhere and changes its own code.
BARE_GUEST(self_modifying)
/// An ELF kernel that does what its command line says with interrupts, clocks and processors; see platform.S.
BARE_GUEST(platform)
