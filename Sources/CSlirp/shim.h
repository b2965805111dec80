// SPDX-License-Identifier: Apache-2.0
#include <slirp/libslirp.h>
