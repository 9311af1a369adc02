// SPDX-License-Identifier: MIT
// The commands to a running server. Each returns the exit code; errors are told on standard error.
#pragma once

#include "ctl/commands.h"

namespace lbd::ctl {

int run_ping(const ping_command& what);
int run_info(const info_command& what);
int run_shutdown(const shutdown_command& what);
int run_monitor(const monitor_command& what);
int run_add_layer(const add_layer_command& what);

}  // namespace lbd::ctl
