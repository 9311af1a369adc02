// SPDX-License-Identifier: MIT
#include "ctl/say.h"

#include <cstdio>

namespace lbd::ctl {

bool print(std::string_view text) {
  return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() &&
         std::fflush(stdout) == 0;
}

int fail(std::string_view name, const base::failure& why) {
  const std::string line = "lbd " + std::string(name) + ": " + why.message + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
  return exit_failed;
}

}  // namespace lbd::ctl
