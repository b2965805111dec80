// SPDX-License-Identifier: Apache-2.0
// Anonymous memory for guest RAM, and memory that this process needs no more.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#if defined(__linux__)
#include <malloc.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__linux__)
/// Gives the host the pages of the heap in which nothing is.
static inline void chost_return_memory(void) { malloc_trim(0); }
#endif

/// Asks for large pages in `size` bytes at `start` that are about to be written, where the host has them.
static inline void chost_prefer_large_pages(void *start, size_t size) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page = 4096;
    uintptr_t first = ((uintptr_t)start + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)start + size) / page * page;
    if (first < end) madvise((void *)first, end - first, MADV_HUGEPAGE);
#else
    (void)start;
    (void)size;
#endif
}

/// Maps `size` bytes, whole pages, of zero-filled private memory, the first `large` of them in large pages where the host has
/// them; NULL with errno set when refused.
static inline void *chost_map_anonymous(size_t size, size_t large) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_NORESERVE
    flags |= MAP_NORESERVE;
#endif
    // Aligned as large pages are: the host, and hardware virtualisation with it, can use them then.
    const size_t alignment = (size_t)2 << 20;
    char *start = mmap(NULL, size + alignment, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (start == MAP_FAILED) return NULL;
    size_t before = (alignment - (uintptr_t)start % alignment) % alignment;
    if (before != 0) munmap(start, before);
    if (before != alignment) munmap(start + before + size, alignment - before);
    chost_prefer_large_pages(start + before, large);
    return start + before;
}

/// Gives whole pages back to the host: they read as zero afterwards. 0, or -1 with errno set and nothing changed.
static inline int chost_release_memory(void *start, size_t size) {
#if defined(__linux__)
    return madvise(start, size, MADV_DONTNEED);
#else
    (void)start;
    (void)size;
    return -1;
#endif
}

#if defined(__linux__)
/// A file that is only memory; -1 with errno set when refused.
static inline int chost_memory_file(void) { return (int)syscall(SYS_memfd_create, "smolvmm-code", 1U /* MFD_CLOEXEC */); }
#endif

/// Has the host provide the pages of `size` bytes at `start`, which are about to be written: cheaper than one by one. A host that
/// cannot provides them as they are written.
static inline void chost_provide_memory(void *start, size_t size) {
#if defined(__linux__)
    const uintptr_t page = 4096;
    uintptr_t first = (uintptr_t)start / page * page;
    madvise((void *)first, (uintptr_t)start + size - first, 23 /* MADV_POPULATE_WRITE */);
#else
    (void)start;
    (void)size;
#endif
}

/// The first of `count` words from `start` on that is `value`, or `count`. Compares many at once.
static inline size_t chost_find_word(const uint32_t *words, size_t start, size_t count, uint32_t value) {
    enum { block = 32 };
    size_t position = start;
    for (; position + block <= count; position += block) {
        uint32_t found = 0;
        for (size_t offset = 0; offset < block; offset++) found |= words[position + offset] == value;
        if (found) break;
    }
    while (position < count && words[position] != value) position++;
    return position;
}
