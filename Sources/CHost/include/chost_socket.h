// SPDX-License-Identifier: Apache-2.0
// Unix sockets: their addresses, and who is at the other end.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif
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

/// Fills in the address of the socket file `path`; -1 with errno set when the path is too long for one.
static inline int chost_unix_address(struct sockaddr_un *address, const char *path) {
    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX;
    size_t length = strlen(path);
    if (length >= sizeof(address->sun_path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(address->sun_path, path, length);
    return 0;
}

/// A new Unix stream socket, and the next connection of a listener: neither blocks, neither is inherited by programs.
static inline int chost_unix_stream(void) {
#if defined(__linux__)
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
#else
    int made = socket(AF_UNIX, SOCK_STREAM, 0);
    if (made >= 0) fcntl(made, F_SETFD, FD_CLOEXEC), fcntl(made, F_SETFL, O_NONBLOCK);
    return made;
#endif
}

static inline int chost_accept_stream(int listener) {
#if defined(__linux__)
    return (int)syscall(SYS_accept4, listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
#else
    int made = accept(listener, NULL, NULL);
    if (made >= 0) fcntl(made, F_SETFD, FD_CLOEXEC), fcntl(made, F_SETFL, O_NONBLOCK);
    return made;
#endif
}

/// bind(2) to the socket file `path`.
static inline int chost_bind_unix(int socket, const char *path) {
    struct sockaddr_un address;
    if (chost_unix_address(&address, path) != 0) return -1;
    return bind(socket, (const struct sockaddr *)&address, sizeof(address));
}

/// connect(2) to the socket file `path`.
static inline int chost_connect_unix(int socket, const char *path) {
    struct sockaddr_un address;
    if (chost_unix_address(&address, path) != 0) return -1;
    return connect(socket, (const struct sockaddr *)&address, sizeof(address));
}
