// SPDX-License-Identifier: MIT
// `lbd serve --table`: a daemon with one device and its exports, in one step.
#pragma once

#include "ctl/commands.h"

namespace lbd::ctl {

// REQUIRES: a table is given, and one device without layers. Returns the exit code.
int run_serve_table(const serve_command& what);

}  // namespace lbd::ctl
