// SPDX-License-Identifier: Apache-2.0
// KVM: its structures, and a function for each of its ioctls. Linux Documentation/virt/kvm/api.rst.
#pragma once

#ifdef __linux__
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// MARK: The system

static inline int chost_kvm_open(void) { return open("/dev/kvm", O_RDWR | O_CLOEXEC); }
static inline int chost_kvm_api_version(int kvm) { return ioctl(kvm, KVM_GET_API_VERSION, 0); }
static inline int chost_kvm_check_extension(int descriptor, int capability) {
    return ioctl(descriptor, KVM_CHECK_EXTENSION, capability);
}
static inline int chost_kvm_run_size(int kvm) { return ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0); }
static inline int chost_kvm_create_vm(int kvm) { return ioctl(kvm, KVM_CREATE_VM, 0UL); }
/// `list`: a struct kvm_cpuid2 with room for `nent` entries.
static inline int chost_kvm_supported_cpuid(int kvm, void *list) { return ioctl(kvm, KVM_GET_SUPPORTED_CPUID, list); }
/// `list`: a struct kvm_msr_list with room for `nmsrs` indices.
static inline int chost_kvm_msr_list(int kvm, void *list) { return ioctl(kvm, KVM_GET_MSR_INDEX_LIST, list); }

// MARK: A virtual machine

static inline int chost_kvm_enable(int vm, uint32_t capability, uint64_t argument) {
    struct kvm_enable_cap request = {.cap = capability, .args = {argument}};
    return ioctl(vm, KVM_ENABLE_CAP, &request);
}
static inline int chost_kvm_set_memory(int vm, uint32_t slot, uint32_t flags, uint64_t guest, uint64_t size, void *host) {
    struct kvm_userspace_memory_region region = {
        .slot = slot, .flags = flags, .guest_phys_addr = guest, .memory_size = size, .userspace_addr = (uintptr_t)host};
    return ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
}
static inline int chost_kvm_set_tss_address(int vm, uint64_t address) { return ioctl(vm, KVM_SET_TSS_ADDR, address); }
static inline int chost_kvm_set_identity_map(int vm, uint64_t address) {
    return ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &address);
}
/// 1 when a local APIC took the message, 0 when none did, -1 with errno set.
static inline int chost_kvm_signal_message(int vm, uint64_t address, uint32_t data) {
    struct kvm_msi message = {
        .address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data};
    return ioctl(vm, KVM_SIGNAL_MSI, &message);
}
/// `table`: a struct kvm_irq_routing with `nr` entries.
static inline int chost_kvm_set_routes(int vm, const void *table) { return ioctl(vm, KVM_SET_GSI_ROUTING, table); }
static inline void chost_kvm_message_route(void *entry, uint32_t line, uint32_t address, uint32_t data) {
    struct kvm_irq_routing_entry value = {
        .gsi = line, .type = KVM_IRQ_ROUTING_MSI, .u.msi = {.address_lo = address, .data = data}};
    memcpy(entry, &value, sizeof(value));
}
static inline int chost_kvm_get_clock(int vm, uint64_t *nanoseconds) {
    struct kvm_clock_data data = {0};
    int result = ioctl(vm, KVM_GET_CLOCK, &data);
    *nanoseconds = data.clock;
    return result;
}
static inline int chost_kvm_set_clock(int vm, uint64_t nanoseconds) {
    struct kvm_clock_data data = {.clock = nanoseconds};
    return ioctl(vm, KVM_SET_CLOCK, &data);
}
/// Writes of four bytes to guest-physical `address` set `event`, and the processor goes on at once.
static inline int chost_kvm_set_notification(int vm, uint64_t address, int event) {
    struct kvm_ioeventfd request = {.addr = address, .len = 4, .fd = event};
    return ioctl(vm, KVM_IOEVENTFD, &request);
}

// MARK: A virtual processor

