// SPDX-License-Identifier: MIT
#include <cstdio>

#include "app/command_line.h"

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + (argc > 0 ? 1 : 0), argv + argc);
  const auto command = lbd::app::parse_command_line(words);
  if (!command) {
    std::fprintf(stderr, "%s\n", command.error().message.c_str());
    return lbd::ctl::exit_usage;
  }
  return lbd::ctl::run(*command);
}
