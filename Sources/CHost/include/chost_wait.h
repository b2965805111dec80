// SPDX-License-Identifier: Apache-2.0
// Waiting for one descriptor with a time limit finer than a millisecond.
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

/// Waits until `descriptor` is readable or `nanoseconds` have passed; a negative number waits for ever.
static inline int chost_wait_readable(int descriptor, int64_t nanoseconds) {
    struct pollfd entry = {.fd = descriptor, .events = POLLIN};
#ifdef __linux__
    struct timespec time = {.tv_sec = nanoseconds / 1000000000, .tv_nsec = nanoseconds % 1000000000};
    return (int)syscall(SYS_ppoll, &entry, 1UL, nanoseconds < 0 ? NULL : &time, NULL, 0UL);
#else
    return poll(&entry, 1, nanoseconds < 0 ? -1 : (int)((nanoseconds + 999999) / 1000000));
#endif
}
