// SPDX-License-Identifier: Apache-2.0
// The part of musl and of Linux that the guest's programs call, for Swift to import: variadic calls get a fixed form here.
#pragma once

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static inline int open_existing(const char *path, int flags) { return open(path, flags); }

static inline int create_file(const char *path) { return open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644); }

// musl has no function for this system call.
static inline int load_module(int descriptor) { return (int)syscall(SYS_finit_module, descriptor, "", 0); }

static inline int last_error(void) { return errno; }
