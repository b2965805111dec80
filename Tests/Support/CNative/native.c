// SPDX-License-Identifier: Apache-2.0
// Runs arbitrary instruction bytes on the host's own processor, faults included. Linux on x86-64 only.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "native.h"

#include <pthread.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void native_lock(void) { pthread_mutex_lock(&lock); }
void native_unlock(void) { pthread_mutex_unlock(&lock); }

#if defined(__x86_64__) && defined(__linux__)

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

// Shared with the assembly below, so that it needs no register.
uint64_t native_current[NATIVE_WORDS] __attribute__((visibility("hidden"), aligned(16)));
uint64_t native_host_stack __attribute__((visibility("hidden")));
uint64_t native_target __attribute__((visibility("hidden"))) = NATIVE_CODE;
void native_enter(void) __attribute__((visibility("hidden")));
void native_return(void) __attribute__((visibility("hidden")));
void native_leave(void) __attribute__((visibility("hidden")));

// Byte offsets: RFLAGS is at 128, the FXSAVE image at 144.
__asm__(
    ".text\n"
    ".hidden native_enter\n.globl native_enter\n.type native_enter, @function\n"
    "native_enter:\n"
    "  pushq %rbx\n  pushq %rbp\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, native_host_stack(%rip)\n"
    "  fxrstor64 native_current+144(%rip)\n"
    "  pushq native_current+128(%rip)\n"
    "  popfq\n"
    "  movq native_current+0(%rip), %rax\n"
    "  movq native_current+8(%rip), %rcx\n"
    "  movq native_current+16(%rip), %rdx\n"
    "  movq native_current+24(%rip), %rbx\n"
    "  movq native_current+32(%rip), %rsp\n"
    "  movq native_current+40(%rip), %rbp\n"
    "  movq native_current+48(%rip), %rsi\n"
    "  movq native_current+56(%rip), %rdi\n"
    "  movq native_current+64(%rip), %r8\n"
    "  movq native_current+72(%rip), %r9\n"
    "  movq native_current+80(%rip), %r10\n"
    "  movq native_current+88(%rip), %r11\n"
    "  movq native_current+96(%rip), %r12\n"
    "  movq native_current+104(%rip), %r13\n"
    "  movq native_current+112(%rip), %r14\n"
    "  movq native_current+120(%rip), %r15\n"
    "  jmpq *native_target(%rip)\n"
    // The code under test comes back here with its registers in place.
    ".hidden native_return\n.globl native_return\n.type native_return, @function\n"
    "native_return:\n"
    "  movq %rax, native_current+0(%rip)\n"
    "  movq %rcx, native_current+8(%rip)\n"
    "  movq %rdx, native_current+16(%rip)\n"
    "  movq %rbx, native_current+24(%rip)\n"
    "  movq %rsp, native_current+32(%rip)\n"
    "  movq %rbp, native_current+40(%rip)\n"
    "  movq %rsi, native_current+48(%rip)\n"
    "  movq %rdi, native_current+56(%rip)\n"
    "  movq %r8, native_current+64(%rip)\n"
    "  movq %r9, native_current+72(%rip)\n"
    "  movq %r10, native_current+80(%rip)\n"
    "  movq %r11, native_current+88(%rip)\n"
    "  movq %r12, native_current+96(%rip)\n"
    "  movq %r13, native_current+104(%rip)\n"
    "  movq %r14, native_current+112(%rip)\n"
    "  movq %r15, native_current+120(%rip)\n"
    "  movq native_host_stack(%rip), %rsp\n"
    "  pushfq\n"
    "  popq native_current+128(%rip)\n"
    "  fxsave64 native_current+144(%rip)\n"
    // A fault comes back here from the signal handler, which has saved the registers.
    ".hidden native_leave\n.globl native_leave\n.type native_leave, @function\n"
    "native_leave:\n"
    "  xorl %eax, %eax\n  movl %eax, %ds\n  movl %eax, %es\n  movl %eax, %gs\n"
    "  cld\n"
    "  pushq $0x202\n"
    "  popfq\n"
    "  fninit\n"
    "  pushq $0x1f80\n"
    "  ldmxcsr (%rsp)\n"
    "  addq $8, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbp\n  popq %rbx\n"
    "  ret\n");