static inline int chost_kvm_create_vcpu(int vm, unsigned long index) { return ioctl(vm, KVM_CREATE_VCPU, index); }
static inline struct kvm_run *chost_kvm_map_run(int vcpu, size_t size) {
    void *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    return run == MAP_FAILED ? NULL : (struct kvm_run *)run;
}
static inline int chost_kvm_run(int vcpu) { return ioctl(vcpu, KVM_RUN, 0); }
static inline int chost_kvm_set_cpuid(int vcpu, const void *list) { return ioctl(vcpu, KVM_SET_CPUID2, list); }
static inline int chost_kvm_get_regs(int vcpu, struct kvm_regs *value) { return ioctl(vcpu, KVM_GET_REGS, value); }
static inline int chost_kvm_set_regs(int vcpu, const struct kvm_regs *value) { return ioctl(vcpu, KVM_SET_REGS, value); }
static inline int chost_kvm_get_sregs(int vcpu, struct kvm_sregs *value) { return ioctl(vcpu, KVM_GET_SREGS, value); }
static inline int chost_kvm_set_sregs(int vcpu, const struct kvm_sregs *value) { return ioctl(vcpu, KVM_SET_SREGS, value); }
static inline int chost_kvm_get_debug(int vcpu, struct kvm_debugregs *value) { return ioctl(vcpu, KVM_GET_DEBUGREGS, value); }
static inline int chost_kvm_set_debug(int vcpu, const struct kvm_debugregs *value) {
    return ioctl(vcpu, KVM_SET_DEBUGREGS, value);
}
static inline int chost_kvm_get_events(int vcpu, struct kvm_vcpu_events *value) { return ioctl(vcpu, KVM_GET_VCPU_EVENTS, value); }
static inline int chost_kvm_set_events(int vcpu, const struct kvm_vcpu_events *value) {
    return ioctl(vcpu, KVM_SET_VCPU_EVENTS, value);
}
/// `area`: 4096 bytes, an XSAVE area in standard form.
static inline int chost_kvm_get_xsave(int vcpu, void *area) { return ioctl(vcpu, KVM_GET_XSAVE, area); }
static inline int chost_kvm_set_xsave(int vcpu, const void *area) { return ioctl(vcpu, KVM_SET_XSAVE, area); }
/// XCR0, the only extended control register that guests have.
static inline int chost_kvm_get_xcr0(int vcpu, uint64_t *value) {
    struct kvm_xcrs registers = {0};
    int result = ioctl(vcpu, KVM_GET_XCRS, &registers);
    for (uint32_t i = 0; i < registers.nr_xcrs && i < KVM_MAX_XCRS; i++) {
        if (registers.xcrs[i].xcr == 0) *value = registers.xcrs[i].value;
    }
    return result;
}
static inline int chost_kvm_set_xcr0(int vcpu, uint64_t value) {
    struct kvm_xcrs registers = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = value}}};
    return ioctl(vcpu, KVM_SET_XCRS, &registers);
}
/// `list`: a struct kvm_msrs with `nmsrs` entries. Returns how many were read or written, from the first on.
static inline int chost_kvm_get_msrs(int vcpu, void *list) { return ioctl(vcpu, KVM_GET_MSRS, list); }
static inline int chost_kvm_set_msrs(int vcpu, const void *list) { return ioctl(vcpu, KVM_SET_MSRS, list); }
/// `page`: the 1024 bytes of struct kvm_lapic_state.
static inline int chost_kvm_get_local_apic(int vcpu, void *page) { return ioctl(vcpu, KVM_GET_LAPIC, page); }
static inline int chost_kvm_set_local_apic(int vcpu, const void *page) { return ioctl(vcpu, KVM_SET_LAPIC, page); }
static inline int chost_kvm_get_activity(int vcpu, uint32_t *state) {
    struct kvm_mp_state value = {0};
    int result = ioctl(vcpu, KVM_GET_MP_STATE, &value);
    *state = value.mp_state;
    return result;
}
static inline int chost_kvm_set_activity(int vcpu, uint32_t state) {
    struct kvm_mp_state value = {.mp_state = state};
    return ioctl(vcpu, KVM_SET_MP_STATE, &value);
}
static inline int chost_kvm_get_tsc_khz(int vcpu) { return ioctl(vcpu, KVM_GET_TSC_KHZ, 0); }
static inline int chost_kvm_set_tsc_khz(int vcpu, unsigned long frequency) { return ioctl(vcpu, KVM_SET_TSC_KHZ, frequency); }
/// What is added to the host's counter, scaled, for the guest's (KVM_VCPU_TSC_OFFSET).
static inline int chost_kvm_get_tsc_offset(int vcpu, uint64_t *offset) {
    struct kvm_device_attr attribute = {.attr = KVM_VCPU_TSC_OFFSET, .group = KVM_VCPU_TSC_CTRL, .addr = (uintptr_t)offset};
    return ioctl(vcpu, KVM_GET_DEVICE_ATTR, &attribute);
}
static inline int chost_kvm_set_tsc_offset(int vcpu, uint64_t offset) {
    struct kvm_device_attr attribute = {.attr = KVM_VCPU_TSC_OFFSET, .group = KVM_VCPU_TSC_CTRL, .addr = (uintptr_t)&offset};
    return ioctl(vcpu, KVM_SET_DEVICE_ATTR, &attribute);
}
/// Tells the guest, by kvm-clock, that it did not run for a while.
static inline int chost_kvm_guest_stopped(int vcpu) { return ioctl(vcpu, KVM_KVMCLOCK_CTRL, 0); }
static inline int chost_kvm_nmi(int vcpu) { return ioctl(vcpu, KVM_NMI, 0); }
static inline int chost_kvm_interrupt(int vcpu, uint32_t vector) {
    struct kvm_interrupt value = {.irq = vector};
    return ioctl(vcpu, KVM_INTERRUPT, &value);
}

// MARK: What a processor came back with

