// SPDX-License-Identifier: MIT
// `lbd daemon`, and what every process around a daemon does.
#pragma once

#include <functional>
#include <string>

#include "ctl/commands.h"
#include "ctl/daemon.h"

namespace lbd::ctl {

// Holds devices until a signal or a management request ends it; returns the exit code.
int run_daemon(const daemon_command& what);

struct daemon_process {
  std::string title;     // the command, for error lines
  std::string pid_file;  // empty: none
  runtime_choice runtime;
  base::log_level log_level = base::log_level::warn;
  // Listens, and makes what is there from the start. Returns what to print when it is ready.
  std::function<rt::task<base::outcome<std::string>>(daemon&)> begin;
};

// A daemon from its begin to a signal or a management request, and its graceful end; returns the
// exit code.
int run_daemon_process(const daemon_process& how);

}  // namespace lbd::ctl
