// SPDX-License-Identifier: Apache-2.0
// TAP interfaces, and sets of descriptors that are waited for as one.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#if defined(__linux__)
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/epoll.h>

/// Opens the TAP interface `name` for frames that follow a virtio header of `header` bytes; the descriptor, not blocking,
/// or -1 with errno set.
static inline int chost_open_tap(const char *name, int header) {
    struct ifreq request;
    memset(&request, 0, sizeof(request));
    if (strlen(name) >= sizeof(request.ifr_name)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(request.ifr_name, name, strlen(name));
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return -1;
    if (ioctl(fd, TUNSETIFF, &request) < 0 || ioctl(fd, TUNSETVNETHDRSZ, &header) < 0) {
        int code = errno;
        close(fd);
        errno = code;
        return -1;
    }
    return fd;
}

/// What whoever reads frames from the interface takes: unfinished checksums, long TCP segments over IPv4 and IPv6.
static inline int chost_set_tap_offload(int fd, int checksum, int segmentation4, int segmentation6) {
    unsigned long flags = (checksum ? TUN_F_CSUM : 0) | (segmentation4 ? TUN_F_TSO4 : 0) | (segmentation6 ? TUN_F_TSO6 : 0);
    return ioctl(fd, TUNSETOFFLOAD, flags);
}

/// The number of the interface `name`; 0 when there is none.
static inline unsigned chost_interface_index(const char *name) { return if_nametoindex(name); }

enum { CHOST_SET_READABLE = EPOLLIN, CHOST_SET_WRITABLE = EPOLLOUT, CHOST_SET_URGENT = EPOLLPRI, CHOST_SET_ERROR = EPOLLERR, CHOST_SET_HANGUP = EPOLLHUP };

/// One descriptor of a set and what has happened to it.
struct chost_event {
    int descriptor;
    uint32_t events;
};

enum { CHOST_EVENT_LIMIT = 64 };

/// A new set; readable when one of its members has an event. -1 with errno set.
static inline int chost_set_create(void) { return epoll_create1(EPOLL_CLOEXEC); }

/// Puts a descriptor into a set, or changes what is waited for; 0, or -1 with errno set.
static inline int chost_set_put(int set, int descriptor, uint32_t events) {
    struct epoll_event event = {.events = events, .data = {.fd = descriptor}};
    if (epoll_ctl(set, EPOLL_CTL_MOD, descriptor, &event) == 0) return 0;
    return errno == ENOENT ? epoll_ctl(set, EPOLL_CTL_ADD, descriptor, &event) : -1;
}

/// Takes a descriptor out of a set.
static inline void chost_set_remove(int set, int descriptor) {
    struct epoll_event event = {0};
    epoll_ctl(set, EPOLL_CTL_DEL, descriptor, &event);
}

/// Up to CHOST_EVENT_LIMIT members that have events now; how many, or -1 with errno set.
static inline int chost_set_poll(int set, struct chost_event *events) {
    struct epoll_event found[CHOST_EVENT_LIMIT];
    int count = epoll_wait(set, found, CHOST_EVENT_LIMIT, 0);
    for (int index = 0; index < count; index++) {
        events[index] = (struct chost_event){.descriptor = found[index].data.fd, .events = found[index].events};
    }
    return count;
}
#else
enum { CHOST_SET_READABLE = 1, CHOST_SET_WRITABLE = 4, CHOST_SET_URGENT = 2, CHOST_SET_ERROR = 8, CHOST_SET_HANGUP = 16 };
struct chost_event {
    int descriptor;
    uint32_t events;
};
enum { CHOST_EVENT_LIMIT = 64 };
static inline int chost_open_tap(const char *name, int header) {
    (void)name;
    (void)header;
    errno = ENOTSUP;
    return -1;
}
static inline int chost_set_tap_offload(int fd, int checksum, int segmentation4, int segmentation6) {
    (void)fd;
    (void)checksum;
    (void)segmentation4;
    (void)segmentation6;
    errno = ENOTSUP;
    return -1;
}
static inline unsigned chost_interface_index(const char *name) {
    (void)name;
    return 1;
}
static inline int chost_set_create(void) {
    errno = ENOTSUP;
    return -1;
}
static inline int chost_set_put(int set, int descriptor, uint32_t events) {
    (void)set;
    (void)descriptor;
    (void)events;
    errno = ENOTSUP;
    return -1;
}
static inline void chost_set_remove(int set, int descriptor) {
    (void)set;
    (void)descriptor;
}
static inline int chost_set_poll(int set, struct chost_event *events) {
    (void)set;
    (void)events;
    errno = ENOTSUP;
    return -1;
}
#endif
