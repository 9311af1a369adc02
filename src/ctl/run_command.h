// SPDX-License-Identifier: MIT
// `lbd run`: a program for which LBD is the kernel's device-mapper.
#pragma once

#include "ctl/commands.h"

namespace lbd::ctl {

// Runs it to its end; returns its exit status, or 128 and the signal that ended it. What keeps it
// from starting is told on standard error; the status is then 126, or 127 where there is no such
// program.
int run_program(const run_command& what);

}  // namespace lbd::ctl
