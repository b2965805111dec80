// SPDX-License-Identifier: Apache-2.0
// Page faults that this process handles itself (userfaultfd(2), ioctl_userfaultfd(2)).
#pragma once

#ifdef __linux__
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/// A descriptor that tells of faults, the kernel's own accesses included; -1 with errno set where the host refuses.
static inline int chost_fault_open(void) {
    int descriptor = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) return -1;
    struct uffdio_api api = {.api = UFFD_API};
    if (ioctl(descriptor, UFFDIO_API, &api) == 0) return descriptor;
    int code = errno;
    close(descriptor);
    errno = code;
    return -1;
}

/// Tells of every access to a page that is not there in `size` bytes from `start`, whole pages.
static inline int chost_fault_register(int descriptor, void *start, size_t size) {
    struct uffdio_register request = {
        .range = {.start = (uintptr_t)start, .len = size}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    return ioctl(descriptor, UFFDIO_REGISTER, &request);
}

/// Ends that: what is not there is zero from then on.
static inline int chost_fault_unregister(int descriptor, void *start, size_t size) {
    struct uffdio_range range = {.start = (uintptr_t)start, .len = size};
    return ioctl(descriptor, UFFDIO_UNREGISTER, &range);
}

/// The address of the next fault; 0 when none waits.
static inline uintptr_t chost_fault_next(int descriptor) {
    struct uffd_msg message;
    while (read(descriptor, &message, sizeof(message)) == (ssize_t)sizeof(message)) {
        if (message.event == UFFD_EVENT_PAGEFAULT) return (uintptr_t)message.arg.pagefault.address;
    }
    return 0;
}

/// Puts `size` bytes of pages in place, but for those that are there, and lets go on who waits for them. 0, or an errno.
static inline int chost_fault_fill(int descriptor, void *start, const void *bytes, size_t size) {
    size_t done = 0;
    while (done < size) {
        struct uffdio_copy request = {
            .dst = (uintptr_t)start + done, .src = (uintptr_t)bytes + done, .len = size - done};
        if (ioctl(descriptor, UFFDIO_COPY, &request) == 0) return 0;
        if (request.copy > 0) {
            done += (size_t)request.copy;
        } else if (errno == EEXIST) {
            done += 4096;
        } else if (errno != EAGAIN) {
            return errno;
        }
    }
    return 0;
}

/// The same with zeros.
static inline int chost_fault_zero(int descriptor, void *start, size_t size) {
    size_t done = 0;
    while (done < size) {
        struct uffdio_zeropage request = {.range = {.start = (uintptr_t)start + done, .len = size - done}};
        if (ioctl(descriptor, UFFDIO_ZEROPAGE, &request) == 0) return 0;
        if (request.zeropage > 0) {
            done += (size_t)request.zeropage;
        } else if (errno == EEXIST) {
            done += 4096;
        } else if (errno != EAGAIN) {
            return errno;
        }
    }
    return 0;
}

/// Lets go on who waits for pages that are there.
static inline void chost_fault_wake(int descriptor, void *start, size_t size) {
    struct uffdio_range range = {.start = (uintptr_t)start, .len = size};
    ioctl(descriptor, UFFDIO_WAKE, &range);
}
#endif
