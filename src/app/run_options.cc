// SPDX-License-Identifier: MIT
#include "app/run_options.h"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "app/options.h"

namespace lbd::app {

using base::outcome;

void add_run(CLI::App& app) {
  CLI::App& run = *app.add_subcommand(
      "run",
      "Run a program for which LBD is the kernel's device-mapper: /dev/mapper/NAME and the disk "
      "files are block devices there");
  add_value(run, "--disk", "FILE", "A file that the program sees as a block device");
  add_value(run, "--socket", "PATH",
            "The daemon's socket (default: $LBD_SOCKET, or lbd.sock in the runtime folder; where "
            "no daemon runs, one does as long as the program)");
  add_value(run, "--log-level", "LEVEL",
            "What such a daemon tells on standard error: debug, info, warn, error or off (default "
            "off)");
  // They are taken away before the options are read.
  add_words(run, "COMMAND", "The program and its arguments, behind -- if it is to be clear",
            word_count::any);
  CLI::App& dmsetup = *app.add_subcommand("dmsetup", "Short for: lbd run -- dmsetup ...");
  add_words(dmsetup, "ARGUMENTS", "Its own", word_count::any);
}

std::optional<size_t> find_program_words(const std::vector<std::string>& words) {
  if (words.empty()) return std::nullopt;
  if (words[0] == "dmsetup") return 0;
  if (words[0] != "run") return std::nullopt;
  size_t at = 1;
  while (at < words.size() && words[at].starts_with("-")) {
    if (words[at] == "--") return at + 1;
    const bool with_value =
        words[at] == "--disk" || words[at] == "--socket" || words[at] == "--log-level";
    at += with_value ? 2 : 1;
  }
  return std::min(at, words.size());
}

outcome<ctl::command> read_run(const reader& from, const std::string& name,
                               std::vector<std::string> program) {
  ctl::run_command out;
  out.command = std::move(program);
  if (name == "dmsetup") return ctl::command(std::move(out));
  if (out.command.empty()) return from.wrong("which program?");
  out.disks = from.each("disk");
  TRY(out.to.socket, from.once("socket"));
  TRY(const std::string level, from.once("log-level"));
  if (level.empty()) {
    out.log_level = base::log_level::off;
  } else {
    TRY(out.log_level, read_log_level(from));
  }
  return ctl::command(std::move(out));
}

}  // namespace lbd::app
