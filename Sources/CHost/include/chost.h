// SPDX-License-Identifier: Apache-2.0
// What Swift cannot import from system headers: thin static inline functions, no logic.
#pragma once

#include "chost_fault.h"
#include "chost_file.h"
#include "chost_kvm.h"
#include "chost_memory.h"
#include "chost_network.h"
#include "chost_poller.h"
#include "chost_process.h"
#include "chost_ring.h"
#include "chost_socket.h"
#include "chost_twin.h"
#include "chost_vector.h"
#include "chost_wait.h"
#include "chost_x87.h"
