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
#include <sys/mman.h>
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

/// Two ends between which descriptors are passed.
static inline int make_channel(int ends[2]) { return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends); }

/// The part of a message that has a descriptor. Spec: cmsg(3), unix(7), SCM_RIGHTS.
union passed_descriptor {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int))];
};

/// Passes `descriptor` on, with a byte; 0, or -1 with errno set.
static inline int pass_descriptor(int channel, int descriptor, unsigned char byte) {
    union passed_descriptor passed = {
        .header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    memcpy(CMSG_DATA(&passed.header), &descriptor, sizeof descriptor);
    struct iovec data = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &passed, .msg_controllen = CMSG_LEN(sizeof(int))};
    return sendmsg(channel, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == 1 ? 0 : -1;
}

/// Waits for a descriptor, and puts it in the place of the channel's end; 0, or -1 when none comes any more.
static inline int receive_descriptor(int channel, unsigned char *byte) {
    union passed_descriptor passed;
    struct iovec data = {byte, 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &passed, .msg_controllen = sizeof passed};
    if (recvmsg(channel, &message, MSG_CMSG_CLOEXEC) != 1 || message.msg_controllen < CMSG_LEN(sizeof(int))) return -1;
    int descriptor;
    memcpy(&descriptor, CMSG_DATA(&passed.header), sizeof descriptor);
    int result = dup3(descriptor, channel, O_CLOEXEC) == channel ? 0 : -1;
    close(descriptor);
    return result;
}

enum { SHARED_SIZE = 64 << 10 };

/// A text, empty at first, that this process has in common with children that it gets after the first call: its length, and
/// behind that its bytes; NULL when there is no memory for it.
static inline uint32_t *shared_text(void) {
    static uint32_t *text;
    if (text == NULL) {
        void *memory = mmap(NULL, SHARED_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (memory != MAP_FAILED) text = memory;
    }
    return text;
}

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

/// Runs `body`, which does not return, in a child that has this process's memory and a stack of its own; this process stands
/// until the child has become another program or ended. The child is in the control group whose folder `group` is; -1: in
/// this process's own. Returns the child, or -1 with errno set: kernels before 5.7 know no `group`.
/// Spec: clone(2), CLONE_VM, CLONE_VFORK; clone3(2), CLONE_INTO_CGROUP.
static inline int spawn_sharing(int group, void (*body)(void *), void *argument) {
    static char stack[64 << 10] __attribute__((aligned(16)));
    unsigned long flags = CLONE_VM | CLONE_VFORK;
    struct clone_args arguments = {
        .flags = flags | CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .stack = (uint64_t)stack,
        .stack_size = sizeof stack, .cgroup = (uint64_t)(unsigned)group};
    // Both system calls give the child a stack that is empty: what it needs is in registers.
    long result = group >= 0 ? SYS_clone3 : SYS_clone;
    unsigned long first = group >= 0 ? (unsigned long)&arguments : flags | SIGCHLD;
    unsigned long second = group >= 0 ? sizeof arguments : (unsigned long)(stack + sizeof stack);
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "mov %[argument], %%rdi\n\t"
                     "call *%[body]\n\t"
                     "hlt\n"
                     "1:"
                     : "+a"(result)
                     : "D"(first), "S"(second), "d"(0), [body] "r"(body), [argument] "r"(argument)
                     : "rcx", "r8", "r10", "r11", "cc", "memory");
    if (result >= 0) return (int)result;
    errno = (int)-result;
    return -1;
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
    size_t length = strlen(arguments[0]);
    while (path && *path) {
        char place[4096];
        size_t count = strcspn(path, ":");
        if (count + length + 2 <= sizeof place) {
            memcpy(place, count ? path : ".", count ? count : 1);
            char *end = place + (count ? count : 1);
            *end = '/';
            memcpy(end + 1, arguments[0], length + 1);
            if (access(place, X_OK) == 0) execve(place, arguments, variables);
        }
        path += count + (path[count] == ':');
    }
    execvp(arguments[0], arguments);
}

static inline int open_random_device(void) { return open("/dev/urandom", O_RDWR | O_CLOEXEC); }

/// Mixes random bytes into the kernel's pool behind `device`, counted as random, and makes the generator draw from it anew.
static inline int stir(int device, const void *bytes, int count) {
    union {
        struct rand_pool_info information;
        char room[sizeof(struct rand_pool_info) + 64];
    } pool;
    if (count > 64) count = 64;
    pool.information.entropy_count = count * 8;
    pool.information.buf_size = count;
    memcpy(pool.information.buf, bytes, count);
    int result = ioctl(device, RNDADDENTROPY, &pool.information);
    return result == 0 ? ioctl(device, RNDRESEEDCRNG) : result;
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
