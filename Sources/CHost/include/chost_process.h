// SPDX-License-Identifier: Apache-2.0
// Starting programs: what C libraries show only to some.
#pragma once

#include <sys/resource.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif
#include <unistd.h>

/// POSIX_SPAWN_SETSID: the program leads a session of its own.
#ifdef __linux__
enum { CHOST_SPAWN_NEW_SESSION = 0x80 };
#else
enum { CHOST_SPAWN_NEW_SESSION = 0x400 };
#endif

/// Processors that this process may run on; not positive when the host does not tell.
static inline long chost_usable_processors(void) {
#ifdef __linux__
    unsigned long set[128];
    const long bytes = syscall(SYS_sched_getaffinity, 0, sizeof set, set);
    long count = 0;
    for (long word = 0; word < bytes / (long)sizeof *set; word++) count += __builtin_popcountl(set[word]);
    if (count > 0) return count;
#endif
    return sysconf(_SC_NPROCESSORS_ONLN);
}

/// Bytes that the stack of the process's first thread may have.
static inline long chost_stack_limit(void) {
    struct rlimit limit;
    const rlim_t most = 1L << 30;
    if (getrlimit(RLIMIT_STACK, &limit) != 0) return 1L << 20;
    return (long)(limit.rlim_cur < most ? limit.rlim_cur : most);
}
