// SPDX-License-Identifier: Apache-2.0
// The boot ROM as bytes of this program.
#pragma once

extern const unsigned char smolvmm_boot_rom[];

/// 64 KiB that belong at the end of the first 4 GiB of guest-physical memory.
static inline const void *smolvmm_boot_rom_start(void) { return smolvmm_boot_rom; }
