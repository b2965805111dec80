// SPDX-License-Identifier: Apache-2.0
// Waiting for many sockets at once, told of each change once: epoll(7). Hosts without it have no poller.
#pragma once

#include <errno.h>
#include <stdint.h>
#ifdef __linux__
#include <sys/epoll.h>
#endif

/// What a change is: flags.
enum { CHOST_READABLE = 1, CHOST_WRITABLE = 2, CHOST_HUNG_UP = 4 };
/// Changes that one call takes.
enum { CHOST_CHANGE_LIMIT = 64 };

struct chost_change {
    uint64_t token;
    uint32_t flags;
};

#ifdef __linux__
/// A new poller's descriptor, readable while there are changes; -1 with errno set.
static inline int chost_poller_make(void) { return epoll_create1(EPOLL_CLOEXEC); }

/// Watches `descriptor` (`again`: in another way than before), for room to write only with `writing`.
static inline int chost_poller_watch(int poller, int descriptor, uint64_t token, int writing, int again) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET | (writing ? EPOLLOUT : 0), .data.u64 = token};
    return epoll_ctl(poller, again ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, descriptor, &event);
}

/// Puts at most CHOST_CHANGE_LIMIT changes into `changes` and returns how many. Does not wait.
static inline int chost_poller_take(int poller, struct chost_change *changes) {
    struct epoll_event events[CHOST_CHANGE_LIMIT];
    int count = epoll_wait(poller, events, CHOST_CHANGE_LIMIT, 0);
    for (int index = 0; index < count; index++) {
        uint32_t seen = events[index].events;
        uint32_t closed = seen & (EPOLLHUP | EPOLLERR);
        changes[index].token = events[index].data.u64;
        changes[index].flags = (seen & (EPOLLIN | EPOLLRDHUP) || closed ? CHOST_READABLE : 0)
            | (seen & EPOLLOUT || closed ? CHOST_WRITABLE : 0) | (closed ? CHOST_HUNG_UP : 0);
    }
    return count;
}
#else
static inline int chost_poller_make(void) {
    errno = ENOTSUP;
    return -1;
}
static inline int chost_poller_watch(int poller, int descriptor, uint64_t token, int writing, int again) {
    errno = ENOTSUP;
    return -1;
}
static inline int chost_poller_take(int poller, struct chost_change *changes) { return 0; }
#endif
