// SPDX-License-Identifier: MIT
// The one table from a device's errors to what a program's system call returns.
#pragma once

#include "base/result.h"

namespace lbd::fuse {

// A positive errno; 0 for ok.
int errno_of(base::errc code) noexcept;

}  // namespace lbd::fuse
