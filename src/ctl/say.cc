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

base::failure no_output() { return {base::errc::io, "cannot write to standard output"}; }

int finish(std::string_view name, const base::outcome<std::string>& text) {
  if (!text) return fail(name, text.error());
  return print(*text) ? exit_ok : fail(name, no_output());
}

}  // namespace lbd::ctl
