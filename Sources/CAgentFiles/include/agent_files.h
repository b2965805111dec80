// SPDX-License-Identifier: Apache-2.0
// What copying trees of files needs of the C library, in the same form on the host and in the guest: a name is always one
// in a folder that is open, and no symbolic link is followed.
#pragma once

#ifdef __linux__
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __APPLE__
#define agent_modified(status) ((status).st_mtimespec)
#else
#define agent_modified(status) ((status).st_mtim)
#endif

/// What a name stands for.
enum { AGENT_FILE = 1, AGENT_FOLDER = 2, AGENT_LINK = 3, AGENT_OTHER = 4 };

struct agent_file {
    int32_t kind;
    /// Permission bits, set-user-id, set-group-id and sticky bit.
    uint32_t mode;
    int64_t size;
    int64_t modified_seconds;
    int32_t modified_nanoseconds;
};

static inline int agent_process(void) { return getpid(); }

static inline int agent_error(void) { return errno; }

/// What the last call failed with: nothing can be done now, or the name exists.
static inline int agent_must_wait(void) { return errno == EAGAIN; }
static inline int agent_name_exists(void) { return errno == EEXIST; }

/// The error number's text, valid until the next call.
static inline const char *agent_error_text(int number) { return strerror(number); }

static inline void agent_describe(const struct stat *status, struct agent_file *file) {
    mode_t type = status->st_mode & S_IFMT;
    file->kind = type == S_IFREG ? AGENT_FILE : type == S_IFDIR ? AGENT_FOLDER : type == S_IFLNK ? AGENT_LINK : AGENT_OTHER;
    file->mode = status->st_mode & 07777;
    file->size = status->st_size;
    file->modified_seconds = agent_modified(*status).tv_sec;
    file->modified_nanoseconds = (int32_t)agent_modified(*status).tv_nsec;
}

/// What `name` in `folder` is itself, and what an open descriptor is; 0, or -1 with errno set.
static inline int agent_inspect(int folder, const char *name, struct agent_file *file) {
    struct stat status;
    if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) != 0) return -1;
    agent_describe(&status, file);
    return 0;
}

static inline int agent_inspect_open(int descriptor, struct agent_file *file) {
    struct stat status;
    if (fstat(descriptor, &status) != 0) return -1;
    agent_describe(&status, file);
    return 0;
}

/// A folder by its path, links followed: where a copy begins.
static inline int agent_open_path(const char *path) { return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC); }

static inline int agent_open_folder(int folder, const char *name) {
    return openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/// Does not wait for the other end, should the name have become a pipe.
static inline int agent_open_file(int folder, const char *name) {
    return openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
}

/// A file that did not exist, for its owner only.
static inline int agent_create_file(int folder, const char *name) {
    return openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
}

static inline int agent_make_folder(int folder, const char *name) { return mkdirat(folder, name, 0700); }

static inline int agent_make_link(const char *target, int folder, const char *name) {
    return symlinkat(target, folder, name);
}

static inline long agent_read_link(int folder, const char *name, char *target, unsigned long size) {
    return readlinkat(folder, name, target, size);
}

static inline int agent_rename(int folder, const char *from, const char *to) {
    return renameat(folder, from, folder, to);
}

static inline int agent_remove_file(int folder, const char *name) { return unlinkat(folder, name, 0); }

/// Gives an open file or folder its mode and time.
static inline int agent_finish(int descriptor, const struct agent_file *file) {
    struct timespec times[2] = {
        {.tv_nsec = UTIME_OMIT}, {.tv_sec = file->modified_seconds, .tv_nsec = file->modified_nanoseconds}};
    if (fchmod(descriptor, file->mode & 07777) != 0) return -1;
    return futimens(descriptor, times);
}

/// Gives a symbolic link its time.
static inline int agent_finish_link(int folder, const char *name, const struct agent_file *file) {
    struct timespec times[2] = {
        {.tv_nsec = UTIME_OMIT}, {.tv_sec = file->modified_seconds, .tv_nsec = file->modified_nanoseconds}};
    return utimensat(folder, name, times, AT_SYMLINK_NOFOLLOW);
}

/// The list of names in a folder; the descriptor stays the caller's. NULL with errno set.
static inline void *agent_list(int folder) {
    int copy = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (copy < 0) return NULL;
    DIR *list = fdopendir(copy);
    if (list == NULL) close(copy);
    return list;
}

/// The next name, valid until the next call; NULL at the end.
static inline const char *agent_next(void *list) {
    struct dirent *entry = readdir((DIR *)list);
    return entry == NULL ? NULL : entry->d_name;
}

static inline void agent_end_list(void *list) { closedir((DIR *)list); }

static inline long agent_read(int descriptor, void *bytes, unsigned long count) {
    long result;
    do result = read(descriptor, bytes, count);
    while (result < 0 && errno == EINTR);
    return result;
}

static inline long agent_write(int descriptor, const void *bytes, unsigned long count) {
    long result;
    do result = write(descriptor, bytes, count);
    while (result < 0 && errno == EINTR);
    return result;
}

static inline void agent_close(int descriptor) { close(descriptor); }
