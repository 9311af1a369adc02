// SPDX-License-Identifier: MIT
#pragma once

#include "ctl/commands.h"

namespace lbd::ctl {

// `lbd image …`. Returns the process's exit code.
int run_image(const image_command& what);

}  // namespace lbd::ctl
