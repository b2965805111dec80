// SPDX-License-Identifier: Apache-2.0
// Who is at the other end of a Unix socket.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

#if defined(__linux__)
#include <linux/types.h>
/// struct ucred of socket(7), which the C library shows only to _GNU_SOURCE.
struct chost_credentials {
    __s32 process;
    __u32 user;
    __u32 group;
};
#ifndef SO_PEERCRED
#define SO_PEERCRED 17
#endif
#endif

/// Puts the effective user of the peer of `socket` into `user`; 0, or -1 with errno set.
static inline int chost_peer_user(int socket, uid_t *user) {
#if defined(__linux__)
    struct chost_credentials peer;
    socklen_t size = sizeof(peer);
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return -1;
    *user = peer.user;
    return 0;
#else
    gid_t group;
    return getpeereid(socket, user, &group);
#endif
}
