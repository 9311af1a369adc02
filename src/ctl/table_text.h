// SPDX-License-Identifier: MIT
// Tables as people write them: one line "START LENGTH TYPE ARGS" a target, in 512-byte sectors.
// Blank lines and lines that begin with '#' are passed over; a '#' later in a line begins a
// comment.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "stack/device_manager.h"

namespace lbd::ctl {

// Lines end with a line break, or where `semicolons` is set with ';' too. Errors (inval) name the
// line and the remedy.
base::outcome<std::vector<stack::table_line>> parse_table(std::string_view text, bool semicolons);

// "0 2048 linear 512:0 0": the line as the kernel's tools print it, with a blank after the type
// even where nothing follows. Without a line break.
std::string to_text(const stack::table_line& line);

}  // namespace lbd::ctl
