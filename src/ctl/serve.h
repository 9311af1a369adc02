// SPDX-License-Identifier: MIT
// `lbd serve`.
#pragma once

#include "ctl/commands.h"

namespace lbd::ctl {

// Serves until a signal or a management request ends it; returns the exit code.
int run_serve(const serve_command& what);

}  // namespace lbd::ctl
