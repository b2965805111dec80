// SPDX-License-Identifier: Apache-2.0
// Where the fuzzer starts.

import FuzzDriver

unsafe fuzz { start, count in unsafe fuzzVirtio(start, count) }
