// SPDX-License-Identifier: Apache-2.0
// Ordered access to rings that are shared with a guest whose processors may run at the same time.
#pragma once

#include <stdint.h>

static inline uint16_t chost_load_acquire16(const void *address) {
    return __atomic_load_n((const uint16_t *)address, __ATOMIC_ACQUIRE);
}

static inline void chost_store_release16(void *address, uint16_t value) {
    __atomic_store_n((uint16_t *)address, value, __ATOMIC_RELEASE);
}

/// Orders a store before a later load: what makes a change and the look at the other side's flag safe.
static inline void chost_full_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
