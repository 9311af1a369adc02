// SPDX-License-Identifier: MIT
// `lbd device …`: asks a daemon, and prints the answer in the words of dmsetup, or as JSON.
#pragma once

#include "ctl/commands.h"

namespace lbd::ctl {

// Returns the exit code; errors are told on standard error.
int run_device(const device_command& what);

}  // namespace lbd::ctl
