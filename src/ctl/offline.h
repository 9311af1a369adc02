// SPDX-License-Identifier: MIT
// The commands on files at rest: they lock what they open, and refuse what is in use. Each returns
// the exit code; errors are told on standard error.
#pragma once

#include "ctl/commands.h"
#include "rt/runtime.h"
#include "rt/task.h"

namespace lbd::ctl {

int run_commit(const commit_command& what);
int run_flatten(const flatten_command& what);
int run_map(const map_command& what);

}  // namespace lbd::ctl
