// SPDX-License-Identifier: Apache-2.0
// The boot ROM as bytes of this program.
#pragma once
