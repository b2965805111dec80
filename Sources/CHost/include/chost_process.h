// SPDX-License-Identifier: Apache-2.0
// Starting programs: what C libraries show only to some.
#pragma once

/// POSIX_SPAWN_SETSID: the program leads a session of its own.
#ifdef __linux__
enum { CHOST_SPAWN_NEW_SESSION = 0x80 };
#else
enum { CHOST_SPAWN_NEW_SESSION = 0x400 };
#endif