/// KVM_EXIT_IO.
struct chost_kvm_port_exit {
    int is_write;
    unsigned size;
    unsigned port;
    unsigned count;
    unsigned char *data;
};
static inline struct chost_kvm_port_exit chost_kvm_port_exit(struct kvm_run *run) {
    return (struct chost_kvm_port_exit){
        .is_write = run->io.direction == KVM_EXIT_IO_OUT, .size = run->io.size, .port = run->io.port,
        .count = run->io.count, .data = (unsigned char *)run + run->io.data_offset};
}

/// KVM_EXIT_MMIO.
struct chost_kvm_memory_exit {
    int is_write;
    unsigned size;
    uint64_t address;
    unsigned char *data;
};
static inline struct chost_kvm_memory_exit chost_kvm_memory_exit(struct kvm_run *run) {
    return (struct chost_kvm_memory_exit){
        .is_write = run->mmio.is_write, .size = run->mmio.len, .address = run->mmio.phys_addr, .data = run->mmio.data};
}

static inline uint8_t chost_kvm_ended_vector(const struct kvm_run *run) { return run->eoi.vector; }
static inline uint64_t chost_kvm_entry_failure(const struct kvm_run *run) {
    return run->fail_entry.hardware_entry_failure_reason;
}

/// KVM_EXIT_INTERNAL_ERROR; `instruction_size` is 0 where the kernel does not tell the bytes.
struct chost_kvm_internal_error {
    unsigned kind;
    unsigned instruction_size;
    const unsigned char *instruction;
};
static inline struct chost_kvm_internal_error chost_kvm_internal_error(const struct kvm_run *run) {
    struct chost_kvm_internal_error error = {.kind = run->internal.suberror};
#ifdef KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES
    if (error.kind == KVM_INTERNAL_ERROR_EMULATION && run->emulation_failure.ndata >= 1
        && run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) {
        error.instruction_size = run->emulation_failure.insn_size;
        error.instruction = run->emulation_failure.insn_bytes;
    }
#endif
    return error;
}

static inline void chost_kvm_request_exit(struct kvm_run *run) { __atomic_store_n(&run->immediate_exit, 1, __ATOMIC_SEQ_CST); }
static inline void chost_kvm_clear_request(struct kvm_run *run) { __atomic_store_n(&run->immediate_exit, 0, __ATOMIC_SEQ_CST); }

// MARK: Signals that end a KVM_RUN

static inline void chost_kvm_ignore_signal(int number) { (void)number; }
/// Has the signal interrupt system calls and do nothing else.
static inline int chost_kvm_install_signal(void) {
    struct sigaction action = {0};
    action.sa_handler = chost_kvm_ignore_signal;
    return sigaction(SIGRTMIN, &action, NULL);
}
/// Sends the calling thread the signal after `milliseconds`; 0, or -1 with errno set.
static inline int chost_kvm_interrupt_after(int milliseconds, timer_t *timer) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    if (timer_create(CLOCK_MONOTONIC, &event, timer) != 0) return -1;
    struct itimerspec time = {
        .it_value = {.tv_sec = milliseconds / 1000, .tv_nsec = (long)(milliseconds % 1000) * 1000000}};
    return timer_settime(*timer, 0, &time, NULL);
}
static inline void chost_kvm_cancel_interrupt(timer_t timer) { timer_delete(timer); }
static inline int chost_thread_id(void) { return (int)syscall(SYS_gettid); }
static inline int chost_kvm_interrupt_thread(int thread) {
    return (int)syscall(SYS_tgkill, getpid(), thread, SIGRTMIN);
}
/// Enters a processor that stands and leaves it before its first instruction: interrupts of timers that have expired are in
/// its local APIC then. With `immediate_exit` KVM would not look at timers; it does before it looks at signals.
static inline int chost_kvm_deliver_timer(int vcpu, struct kvm_run *run) {
    sigset_t signal, before;
    sigemptyset(&signal);
    sigaddset(&signal, SIGRTMIN);
    pthread_sigmask(SIG_BLOCK, &signal, &before);
    // A struct kvm_signal_mask: a length, then the kernel's own signal set of eight bytes.
    uint32_t mask[3] = {sizeof(uint64_t)};
    sigdelset(&before, SIGRTMIN);
    memcpy(&mask[1], &before, sizeof(uint64_t));
    uint8_t wasRequested = run->immediate_exit;
    run->immediate_exit = 0;
    int result = ioctl(vcpu, KVM_SET_SIGNAL_MASK, mask);
    int code = errno;
    if (result == 0) {
        chost_kvm_interrupt_thread(chost_thread_id());
        result = ioctl(vcpu, KVM_RUN, 0);
        code = errno;
        const struct timespec none = {0};
        sigtimedwait(&signal, NULL, &none);
        ioctl(vcpu, KVM_SET_SIGNAL_MASK, NULL);
    }
    run->immediate_exit = wasRequested;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (result < 0 && code != EINTR) {
        errno = code;
        return -1;
    }
    return 0;
}
#endif
