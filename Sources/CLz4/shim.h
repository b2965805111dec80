// SPDX-License-Identifier: Apache-2.0
#include <lz4frame.h>
#include <lz4.h>
