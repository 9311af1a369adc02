// SPDX-License-Identifier: MIT
// `lbd mount`: asks a daemon to show its devices in a folder.
#pragma once

#include "ctl/commands.h"

namespace lbd::ctl {

// Returns the exit code; errors are told on standard error.
int run_mount(const mount_command& what);

}  // namespace lbd::ctl
