// SPDX-License-Identifier: MIT
// The commands of the daemon and those that speak to it: `lbd daemon`, `lbd mount`, `lbd device …`.
#pragma once

#include "base/result.h"
#include "ctl/commands.h"

namespace CLI {
class App;
}

namespace lbd::app {

void add_daemon_commands(CLI::App& app);
// The subcommand of `lbd device` that was given.
base::outcome<ctl::command> read_device(const CLI::App& verb);
base::outcome<ctl::command> read_mount(const CLI::App& command);

base::outcome<ctl::command> read_export(const CLI::App& command);

}  // namespace lbd::app
