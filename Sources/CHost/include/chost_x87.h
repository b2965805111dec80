// SPDX-License-Identifier: Apache-2.0
// One x87 instruction at a time on the host's own x87 unit, under the guest's control word. Intel SDM volume 1, chapter 8.
#pragma once

#include <stdint.h>

/// An 80-bit register: the 64-bit significand, then sign (bit 15) and exponent.
struct chost_x87_register {
    uint64_t mantissa;
    uint16_t exponent;
};

/// What an instruction left: ST(0), ST(1) where it makes two results, and the status word.
struct chost_x87_result {
    struct chost_x87_register st0;
    struct chost_x87_register st1;
    uint16_t status;
};

/// What a store instruction wrote (up to ten bytes, little-endian), and the status word.
struct chost_x87_stored {
    uint64_t low;
    uint16_t high;
    uint16_t status;
};

#if defined(__x86_64__)

#define CHOST_X87_MASKS 0x3f
#define CHOST_X87_DEFAULT 0x37f
#define CHOST_X87_CLOBBERS "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)"

/// The image that FNSAVE writes in 64-bit mode.
struct __attribute__((packed)) chost_x87_image {
    uint32_t control, status, tag, instruction, code, data, segment;
    struct __attribute__((packed)) {
        uint64_t mantissa;
        uint16_t exponent;
    } st[8];
};

/// Leaves no exception flag in the host's status word that is not in `sticky`, then loads the control word.
static inline void chost_x87_enter(uint16_t control, uint16_t sticky) {
    uint16_t before;
    __asm__ volatile("fnstsw %0" : "=a"(before));
    if (before & CHOST_X87_MASKS & ~sticky) __asm__ volatile("fnclex");
    if (control != CHOST_X87_DEFAULT) __asm__ volatile("fldcw %0" : : "m"(control));
}

static inline void chost_x87_leave(uint16_t control) {
    uint16_t ordinary = CHOST_X87_DEFAULT;
    if (control != CHOST_X87_DEFAULT) __asm__ volatile("fldcw %0" : : "m"(ordinary));
}

static inline struct chost_x87_result chost_x87_unpack(const struct chost_x87_image *image) {
    struct chost_x87_result r = {
        {image->st[0].mantissa, image->st[0].exponent}, {image->st[1].mantissa, image->st[1].exponent}, (uint16_t)image->status};
    return r;
}

/// Runs INSTRUCTION with unmasked exceptions: FNSAVE takes the result without delivering them.
#define CHOST_X87_EXACT(INSTRUCTION, IMAGE, A, B, CONTROL)                                                   \
    __asm__ volatile("fninit\n\tfldcw %[control]\n\tfldt %[b]\n\tfldt %[a]\n\t" INSTRUCTION "\n\tfnsave %[image]" \
                     : [image] "=m"(IMAGE)                                                                   \
                     : [a] "m"(A), [b] "m"(B), [control] "m"(CONTROL)                                        \
                     : CHOST_X87_CLOBBERS)

/// INSTRUCTION turns A = ST(0) and B = ST(1) into one result in ST(0). REST pops what is left below it.
/// While all exceptions are masked, flags of `sticky` may be reported again in the status.
#define CHOST_X87_ONE(NAME, INSTRUCTION, REST)                                                               \
    static inline struct chost_x87_result chost_x87_##NAME(                                                  \
        struct chost_x87_register a, struct chost_x87_register b, uint16_t control, uint16_t sticky) {       \
        if ((control & CHOST_X87_MASKS) != CHOST_X87_MASKS) {                                                \
            struct chost_x87_image image;                                                                    \
            CHOST_X87_EXACT(INSTRUCTION, image, a, b, control);                                              \
            return chost_x87_unpack(&image);                                                                 \
        }                                                                                                    \
        struct chost_x87_result r = {{0, 0}, {0, 0}, 0};                                                     \
        chost_x87_enter(control, sticky);                                                                    \
        __asm__ volatile("fldt %[b]\n\tfldt %[a]\n\t" INSTRUCTION                                            \
                         "\n\tfnstsw %[status]\n\tfstpt %[st0]\n\t" REST                                     \
                         : [st0] "=m"(r.st0), [status] "=a"(r.status)                                        \
                         : [a] "m"(a), [b] "m"(b)                                                            \
                         : CHOST_X87_CLOBBERS);                                                              \
        chost_x87_leave(control);                                                                            \
        return r;                                                                                            \
    }

/// INSTRUCTION turns A = ST(0) into ST(0) and ST(1), or leaves it.
#define CHOST_X87_TWO(NAME, INSTRUCTION)                                                                     \
    static inline struct chost_x87_result chost_x87_##NAME(struct chost_x87_register a, uint16_t control) {  \
        struct chost_x87_image image;                                                                        \
        CHOST_X87_EXACT(INSTRUCTION, image, a, a, control);                                                  \
        return chost_x87_unpack(&image);                                                                     \
    }

