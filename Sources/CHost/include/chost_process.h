// SPDX-License-Identifier: Apache-2.0
// Starting programs: what C libraries show only to some.
#pragma once

#include <sys/resource.h>

/// POSIX_SPAWN_SETSID: the program leads a session of its own.
#ifdef __linux__
enum { CHOST_SPAWN_NEW_SESSION = 0x80 };
#else
enum { CHOST_SPAWN_NEW_SESSION = 0x400 };
#endif

/// Bytes that the stack of the process's first thread may have.
static inline long chost_stack_limit(void) {
    struct rlimit limit;
    const rlim_t most = 1L << 30;
    if (getrlimit(RLIMIT_STACK, &limit) != 0) return 1L << 20;
    return (long)(limit.rlim_cur < most ? limit.rlim_cur : most);
}
