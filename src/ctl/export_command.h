// SPDX-License-Identifier: MIT
// `lbd export`.
#pragma once

#include "ctl/commands.h"

namespace lbd::ctl {

// Returns the exit code; errors are told on standard error.
int run_export(const export_command& what);

}  // namespace lbd::ctl
