// SPDX-License-Identifier: MIT
// Paths made absolute by their words alone: symbolic links are not followed.
#pragma once

#include <string>

namespace lbd::ctl {

// From the working directory; `path` as it is where there is none.
std::string absolute_path(const std::string& path);
// From `folder`.
std::string absolute_path(const std::string& path, const std::string& folder);

}  // namespace lbd::ctl