static pthread_t runner;
static volatile sig_atomic_t is_running;
static struct native_outcome current_outcome;
static uint8_t signal_stack[65536] __attribute__((aligned(16)));

static const int signals[] = {SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGTRAP};

static void handle(int number, siginfo_t *info, void *context) {
    (void)info;
    if (!is_running || !pthread_equal(runner, pthread_self())) {
        signal(number, SIG_DFL);
        return;
    }
    ucontext_t *user = context;
    greg_t *registers = user->uc_mcontext.gregs;
    static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                  REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    for (int i = 0; i < 16; i++) native_current[i] = (uint64_t)registers[order[i]];
    native_current[NATIVE_FLAGS] = (uint64_t)registers[REG_EFL];
    native_current[NATIVE_RIP] = (uint64_t)registers[REG_RIP];
    memcpy(native_current + NATIVE_FX, user->uc_mcontext.fpregs, 512);
    current_outcome.vector = (int32_t)registers[REG_TRAPNO];
    current_outcome.error_code = (uint32_t)registers[REG_ERR];
    current_outcome.address = (uint64_t)registers[REG_CR2];
    registers[REG_RSP] = (greg_t)native_host_stack;
    registers[REG_RIP] = (greg_t)(uintptr_t)native_leave;
    registers[REG_EFL] = 0x202;
}

static int map_fixed(unsigned long address, size_t size, int protection) {
    void *p = mmap((void *)address, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    return p == (void *)address;
}

static int prepare(void) {
    // A guard page on either side of the window.
    if (!map_fixed(NATIVE_WINDOW - 4096, NATIVE_WINDOW_SIZE + 8192, PROT_NONE)) return 0;
    if (mprotect((void *)NATIVE_WINDOW, NATIVE_WINDOW_SIZE, PROT_READ | PROT_WRITE)) return 0;
    if (!map_fixed(NATIVE_CODE, 4096, PROT_READ | PROT_WRITE | PROT_EXEC)) return 0;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        if (sigaction(signals[i], &action, NULL)) return 0;
    return 1;
}

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int available;
static void prepare_once(void) { available = prepare(); }

int native_available(void) {
    pthread_once(&once, prepare_once);
    return available;
}

int native_run(const uint8_t *code, size_t count, uint64_t *state, struct native_outcome *outcome) {
    if (!native_available() || count > NATIVE_CODE_SIZE) return -1;
    uint8_t *target = (uint8_t *)NATIVE_CODE;
    memcpy(target, code, count);
    // jmp *0(%rip), then the address.
    static const uint8_t jump[6] = {0xff, 0x25, 0, 0, 0, 0};
    uint64_t back = (uint64_t)(uintptr_t)native_return;
    memcpy(target + count, jump, sizeof jump);
    memcpy(target + count + sizeof jump, &back, sizeof back);

    stack_t alternate = {.ss_sp = signal_stack, .ss_size = sizeof signal_stack}, previous;
    if (sigaltstack(&alternate, &previous)) return -1;
    memcpy(native_current, state, sizeof native_current);
    current_outcome = (struct native_outcome){-1, 0, 0};
    runner = pthread_self();
    is_running = 1;
    __asm__ volatile("call native_enter" : : : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc",
        "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
        "xmm14", "xmm15", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");
    is_running = 0;
    sigaltstack(&previous, NULL);
    memcpy(state, native_current, sizeof native_current);
    if (current_outcome.vector < 0) state[NATIVE_RIP] = NATIVE_CODE + count;
    *outcome = current_outcome;
    return 0;
}

void native_set_window(const uint8_t *bytes) { memcpy((void *)NATIVE_WINDOW, bytes, NATIVE_WINDOW_SIZE); }
void native_get_window(uint8_t *bytes) { memcpy(bytes, (void *)NATIVE_WINDOW, NATIVE_WINDOW_SIZE); }

#else

int native_available(void) { return 0; }
int native_run(const uint8_t *code, size_t count, uint64_t *state, struct native_outcome *outcome) {
    (void)code, (void)count, (void)state, (void)outcome;
    return -1;
}
void native_set_window(const uint8_t *bytes) { (void)bytes; }
void native_get_window(uint8_t *bytes) { memset(bytes, 0, NATIVE_WINDOW_SIZE); }

#endif
