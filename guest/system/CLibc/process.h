// SPDX-License-Identifier: Apache-2.0
// What the guest's agent needs of musl and Linux to serve streams and run commands, for Swift to import.
#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/fs.h>
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/vm_sockets.h>
#include <mntent.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/// A stream socket at `port` of `context`: bound to it and listening, or connected to it; -1 with errno set.
static inline int vsock_stream(unsigned context, unsigned port, int listening) {
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = context, .svm_port = port};
    int descriptor = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (descriptor < 0) return -1;
    const struct sockaddr *generic = (const struct sockaddr *)&address;
    if (listening ? bind(descriptor, generic, sizeof(address)) == 0 && listen(descriptor, 128) == 0
                  : connect(descriptor, generic, sizeof(address)) == 0) {
        return descriptor;
    }
    int error = errno;
    close(descriptor);
    errno = error;
    return -1;
}

static inline int accept_stream(int listener) { return accept4(listener, NULL, NULL, SOCK_CLOEXEC); }

/// Readable when a child has ended; the signal no longer interrupts.
static inline int child_signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static inline void drain_signals(int descriptor) {
    struct signalfd_siginfo information;
    while (read(descriptor, &information, sizeof(information)) > 0) {}
}

/// The kernel collects children that end.
static inline void ignore_children(void) { signal(SIGCHLD, SIG_IGN); }

static inline void ignore_broken_pipes(void) { signal(SIGPIPE, SIG_IGN); }

/// For a command: signals as a program expects them.
static inline void restore_signals(void) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGCHLD, SIG_DFL);
}

/// Bits of a status that `waitpid` gave.
static inline int status_is_exit(int status) { return WIFEXITED(status); }
static inline int status_value(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status); }

static inline int make_pipe(int ends[2]) { return pipe2(ends, O_CLOEXEC); }

static inline void set_blocking(int descriptor, int blocks) {
    int flags = fcntl(descriptor, F_GETFL);
    fcntl(descriptor, F_SETFL, blocks ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
}

/// The master of a new terminal, and the path of its other side in `path`; -1 with errno set.
static inline int open_terminal(char *path, size_t size) {
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (master < 0) return -1;
    if (unlockpt(master) == 0 && ptsname_r(master, path, size) == 0) return master;
    int error = errno;
    close(master);
    errno = error;
    return -1;
}

static inline void set_window(int terminal, unsigned short columns, unsigned short rows) {
    struct winsize size = {.ws_col = columns, .ws_row = rows};
    ioctl(terminal, TIOCSWINSZ, &size);
}

/// Opens a file of any kind; variadic in C.
static inline int open_any(const char *path, int flags) { return open(path, flags | O_CLOEXEC); }

/// As fork(2), with the child in the control group whose folder `group` is; -1 with errno set where the kernel has no such
/// call. Spec: clone3(2), CLONE_INTO_CGROUP.
static inline int fork_into(int group) {
    struct clone_args arguments = {
        .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)group};
    return (int)syscall(SYS_clone3, &arguments, sizeof arguments);
}

/// Makes `terminal` the one that controls this process's session.
static inline int take_terminal(int terminal) { return ioctl(terminal, TIOCSCTTY, 0); }

struct user {
    uid_t number;
    gid_t group;
    char name[64];
    char home[256];
};

static inline void fill_user(struct user *user, const struct passwd *entry) {
    user->number = entry->pw_uid;
    user->group = entry->pw_gid;
    snprintf(user->name, sizeof(user->name), "%s", entry->pw_name);
    snprintf(user->home, sizeof(user->home), "%s", entry->pw_dir);
}

static inline int find_user(const char *name, struct user *user) {
    struct passwd *entry = getpwnam(name);
    if (entry == NULL) return -1;
    fill_user(user, entry);
    return 0;
}

static inline int find_user_number(uid_t number, struct user *user) {
    struct passwd *entry = getpwuid(number);
    if (entry == NULL) return -1;
    fill_user(user, entry);
    return 0;
}

static inline int find_group(const char *name, gid_t *group) {
    struct group *entry = getgrnam(name);
    if (entry == NULL) return -1;
    *group = entry->gr_gid;
    return 0;
}

/// Becomes `user` with its groups; without a name only with its own.
static inline int become(const struct user *user) {
    int groups = user->name[0] != 0 ? initgroups(user->name, user->group) : setgroups(1, &user->group);
    return groups == 0 && setgid(user->group) == 0 && setuid(user->number) == 0 ? 0 : -1;
}

/// Becomes the program, which is looked for in the new environment's PATH; returns only when that fails.
static inline void become_program(char *const *arguments, char *const *variables) {
    extern char **environ;
    environ = (char **)variables;
    // Looks before it tries: for each try the kernel makes a new address space first.
    const char *path = strchr(arguments[0], '/') ? NULL : getenv("PATH");
    while (path && *path) {
        char place[4096];
        size_t count = strcspn(path, ":");
        int length = snprintf(place, sizeof place, "%.*s/%s", count ? (int)count : 1, count ? path : ".", arguments[0]);
        if (length < (int)sizeof place && access(place, X_OK) == 0) execve(place, arguments, variables);
        path += count + (path[count] == ':');
    }
    execvp(arguments[0], arguments);
}

/// Mixes random bytes into the kernel's pool, counted as random, and makes the generator draw from it anew.
static inline int stir(const void *bytes, int count) {
    union {
        struct rand_pool_info information;
        char room[sizeof(struct rand_pool_info) + 64];
    } pool;
    if (count > 64) count = 64;
    pool.information.entropy_count = count * 8;
    pool.information.buf_size = count;
    memcpy(pool.information.buf, bytes, count);
    int device = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    if (device < 0) return -1;
    int result = ioctl(device, RNDADDENTROPY, &pool.information);
    if (result == 0) result = ioctl(device, RNDRESEEDCRNG);
    close(device);
    return result;
}

static inline int64_t clock_nanoseconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static inline int set_clock(int64_t nanoseconds) {
    struct timespec time = {.tv_sec = nanoseconds / 1000000000, .tv_nsec = nanoseconds % 1000000000};
    return clock_settime(CLOCK_REALTIME, &time);
}

/// Tells each mounted file system's device which blocks are free; file systems without one refuse, and that is all right.
static inline void trim_file_systems(void) {
    FILE *list = setmntent("/proc/self/mounts", "r");
    if (list == NULL) return;
    struct mntent *entry;
    while ((entry = getmntent(list)) != NULL) {
        if (strncmp(entry->mnt_fsname, "/dev/", 5) != 0) continue;
        int folder = open(entry->mnt_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (folder < 0) continue;
        struct fstrim_range all = {.len = UINT64_MAX};
        ioctl(folder, FITRIM, &all);
        close(folder);
    }
    endmntent(list);
}
