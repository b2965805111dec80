// SPDX-License-Identifier: Apache-2.0
// A process that holds this one's memory as it is now: the kernel copies a page when either side changes it.
#pragma once

#ifdef __linux__
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/// Starts the process, which holds no descriptors, runs nothing, and ends with the calling thread at the latest. Its
/// id, or -1 with errno set.
static inline pid_t chost_twin_start(void) {
    pid_t parent = getpid();
    pid_t twin = fork();
    if (twin != 0) return twin;
    // Only what is safe after a fork of one thread of many.
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    syscall(SYS_close_range, 0U, ~0U, 0U);
    if (getppid() != parent) _exit(0);
    for (;;) pause();
}

/// Copies `size` bytes at `address` as the process has them into `buffer`. 0, or -1 with errno set.
static inline int chost_twin_read(pid_t twin, const void *address, void *buffer, size_t size) {
    size_t done = 0;
    while (done < size) {
        struct iovec local = {.iov_base = (char *)buffer + done, .iov_len = size - done};
        struct iovec remote = {.iov_base = (char *)(uintptr_t)address + done, .iov_len = size - done};
        long count = syscall(SYS_process_vm_readv, twin, &local, 1UL, &remote, 1UL, 0UL);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) return -1;
        done += (size_t)count;
    }
    return 0;
}

static inline void chost_twin_end(pid_t twin) {
    kill(twin, SIGKILL);
    while (waitpid(twin, NULL, 0) < 0 && errno == EINTR) {}
}
#endif
