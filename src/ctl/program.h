// SPDX-License-Identifier: MIT
// Programs of others: where they lie, and whether a library can be loaded into them.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace lbd::ctl {

// The file that a command means: itself if there is a slash in it, else the first in PATH. Errors:
// noent, access.
base::outcome<std::string> find_program(const std::string& command);

// Why nothing can be loaded into this program, or into the one that its first line names: it is
// linked statically, is for another machine, or gains rights when it starts. Empty: it can.
std::string why_not_preloaded(const std::string& path);

// The library beside this program, or in the library folder next to its own. Errors: noent.
base::outcome<std::string> find_preload_library();

}  // namespace lbd::ctl
