// SPDX-License-Identifier: MIT
// Output of commands to the terminal: results on standard output, errors on standard error.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "ctl/commands.h"

namespace lbd::ctl {

// Complete text. False when it cannot be written (a full disk, a closed pipe).
bool print(std::string_view text);

// "lbd NAME: message"; returns exit_failed, for `return fail(...)`.
int fail(std::string_view name, const base::failure& why);

// Why a command fails whose text cannot be written.
base::failure no_output();
// Prints a command's text, or tells why there is none. Returns the exit status.
int finish(std::string_view name, const base::outcome<std::string>& text);

}  // namespace lbd::ctl
