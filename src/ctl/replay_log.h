// SPDX-License-Identifier: MIT
// `lbd replay-log`: shows what a log of log-writes holds, and brings a device to a state that the
// log has seen. The words are those of the replay-log that file systems are tested with.
#pragma once

#include "ctl/commands.h"

namespace lbd::ctl {

// Returns the process's exit code.
int run_replay_log(const replay_log_command& what);

}  // namespace lbd::ctl
