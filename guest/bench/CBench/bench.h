// SPDX-License-Identifier: Apache-2.0
// What the benchmark programs need and Swift cannot say: exact instructions, and calls of musl in a form it can import.
#pragma once

// First, so that what both need is this module's and not declared twice.
#include <libc.h>

#include <emmintrin.h>
#include <nmmintrin.h>
#include <signal.h>
#include <smmintrin.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <tmmintrin.h>

// A value that the compiler knows nothing about.
static inline uint64_t unknown(uint64_t value) {
    __asm__ volatile("" : "+r"(value));
    return value;
}

// Repeated string instructions.

static inline void rep_movsb(void *to, const void *from, size_t count) {
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

static inline void rep_movsq(void *to, const void *from, size_t count) {
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

// The last `count` bytes before `to` and `from`, downwards.
static inline void rep_movsb_down(void *to, const void *from, size_t count) {
    to = (char *)to - 1;
    from = (const char *)from - 1;
    __asm__ volatile("std; rep movsb; cld" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

static inline void rep_stosb(void *to, uint8_t value, size_t count) {
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory");
}

static inline void rep_stosq(void *to, uint64_t value, size_t count) {
    __asm__ volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(value) : "memory");
}

// The bytes before the first `value`, or `count`.
static inline size_t repne_scasb(const void *from, uint8_t value, size_t count) {
    const char *position = from;
    size_t left = count;
    uint8_t found;
    __asm__ volatile("cmp %[value], %[value]; test %[left], %[left]; setz %[found]; jz 1f; repne scasb; setz %[found]; 1:"
                     : "+D"(position), [left] "+c"(left), [found] "=&r"(found)
                     : [value] "a"(value)
                     : "memory", "cc");
    return found && count ? count - left - 1 : count;
}

// The equal bytes at the start of both, at most `count`; `count` is not 0.
static inline size_t repe_cmpsb(const void *first, const void *second, size_t count) {
    size_t left = count;
    uint8_t equal;
    __asm__ volatile("repe cmpsb; setz %[equal]"
                     : "+D"(first), "+S"(second), "+c"(left), [equal] "=r"(equal)
                     :
                     : "memory", "cc");
    return equal ? count : count - left - 1;
}

// SSE2 and later, as libraries use them.

static inline void copy_64_bytes(void *to, const void *from) {
    __asm__ volatile("movdqu (%1), %%xmm0; movdqu 16(%1), %%xmm1; movdqu 32(%1), %%xmm2; movdqu 48(%1), %%xmm3;"
                     "movdqu %%xmm0, (%0); movdqu %%xmm1, 16(%0); movdqu %%xmm2, 32(%0); movdqu %%xmm3, 48(%0)"
                     :
                     : "r"(to), "r"(from)
                     : "xmm0", "xmm1", "xmm2", "xmm3", "memory");
}

static inline void copy_8_bytes(void *to, const void *from) {
    uint64_t word;
    __asm__ volatile("mov (%2), %0; mov %0, (%1)" : "=&r"(word) : "r"(to), "r"(from) : "memory");
}

static inline __m128i load_16(const void *from) { return _mm_loadu_si128((const __m128i *)from); }

static inline uint64_t sum_of_halves(__m128i value) {
    return (uint64_t)_mm_cvtsi128_si64(value) + (uint64_t)_mm_extract_epi64(value, 1);
}

// A bit for each of 16 bytes that equals `value`.
static inline uint32_t equal_bytes(const void *from, uint8_t value) {
    return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(load_16(from), _mm_set1_epi8((char)value)));
}

// The index of the first of 16 bytes that is one of four, or 16.
static inline int32_t first_of_four(const void *from, uint32_t set) {
    return _mm_cmpestri(
        _mm_cvtsi32_si128((int)set), 4, load_16(from), 16, _SIDD_UBYTE_OPS | _SIDD_CMP_EQUAL_ANY | _SIDD_LEAST_SIGNIFICANT);
}

// The sum of absolute differences of 16 bytes.
static inline uint64_t absolute_differences(const void *first, const void *second) {
    return sum_of_halves(_mm_sad_epu8(load_16(first), load_16(second)));
}

// The sum of the products of 8 signed words.
static inline int64_t dot_of_words(const void *first, const void *second) {
    __m128i pairs = _mm_madd_epi16(load_16(first), load_16(second));
    return (int64_t)sum_of_halves(_mm_add_epi64(_mm_cvtepi32_epi64(pairs), _mm_cvtepi32_epi64(_mm_srli_si128(pairs, 8))));
}

// One step of mixing 16 bytes: shuffled, averaged, the smaller ones, multiplied as four 32-bit numbers.
static inline void mix_bytes(void *state, const void *input) {
    const __m128i reversed = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m128i old = load_16(state);
    __m128i new = _mm_avg_epu8(old, _mm_shuffle_epi8(load_16(input), reversed));
    new = _mm_xor_si128(_mm_mullo_epi32(new, _mm_or_si128(old, _mm_set1_epi32(1))), _mm_min_epu8(new, old));
    new = _mm_add_epi16(_mm_slli_epi32(new, 5), _mm_unpacklo_epi8(old, new));
    _mm_storeu_si128((__m128i *)state, new);
}

// x87. Swift's Float80 has no sine; the square root is here because Swift calls a library for it.

static inline long double x87_sine(long double value) {
    __asm__ volatile("fsin" : "+t"(value));
    return value;
}

static inline long double x87_root(long double value) {
    __asm__ volatile("fsqrt" : "+t"(value));
    return value;
}

// Processes and signals.

static inline void on_signal(int signal, void (*handler)(int)) {
    struct sigaction action = {.sa_handler = handler};
    sigaction(signal, &action, 0);
}

// Handlers of exceptions run on a stack of their own and see and change the registers.
static inline bool use_signal_stack(void) {
    static char memory[65536];
    stack_t stack = {.ss_sp = memory, .ss_size = sizeof memory};
    return sigaltstack(&stack, 0) == 0;
}

static inline void on_exception(int signal, void (*handler)(int, siginfo_t *, void *)) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaction(signal, &action, 0);
}

static inline uint64_t *saved_registers(void *context) {
    return (uint64_t *)&((ucontext_t *)context)->uc_mcontext;
}

// Without musl's wrapper, which blocks all signals around it.
static inline void raise_here(int signal) { syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), signal); }

static inline int exit_status(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : -1; }

static inline uint32_t call_generated(const void *code, uint32_t argument) {
    return ((uint32_t(*)(uint32_t))code)(argument);
}

static inline void store_32(volatile void *to, uint32_t value) { *(volatile uint32_t *)to = value; }

static inline uint32_t load_32(const volatile void *from) { return *(const volatile uint32_t *)from; }

static inline void store_64(volatile void *to, uint64_t value) { *(volatile uint64_t *)to = value; }

static inline uint64_t load_64(const volatile void *from) { return *(const volatile uint64_t *)from; }
