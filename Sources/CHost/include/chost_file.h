// SPDX-License-Identifier: Apache-2.0
// Calls on files that the C library offers only to _GNU_SOURCE, or that not every system has.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/eventfd.h>
#include <sys/syscall.h>
enum {
#if defined(__x86_64__)
    CHOST_O_DIRECT = 040000,
#else
    CHOST_O_DIRECT = 0200000,
#endif
    CHOST_O_TMPFILE = 020000000 | O_DIRECTORY,
    CHOST_PUNCH_HOLE = 3,  // FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
    CHOST_SEEK_DATA = 3,
    CHOST_SEEK_HOLE = 4,
    CHOST_F_SETSIG = 10,
    CHOST_F_SETLEASE = 1024,
};
#endif

/// Scattered read at an offset; bytes, or -1 with errno set.
static inline ssize_t chost_preadv(int fd, const struct iovec *vectors, int count, off_t offset) {
#if defined(__linux__)
    return syscall(SYS_preadv, fd, vectors, count, offset, 0);
#else
    return preadv(fd, vectors, count, offset);
#endif
}

#if defined(__linux__)
/// The same, only as far as the host has it in its cache; 0 or -1 when that is nothing.
static inline ssize_t chost_preadv_cached(int fd, const struct iovec *vectors, int count, off_t offset) {
    return syscall(SYS_preadv2, fd, vectors, count, offset, 0, 8 /* RWF_NOWAIT */);
}
#endif

/// Gathered write at an offset; bytes, or -1 with errno set.
static inline ssize_t chost_pwritev(int fd, const struct iovec *vectors, int count, off_t offset) {
#if defined(__linux__)
    return syscall(SYS_pwritev, fd, vectors, count, offset, 0);
#else
    return pwritev(fd, vectors, count, offset);
#endif
}

/// Gives a range of a file back to its file system: it reads as zero. 0, or -1 with errno set.
static inline int chost_punch_hole(int fd, off_t offset, off_t size) {
#if defined(__linux__)
    return (int)syscall(SYS_fallocate, fd, CHOST_PUNCH_HOLE, offset, size);
#else
    errno = EOPNOTSUPP;
    return -1;
#endif
}

/// The next data (`hole` 0) or hole (`hole` 1) at or after `offset`; -1 with errno set (ENXIO: none).
static inline off_t chost_seek(int fd, off_t offset, int hole) {
#if defined(__linux__)
    return lseek(fd, offset, hole ? CHOST_SEEK_HOLE : CHOST_SEEK_DATA);
#else
    return lseek(fd, offset, hole ? SEEK_HOLE : SEEK_DATA);
#endif
}

/// Takes a shared lock on one byte for this open file; 0, or -1 with errno set.
static inline int chost_lock_byte(int fd, off_t byte) {
#if defined(__linux__)
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    return fcntl(fd, 37 /* F_OFD_SETLK */, &lock);
#else
    (void)fd;
    (void)byte;
    return 0;
#endif
}

/// Whether another open file has a lock on one byte: 1, 0, or -1 with errno set.
static inline int chost_byte_is_locked(int fd, off_t byte) {
#if defined(__linux__)
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    if (fcntl(fd, 36 /* F_OFD_GETLK */, &lock) != 0) return -1;
    return lock.l_type != F_UNLCK;
#else
    (void)fd;
    (void)byte;
    return 0;
#endif
}

#if defined(__linux__)
/// A counter that poll(2) can wait for, not blocking; -1 with errno set.
static inline int chost_eventfd(void) { return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); }
#endif

/// Memory for direct I/O: aligned to 4096 bytes; free with free().
static inline void *chost_aligned(size_t size) {
    void *memory = NULL;
    return posix_memalign(&memory, 4096, size) == 0 ? memory : NULL;
}

/// Opens a file with flags that Swift cannot pass to a variadic function; the descriptor, or -1 with errno set.
static inline int chost_open(const char *path, int flags, mode_t mode) { return open(path, flags, mode); }

/// Maps the `size` bytes that a regular file has, to be read; NULL where nothing keeps others from changing them. The lease that
/// does, on Linux, lets them wait until the descriptor is closed, or for 45 seconds.
static inline const void *chost_map_leased(int fd, size_t size) {
#if defined(__linux__)
    // Who waits is announced by a signal, which would end the process if it were SIGIO.
    if (fcntl(fd, CHOST_F_SETSIG, SIGURG) != 0 || fcntl(fd, CHOST_F_SETLEASE, F_RDLCK) != 0) return NULL;
    struct stat information;
    if (fstat(fd, &information) == 0 && information.st_size == (off_t)size) {
        void *start = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
        if (start != MAP_FAILED) return start;
    }
    fcntl(fd, CHOST_F_SETLEASE, F_UNLCK);
#else
    (void)fd;
    (void)size;
#endif
    return NULL;
}
