// SPDX-License-Identifier: MIT
// `lbd replay-log`.
#pragma once

#include "app/options.h"
#include "base/result.h"
#include "ctl/commands.h"

namespace lbd::app {

void add_replay_log(CLI::App& app);
base::outcome<ctl::command> read_replay_log(const reader& from);

}  // namespace lbd::app
