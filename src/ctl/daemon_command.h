// SPDX-License-Identifier: MIT
// `lbd daemon`.
#pragma once

#include "ctl/commands.h"

namespace lbd::ctl {

// Holds devices until a signal or a management request ends it; returns the exit code.
int run_daemon(const daemon_command& what);

}  // namespace lbd::ctl
