// SPDX-License-Identifier: Apache-2.0
// Whether the host lets this process handle page faults of its memory (userfaultfd(2)).
#pragma once

#ifdef __linux__
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

/// A new userfaultfd that also sees the kernel's own accesses, or -1 with errno set.
static inline int chost_userfaultfd(void) { return (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK); }
#endif