/// INSTRUCTION stores A = ST(0) and pops it.
#define CHOST_X87_STORE(NAME, INSTRUCTION)                                                                   \
    static inline struct chost_x87_stored chost_x87_##NAME(                                                  \
        struct chost_x87_register a, uint16_t control, uint16_t sticky) {                                    \
        struct __attribute__((packed)) {                                                                     \
            uint64_t low;                                                                                    \
            uint16_t high;                                                                                   \
        } memory = {0, 0};                                                                                   \
        struct chost_x87_stored r = {0, 0, 0};                                                               \
        if ((control & CHOST_X87_MASKS) != CHOST_X87_MASKS) {                                                \
            struct chost_x87_image image;                                                                    \
            __asm__ volatile("fninit\n\tfldcw %[control]\n\tfldt %[a]\n\t" INSTRUCTION                       \
                             " %[memory]\n\tfnsave %[image]"                                                 \
                             : [image] "=m"(image), [memory] "+m"(memory)                                    \
                             : [a] "m"(a), [control] "m"(control)                                            \
                             : CHOST_X87_CLOBBERS);                                                          \
            r.status = (uint16_t)image.status;                                                               \
        } else {                                                                                             \
            chost_x87_enter(control, sticky);                                                                \
            __asm__ volatile("fldt %[a]\n\t" INSTRUCTION " %[memory]\n\tfnstsw %[status]"                    \
                             : [memory] "+m"(memory), [status] "=a"(r.status)                                \
                             : [a] "m"(a)                                                                    \
                             : CHOST_X87_CLOBBERS);                                                          \
            chost_x87_leave(control);                                                                        \
        }                                                                                                    \
        r.low = memory.low;                                                                                  \
        r.high = memory.high;                                                                                \
        return r;                                                                                            \
    }

#else

// Hosts without an x87 unit: every instruction is an invalid operation, with the default answer to it.
#define CHOST_X87_ONE(NAME, INSTRUCTION, REST)                                                               \
    static inline struct chost_x87_result chost_x87_##NAME(                                                  \
        struct chost_x87_register a, struct chost_x87_register b, uint16_t control, uint16_t sticky) {       \
        (void)a, (void)b, (void)control, (void)sticky;                                                       \
        struct chost_x87_result r = {{0xc000000000000000, 0xffff}, {0xc000000000000000, 0xffff}, 1};         \
        return r;                                                                                            \
    }
#define CHOST_X87_TWO(NAME, INSTRUCTION)                                                                     \
    static inline struct chost_x87_result chost_x87_##NAME(struct chost_x87_register a, uint16_t control) {  \
        (void)a, (void)control;                                                                              \
        struct chost_x87_result r = {{0xc000000000000000, 0xffff}, {0xc000000000000000, 0xffff}, 1};         \
        return r;                                                                                            \
    }
#define CHOST_X87_STORE(NAME, INSTRUCTION)                                                                   \
    static inline struct chost_x87_stored chost_x87_##NAME(                                                  \
        struct chost_x87_register a, uint16_t control, uint16_t sticky) {                                    \
        (void)a, (void)control, (void)sticky;                                                                \
        struct chost_x87_stored r = {0xc000000000000000, 0xffff, 1};                                         \
        return r;                                                                                            \
    }

#endif

CHOST_X87_ONE(add, "fadd %%st(1), %%st", "fstp %%st(0)")
CHOST_X87_ONE(multiply, "fmul %%st(1), %%st", "fstp %%st(0)")
CHOST_X87_ONE(subtract, "fsub %%st(1), %%st", "fstp %%st(0)")
CHOST_X87_ONE(subtract_reverse, "fsubr %%st(1), %%st", "fstp %%st(0)")
CHOST_X87_ONE(divide, "fdiv %%st(1), %%st", "fstp %%st(0)")
CHOST_X87_ONE(divide_reverse, "fdivr %%st(1), %%st", "fstp %%st(0)")
CHOST_X87_ONE(compare, "fcom %%st(1)", "fstp %%st(0)")
CHOST_X87_ONE(compare_unordered, "fucom %%st(1)", "fstp %%st(0)")
CHOST_X87_ONE(remainder, "fprem", "fstp %%st(0)")
CHOST_X87_ONE(remainder_nearest, "fprem1", "fstp %%st(0)")
CHOST_X87_ONE(scale, "fscale", "fstp %%st(0)")
CHOST_X87_ONE(square_root, "fsqrt", "fstp %%st(0)")
CHOST_X87_ONE(round, "frndint", "fstp %%st(0)")
CHOST_X87_ONE(exponential, "f2xm1", "fstp %%st(0)")
CHOST_X87_ONE(sine, "fsin", "fstp %%st(0)")
CHOST_X87_ONE(cosine, "fcos", "fstp %%st(0)")
CHOST_X87_ONE(logarithm, "fyl2x", "")
CHOST_X87_ONE(logarithm_plus_one, "fyl2xp1", "")
CHOST_X87_ONE(arctangent, "fpatan", "")
CHOST_X87_TWO(tangent, "fptan")
CHOST_X87_TWO(sine_cosine, "fsincos")
CHOST_X87_TWO(extract, "fxtract")
CHOST_X87_STORE(store_real32, "fstps")
CHOST_X87_STORE(store_real64, "fstpl")
CHOST_X87_STORE(store_integer16, "fistps")
CHOST_X87_STORE(store_integer32, "fistpl")
CHOST_X87_STORE(store_integer64, "fistpll")
CHOST_X87_STORE(store_truncated16, "fisttps")
CHOST_X87_STORE(store_truncated32, "fisttpl")
CHOST_X87_STORE(store_truncated64, "fisttpll")
CHOST_X87_STORE(store_decimal, "fbstp")

#undef CHOST_X87_ONE
#undef CHOST_X87_TWO
#undef CHOST_X87_STORE
