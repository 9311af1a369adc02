// SPDX-License-Identifier: MIT
// The command line of `lbd`: words in, a command of ctl/ out. Nothing is opened or checked on disk
// here.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "ctl/commands.h"

namespace lbd::app {

// `words` without the program's name. Errors (errc::inval) are one line that names the option and
// the remedy.
base::outcome<ctl::command> parse_command_line(const std::vector<std::string>& words);

// Every command with its options as --help shows them ("-E,--expandable"), for tests and
// completion.
struct option_entry {
  std::vector<std::string> names;  // "-E", "--expandable"
  std::string takes;               // "FILE"; empty for a flag
};
struct command_entry {
  std::string name;
  std::string about;
  std::vector<option_entry> options;
};
std::vector<command_entry> list_commands();

// A completion script for bash.
std::string bash_completion();

}  // namespace lbd::app
