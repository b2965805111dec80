// SPDX-License-Identifier: Apache-2.0
// The boot ROM and the probe of hypervisors as bytes of this program.
#pragma once

#include <stddef.h>

extern const unsigned char smolvmm_boot_rom[];
extern const unsigned char smolvmm_kvm_probe[];
extern const unsigned char smolvmm_kvm_probe_end[];

/// 64 KiB that belong at the end of the first 4 GiB of guest-physical memory.
static inline const void *smolvmm_boot_rom_start(void) { return smolvmm_boot_rom; }

/// Code for long mode, for any address.
static inline const void *smolvmm_kvm_probe_start(void) { return smolvmm_kvm_probe; }
static inline size_t smolvmm_kvm_probe_size(void) { return (size_t)(smolvmm_kvm_probe_end - smolvmm_kvm_probe); }
