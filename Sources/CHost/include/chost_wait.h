// SPDX-License-Identifier: Apache-2.0
// Waiting for descriptors with a time limit finer than a millisecond.
#pragma once

#ifdef __linux__
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#endif
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/// Tells the processor that this thread looks at something again and again until another one changes it.
static inline void chost_pause(void) {
#ifdef __x86_64__
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/// Descriptors that one call can wait for.
enum { CHOST_WAIT_LIMIT = 32 };

/// Waits until one of `count` descriptors (at most CHOST_WAIT_LIMIT; more are not looked at) is readable or `nanoseconds`
/// have passed; a negative number waits for ever.
static inline int chost_wait_readable(const int *descriptors, int count, int64_t nanoseconds) {
    struct pollfd entries[CHOST_WAIT_LIMIT];
    if (count > CHOST_WAIT_LIMIT) count = CHOST_WAIT_LIMIT;
    for (int index = 0; index < count; index++) {
        entries[index] = (struct pollfd){.fd = descriptors[index], .events = POLLIN};
    }
#ifdef __linux__
    struct timespec time = {.tv_sec = nanoseconds / 1000000000, .tv_nsec = nanoseconds % 1000000000};
    return (int)syscall(SYS_ppoll, entries, (unsigned long)count, nanoseconds < 0 ? NULL : &time, NULL, 0UL);
#else
    return poll(entries, count, nanoseconds < 0 ? -1 : (int)((nanoseconds + 999999) / 1000000));
#endif
}
