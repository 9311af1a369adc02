// SPDX-License-Identifier: MIT
// `lbd image …`.
#pragma once

#include "base/result.h"
#include "ctl/commands.h"

namespace CLI {
class App;
}

namespace lbd::app {

void add_image_commands(CLI::App& app);
// The subcommand of `lbd image` that was given.
base::outcome<ctl::command> read_image(const CLI::App& verb);

}  // namespace lbd::app
